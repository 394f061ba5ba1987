"""The terminal and the signals of a process that this command waits for, and the socket that takes a terminal instead."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Socket
from select import POLLIN, poll
from struct import pack

from berth.errors import InvalidArgument
from berth.kernel import process, terminal
from berth.runtime import process_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

_SCM_RIGHTS = 1
# Not those that tell of us, our children or our terminal alone, nor those that cannot be caught.
_KEPT = (9, 17, 19, 20, 21, 22, 23, 28)
_WINCH = 28


def check(wanted: bool, socket: str, detached: bool) -> None:
    """InvalidArgument where a terminal would have no other end, or a socket no terminal."""
    if wanted and detached and not socket:
        raise InvalidArgument("cannot allocate tty if berth-runtime will detach without setting console socket")
    if socket and not (wanted and detached):
        raise InvalidArgument("cannot use console socket if berth-runtime will not detach or allocate tty")


def hand_over(master: int, path: str) -> None:
    """Send the terminal's master to whoever listens, and let go of it."""
    sock = Socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.connect(path)
        sock.sendmsg([b"/dev/ptmx"], [(SOL_SOCKET, _SCM_RIGHTS, pack("i", master))])
    except OSError as error:
        raise InvalidArgument(f"console socket {path}: {(error.strerror or '').lower()}") from None
    finally:
        sock.close()
        os.close(master)


def hold_signals() -> None:
    """Before the process exists that shall have them: they wait until `attend`."""
    process.block_signals()


def attend(pid: int, master: int | None) -> int:
    """Wait for our child `pid`; signals go to it, and between our terminal and its own what is typed and printed. Its code."""
    for number in range(1, 32):
        if number not in _KEPT:
            _signal.signal(number, lambda received, _frame: _pass_on(pid, received))
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    if master is not None:
        _relay(master)
    _, status = os.waitpid(pid, 0)
    return process_exit.code_of_status(status)


def _pass_on(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _relay(master: int) -> None:
    """Between our terminal, in raw mode, and the container's, until that one ends."""
    import termios
    import tty

    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        tty.setraw(0)
        _resize(master)
        _signal.signal(_WINCH, lambda _received, _frame: _resize(master))
    waiter = poll()
    waiter.register(0, POLLIN)
    waiter.register(master, POLLIN)
    try:
        while True:
            ready = dict(waiter.poll())
            if master in ready and not _copy(master, 1):
                return
            if 0 in ready and not _copy(0, master):
                waiter.unregister(0)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _resize(master: int) -> None:
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return
    terminal.set_size(master, size.lines, size.columns)


def _copy(source: int, target: int) -> bool:
    try:
        data = os.read(source, 65536)
    except OSError:
        # the other side of a terminal has gone
        return False
    if not data:
        return False
    while data:
        data = data[os.write(target, data) :]
    return True
