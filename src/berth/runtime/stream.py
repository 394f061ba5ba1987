"""The streams of one process: its input, its outputs, the clients that are attached, and the log.

    process stdout ──> Output ──┬──> log file
    process stderr ──> Output ──┴──> Client.send ──> socket      (framed: 1 or 2, three zeros, length in 4 bytes, data)
    process stdin  <── Input  <── detach keys <── Client socket

Back-pressure: while a client has unsent output, nothing more is read from the process, so a client that is slow slows the
process, as with Docker; one that has gone is dropped. While the process does not read its input, no client is read.
Lean code.
"""

from __future__ import annotations

import _socket
import fcntl
import os
from _struct import pack

from berth.runtime.loop import HANG_UP, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.runtime.logfile import LogFile
    from berth.runtime.loop import Loop

CHUNK = 65536
_TIOCSWINSZ = 0x5414
# What a client may have queued once its process has ended: what is left in the pipes then is lost to it otherwise.
_QUEUE_AFTER_END = 1 << 20
_LAST_ANSWER_SECONDS = 0.25
_NAMES = {1: "stdout", 2: "stderr"}


def frame(number: int, data: bytes) -> bytes:
    """The header of a frame: `number` is 1 for stdout, 2 for stderr."""
    return pack(">B3xI", number, len(data))


def set_window(fd: int, height: int, width: int) -> None:
    """The size of a terminal, in characters."""
    fcntl.ioctl(fd, _TIOCSWINSZ, pack("4H", height, width, 0, 0))


def hang_up(sock: _socket.socket) -> None:
    """Close a connection so that the peer reads the end.

    Closing a unix socket whose receive queue holds data would give the peer ECONNRESET instead.
    """
    try:
        sock.setblocking(False)
        sock.shutdown(_socket.SHUT_RDWR)
        while sock.recv(CHUNK):
            pass
    except OSError:
        pass
    sock.close()


class DetachScanner:
    """Finds the key sequence that detaches in a client's input. What may be its beginning is held back until it is not."""

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def scan(self, data: bytes) -> tuple[bytes, bool]:
        """What goes to the process, and whether the client detaches (what follows the keys is dropped)."""
        keys = self._keys
        if not keys:
            return data, False
        text = self._held + data
        found = text.find(keys)
        if found >= 0:
            self._held = b""
            return text[:found], True
        for length in range(min(len(keys) - 1, len(text)), 0, -1):
            if text.endswith(keys[:length]):
                self._held = text[-length:]
                return text[:-length], False
        self._held = b""
        return text, False

    def rest(self) -> bytes:
        """What is held back, when the input has ended."""
        held, self._held = self._held, b""
        return held


class Input:
    """The standard input of the process: a pipe, or a duplicate of the terminal."""

    def __init__(self, loop: Loop, fd: int, relax: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._relax = relax
        self._queue = bytearray()
        self._ending = False

    @property
    def full(self) -> bool:
        """Whether the process has not yet read what was written: clients have to wait."""
        return bool(self._queue)

    def write(self, data: bytes) -> None:
        """Pass on what a client wrote. Dropped when the process has closed its input."""
        if self._fd < 0 or self._ending:
            return
        if not self._queue:
            data = data[self._write(data) :]
        if data:
            self._queue += data
            self._flush(0)

    def end(self) -> None:
        """Close it after what is queued."""
        self._ending = True
        self._flush(0)

    def close(self) -> None:
        """Close it now."""
        self._queue.clear()
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes | bytearray) -> int:
        """As much as the process takes now; all of it when there is nobody to read it any more."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            # The process has closed its end, or the terminal has gone.
            self.close()
            return len(data)

    def _flush(self, _: int) -> None:
        while self._queue:
            taken = self._write(self._queue)
            if not taken and self._fd >= 0:
                if not self._loop.watches(self._fd):
                    self._loop.watch(self._fd, WRITE, self._flush)
                return
            del self._queue[:taken]
        if self._fd >= 0:
            self._loop.forget(self._fd)
            if self._ending:
                self.close()
        self._relax()


class Client:
    """A connection that is attached to a process. It owns the descriptor, which must be a stream socket."""

    def __init__(self, session: Session, fd: int, stdin: bool, outputs: tuple[int, ...], framed: bool, keys: bytes) -> None:
        self._sock = _socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._session = session
        self._fd = fd
        self._outputs = outputs
        self._framed = framed
        self._scanner = DetachScanner(keys)
        self._queue = bytearray()
        self._closing = False
        self.writes = stdin
        self._reading = stdin
        session.loop.watch(fd, 0, self._on_event)

    @property
    def queued(self) -> int:
        """Bytes that it has not taken yet."""
        return len(self._queue)

    def begin(self, pending: bytes) -> None:
        """Take what it had sent before, then start to read."""
        if self.writes and pending:
            self._take(pending)
        self.update()

    def update(self) -> None:
        """Watch for what is wanted at present."""
        if self._fd >= 0:
            wanted = READ if self._reading and not self._session.input_full else 0
            self._session.loop.change(self._fd, wanted | (WRITE if self._queue else 0))

    def send(self, number: int, data: bytes) -> None:
        """Output of the process."""
        if number not in self._outputs or self._fd < 0:
            return
        parts = [frame(number, data), data] if self._framed else [data]
        if self._queue:
            self._queue += b"".join(parts)
            return
        try:
            sent = self._sock.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._gone()
            return
        if sent < len(data) + (8 if self._framed else 0):
            self._queue += b"".join(parts)[sent:]
            self.update()

    def finish(self) -> None:
        """The process has ended: close the connection after what is queued."""
        self._closing = True
        self._reading = False
        if self._queue:
            self.update()
        else:
            self.close()

    def close(self) -> None:
        """Close the connection now."""
        if self._fd < 0:
            return
        self._session.loop.forget(self._fd)
        self._fd = -1
        hang_up(self._sock)
        self._queue.clear()
        self._session.remove(self)

    def _on_event(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if self._fd >= 0 and mask & READ and self._reading:
            self._read()
        if self._fd >= 0 and mask & HANG_UP:
            self._gone()

    def _flush(self) -> None:
        try:
            del self._queue[: self._sock.send(self._queue)]
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        if not self._queue:
            if self._closing:
                self.close()
                return
            self.update()
        self._session.relax()

    def _read(self) -> None:
        try:
            data = self._sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
            self.update()
        else:
            self._ended()

    def _take(self, data: bytes) -> None:
        text, detach = self._scanner.scan(data)
        if text:
            self._session.write(text)
        if detach:
            self._reading = self.writes = False
            self._session.detached()
            self.close()

    def _ended(self) -> None:
        """The client will not write any more (half-closed or gone)."""
        self._reading = self.writes = False
        rest = self._scanner.rest()
        if rest:
            self._session.write(rest)
        self.update()
        if not self._session.input_ended():
            # This ends the attachment, as in Docker; what the process answers to the last of its input still comes.
            self._session.loop.after(_LAST_ANSWER_SECONDS, self._let_go)

    def _let_go(self) -> None:
        if self._fd >= 0:
            self.finish()
            self._session.gone()

    def _gone(self) -> None:
        """Both directions are closed: deliver what it had still written, then let go."""
        self._queue.clear()
        self._outputs = ()
        if self._reading:
            try:
                # At most what the socket's buffer held.
                while data := self._sock.recv(CHUNK):
                    self._take(data)
            except OSError:
                pass
            if self._fd >= 0:
                self._ended()
        self.close()
        self._session.gone()


class Session:
    """The streams of one process from its start to its end.

    `outputs` are (number, descriptor) with 1 for stdout (or a terminal) and 2 for stderr. `on_detach` is called when a client
    detaches, `on_end` once the process has ended and all of its output is in the log, `on_gone` when the last client has closed
    its connection before that.
    """

    def __init__(
        self,
        loop: Loop,
        outputs: list[tuple[int, int]],
        stdin: int | None,
        *,
        log: LogFile | None = None,
        terminal: int | None = None,
        stdin_once: bool = False,
        on_detach: Callable[[], None],
    ) -> None:
        self.loop = loop
        self._log = log
        self._terminal = terminal
        self._stdin_once = stdin_once
        self._on_detach = on_detach
        self._on_end: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self._clients: list[Client] = []
        self._outputs = dict(outputs)
        self._ended = False
        self._exited = False
        self._input = Input(loop, stdin, self._input_drained) if stdin is not None else None
        for number, fd in outputs:
            os.set_blocking(fd, False)
            self._watch(number, fd)

    @property
    def input_full(self) -> bool:
        """Whether clients have to wait with their input."""
        return self._input is not None and self._input.full

    @property
    def busy(self) -> bool:
        """Whether a client has still to get output."""
        return any(client.queued for client in self._clients)

    def attach(self, fd: int, *, stdin: bool, stdout: bool, stderr: bool, framed: bool, pending: bytes, keys: bytes) -> None:
        """Add a client; it is closed at once when the process has ended."""
        outputs = ((1,) if stdout else ()) + ((2,) if stderr else ())
        terminal = self._terminal is not None
        takes = stdin and self._input is not None
        try:
            client = Client(self, fd, takes, outputs, framed, keys if terminal else b"")
        except OSError:
            os.close(fd)
            raise
        self._clients.append(client)
        if self._ended:
            client.finish()
        else:
            client.begin(pending)

    def resize(self, height: int, width: int) -> bool:
        """The size of the terminal; whether there is one."""
        if self._terminal is None:
            return False
        set_window(self._terminal, height, width)
        return True

    def write(self, data: bytes) -> None:
        """Input for the process."""
        if self._input is not None:
            self._input.write(data)

    def detached(self) -> None:
        """A client has sent its detach keys."""
        self._on_detach()

    def input_ended(self) -> bool:
        """A client that writes has ended its input. Whether it stays attached: as in Docker, where that ends the process's."""
        if self._stdin_once and self._terminal is None and self._input is not None:
            self._input.end()
            return True
        return False

    def gone(self) -> None:
        """A client has closed its connection, without its detach keys. Was it the last, nobody is there for the process."""
        if self.on_gone is not None and not self._clients and not self._exited:
            told, self.on_gone = self.on_gone, None
            told()

    def remove(self, client: Client) -> None:
        """A client has been closed."""
        if client in self._clients:
            self._clients.remove(client)
        self.relax()

    def relax(self) -> None:
        """Read on, when no client has unsent output any more."""
        if not self._stalled():
            for number, fd in list(self._outputs.items()):
                if not self.loop.watches(fd):
                    self._watch(number, fd)

    def exited(self, grace: float, on_end: Callable[[], None]) -> None:
        """The process has ended. `on_end` comes when its outputs have, or after `grace` seconds if another process holds them."""
        self._exited = True
        self._on_end = on_end
        if self._input is not None:
            self._input.close()
        self.relax()
        if self._outputs:
            self.loop.after(grace, self._end)
        else:
            self._end()

    def close_outputs(self) -> None:
        """Take what is there and close, although a process may still hold the other ends."""
        for number, fd in list(self._outputs.items()):
            for _ in range(64):
                if not self._read(number, fd):
                    break
            self._close(number, fd)

    def _stalled(self) -> bool:
        limit = _QUEUE_AFTER_END if self._exited else 0
        return any(client.queued > limit for client in self._clients)

    def _watch(self, number: int, fd: int) -> None:
        self.loop.watch(fd, READ, lambda _mask: self._pump(number, fd))

    def _pump(self, number: int, fd: int) -> None:
        self._read(number, fd)
        if self._stalled():
            # Not even hang-up may be watched meanwhile: it is level-triggered.
            for other in self._outputs.values():
                self.loop.forget(other)

    def _read(self, number: int, fd: int) -> bool:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            # A terminal without any process on it reads as EIO.
            data = b""
        if not data:
            self._hung_up(number, fd)
            return False
        if self._log is not None:
            self._log.write(_NAMES[number], data)
        for client in list(self._clients):
            client.send(number, data)
        return True

    def _hung_up(self, number: int, fd: int) -> None:
        if self._terminal is not None and not self._exited:
            # All processes have closed the terminal, and one may open it again.
            self.loop.forget(fd)
            self.loop.after(0.2, self.relax)
            return
        self._close(number, fd)
        if self._exited and not self._outputs:
            self._end()

    def _close(self, number: int, fd: int) -> None:
        if self._outputs.pop(number, None) is None:
            return
        self.loop.forget(fd)
        os.close(fd)
        if self._terminal == fd:
            self._terminal = None
        if self._log is not None:
            self._log.finish(_NAMES[number])

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        clients, on_end = list(self._clients), self._on_end
        if on_end is not None:
            on_end()
        for client in clients:
            client.finish()

    def _input_drained(self) -> None:
        for client in self._clients:
            client.update()
