"""A shim's end of a connection to an engine: requests come in, answers and events go out without blocking. Lean code."""

from __future__ import annotations

import os

from berth.runtime import channel
from berth.runtime.loop import HANG_UP, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence

    from berth.runtime.channel import Message
    from berth.runtime.loop import Loop

    Handler = Callable[["Connection", Message, list[int]], None]

_LONGEST_QUEUE = 1000
NO_DESCRIPTORS = {
    "kind": "ResourceExhausted",
    "message": "too many open files in the container's shim: end some of its execs and attached clients, or raise the limit that "
    "berthd is started with",
}


class Connection:
    """Calls `on_message` for each request, `on_close` once when the engine has gone."""

    def __init__(self, loop: Loop, sock: _socket.socket, on_message: Handler, on_close: Callable[[Connection], None]) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_close = on_close
        self._queue: list[tuple[Message, list[int]]] = []
        loop.watch(self._fd, READ, self._on_event)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, or queue while the engine does not read; an engine that never does is dropped."""
        if self._fd < 0:
            return
        if not self._queue:
            try:
                channel.send(self._sock, message, fds)
                return
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        if len(self._queue) >= _LONGEST_QUEUE:
            self.close()
            return
        self._queue.append((message, [os.dup(fd) for fd in fds]))
        self._loop.change(self._fd, READ | WRITE)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._fd < 0:
            return
        self._loop.forget(self._fd)
        self._fd = -1
        self._sock.close()
        for _, fds in self._queue:
            channel.close_all(fds)
        self._queue.clear()
        self._on_close(self)

    def _on_event(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if self._fd >= 0 and mask & (READ | HANG_UP):
            self._read()

    def _flush(self) -> None:
        while self._queue:
            message, fds = self._queue[0]
            try:
                channel.send(self._sock, message, fds)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            channel.close_all(fds)
            self._queue.pop(0)
        self._loop.change(self._fd, READ)

    def _read(self) -> None:
        try:
            received = channel.receive(self._sock)
        except BlockingIOError:
            return
        except channel.NewerVersion as newer:
            self.send({"id": newer.id, "error": {"kind": "Unavailable", "message": f"the container's shim got {newer}"}})
            return
        except channel.Cut as cut:
            self.send({"id": cut.message.get("id"), "error": NO_DESCRIPTORS})
            return
        except (OSError, channel.ChannelError):
            received = None
        if received is None:
            self.close()
        else:
            self._on_message(self, *received)
