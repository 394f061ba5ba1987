"""The user's terminal joined to a container's streams: raw mode, window size, signals, detach keys.

The main thread copies the container's output; a second thread copies standard input, so that neither can block the other.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from berth.client.stream import STDERR, Hijacked
from berth.errors import BerthError, InvalidArgument

# A process that is the first of its container ignores signals that it has no handler for: this many, and we leave alone.
_PATIENCE = 3
Resize = Callable[[int, int], None]


def is_terminal(fd: int = 0) -> bool:
    """Whether the descriptor is a terminal."""
    return os.isatty(fd)


def size() -> tuple[int, int]:
    """(height, width) in characters, (0, 0) when there is no terminal."""
    try:
        columns, lines = os.get_terminal_size(1 if os.isatty(1) else 0)
    except OSError:
        return 0, 0
    return lines, columns


@contextmanager
def raw_mode(enabled: bool) -> Iterator[None]:
    """Keys go to the container as they are typed; the terminal is as before afterwards."""
    if not enabled or not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def follow_size(resize: Resize, enabled: bool) -> Iterator[None]:
    """Tell the container the window's size now and whenever it changes."""
    if not enabled:
        yield
        return

    def tell(_number: int = 0, _frame: FrameType | None = None) -> None:
        height, width = size()
        if height and width:
            try:
                resize(height, width)
            except BerthError:
                pass  # The container has just ended, or not begun.

    before = signal.signal(signal.SIGWINCH, tell)
    tell()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextmanager
def proxy_signals(kill: Callable[[str], None], enabled: bool) -> Iterator[None]:
    """Signals that we get are sent on to the container."""
    if not enabled:
        yield
        return

    ends = 0

    def send(number: int, _frame: FrameType | None) -> None:
        nonlocal ends
        ends += number in (signal.SIGINT, signal.SIGTERM)
        if ends == _PATIENCE:
            print(f"berth: got {_PATIENCE} signals to end, leaving; the process goes on: berth kill ends it", file=sys.stderr)
            raise KeyboardInterrupt
        try:
            kill(signal.Signals(number).name)
        except BerthError:
            pass  # It has ended meanwhile; our own end follows.

    proxied = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, send) for number in proxied}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def key_sequence(text: str | None) -> bytes:
    """The bytes of detach keys such as `ctrl-p,ctrl-q` (the default) or `a,b`."""
    out = bytearray()
    for key in (text or "ctrl-p,ctrl-q").split(","):
        if key.startswith("ctrl-") and len(key) == 6:
            out.append(ord(key[5].upper()) & 0x1F)
        elif len(key) == 1:
            out.append(ord(key))
        else:
            raise InvalidArgument(f"invalid detach keys ({text}): give single characters or ctrl-<letter>, separated by commas")
    return bytes(out)


class Input:
    """Standard input on its way to the container; remembers whether its last bytes were the detach keys."""

    def __init__(self, stream: Hijacked, keys: bytes) -> None:
        self._stream = stream
        self._keys = keys
        self._tail = b""

    @property
    def detached(self) -> bool:
        """Whether the user has just typed the detach keys."""
        return self._tail == self._keys

    def copy(self) -> None:
        """Until the end of standard input, or of the connection."""
        while True:
            try:
                data = os.read(0, 65536)
            except OSError:
                data = b""
            if not data:
                self._stream.half_close()
                return
            self._tail = (self._tail + data)[-len(self._keys) :]
            try:
                self._stream.send(data)
            except OSError:
                return


def join(stream: Hijacked, *, stdin: bool, detach_keys: str | None = None) -> bool:
    """Copy both ways until the engine closes its side. True when the user detached and the process goes on."""
    source = Input(stream, key_sequence(detach_keys))
    if stdin:
        threading.Thread(target=source.copy, daemon=True).start()
    for number, data in stream.frames():
        target = sys.stderr.buffer if number == STDERR else sys.stdout.buffer
        target.write(data)
        target.flush()
    return stdin and source.detached
