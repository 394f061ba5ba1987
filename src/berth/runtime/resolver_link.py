"""The shim's connection to the resolver: hands over the container's DNS sockets, again whenever the resolver is a new one.

shim -> resolver   {"v": 1, "op": "serve", "container": id}  with the sockets of 127.0.0.11 in the container
and the connection stays open: the resolver serves the sockets until it closes.  Lean code.
"""

from __future__ import annotations

import _socket

from berth.runtime import channel
from berth.runtime.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.runtime.loop import Loop

_FIRST_DELAY = 1.0
_LONGEST_DELAY = 5.0


def connect(path: str, container: str, fds: list[int]) -> _socket.socket | None:
    """Hand the sockets over; the connection to keep, or None when there is no resolver."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
        channel.send(sock, {"op": "serve", "container": container}, fds)
    except OSError:
        sock.close()
        return None
    return sock


class ResolverLink:
    """Keeps the sockets served as long as it is open. `link` is a connection on which they have been handed over, or -1."""

    def __init__(self, loop: Loop, path: str, container: str, fds: list[int], link: int = -1) -> None:
        self._loop = loop
        self._path = path
        self._container = container
        self._fds = fds
        self._sock: _socket.socket | None = None
        self._delay = _FIRST_DELAY
        self._open = True
        if link >= 0:
            self._keep(_socket.socket(fileno=link))
        else:
            self._connect()

    def close(self) -> None:
        """The container has ended."""
        self._open = False
        self._drop()
        channel.close_all(self._fds)
        self._fds = []

    def _connect(self) -> None:
        if not self._open:
            return
        sock = connect(self._path, self._container, self._fds)
        if sock is None:
            self._retry()
        else:
            self._keep(sock)

    def _keep(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._loop.watch(sock.fileno(), READ, self._on_event)

    def _retry(self) -> None:
        self._loop.after(self._delay, self._connect)
        self._delay = min(self._delay * 2, _LONGEST_DELAY)

    def _on_event(self, _mask: int) -> None:
        if self._sock is None:
            return
        try:
            if self._sock.recv(4096):
                # An answer: the resolver is there.
                self._delay = _FIRST_DELAY
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop()
        self._retry()

    def _drop(self) -> None:
        if self._sock is not None:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
