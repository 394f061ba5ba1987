"""The engine's side of the proxy: hands it the sockets of published ports, and makes them anew when it had to be started again.

network.proxy has the other side and the description of the messages.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Mapping

from berth.network.helper import Helper, Spawn
from berth.network.port import bind, join

log = logging.getLogger(__name__)

Name = tuple[str, str, int]
Target = tuple[str, int]
_BACKLOG = 4096
_PATIENCE = 2.0


class ProxyClient:
    """One per engine. A port that is served is taken from then on; `ready` or `start_soon` see to the process."""

    def __init__(self, path: str, spawn: Spawn) -> None:
        self._targets: dict[Name, Target | None] = {}
        self._waiting: dict[Name, tuple[int, ...]] = {}
        self._closing: list[int] = []
        self._helper = Helper(
            "berth.network.proxy", "proxy of published ports", path, spawn, self._tell, lambda: bool(self._targets)
        )

    def serve(self, name: Name, target: Target | None, sock: socket.socket, lifeline: socket.socket | None = None) -> None:
        """From now on what comes to the bound socket goes to the target, until the other end of the lifeline is closed. Both
        remain the caller's to close."""
        _listen(sock)
        fds = tuple(os.dup(part.fileno()) for part in (sock, lifeline) if part is not None)
        self._targets[name] = target
        if self._helper.send({"op": "serve", "port": name, "target": target}, fds):
            _close(fds)
            return
        _close(self._waiting.pop(name, ()))
        self._waiting[name] = fds

    def start_soon(self) -> None:
        """`ready`, for those who cannot wait."""
        if self._waiting:
            self._helper.ensure_soon()

    def lead(self, name: Name, target: Target | None) -> None:
        """What is to come goes elsewhere."""
        if name in self._targets:
            self._targets[name] = target
            self._helper.send({"op": "lead", "port": name, "target": target})

    def drop(self, name: Name) -> None:
        """Close a port; connections that there are go on. Idempotent."""
        _close(self._waiting.pop(name, ()))
        if name not in self._targets:
            return
        del self._targets[name]
        done, theirs = os.pipe()
        sent = self._helper.send({"op": "drop", "port": name}, (theirs,))
        os.close(theirs)
        if sent:
            self._closing.append(done)
        else:
            os.close(done)

    def settle(self) -> None:
        """Wait until the ports that were dropped are free on the host, mostly not at all."""
        closing, self._closing = self._closing, []
        deadline = time.monotonic() + _PATIENCE
        for fd in closing:
            # Closed by the proxy when the port is, and by the kernel when the proxy has ended.
            select.select([fd], [], [], max(deadline - time.monotonic(), 0))
            os.close(fd)

    async def replace_all(self, targets: Mapping[Name, Target | None]) -> None:
        """The ports that an earlier engine served and that are still to be; no others."""
        self._targets = dict(targets)
        await self._helper.ensure(start=bool(self._targets))

    async def ready(self) -> None:
        """The process is there if a port needs it. Unavailable when it cannot be started."""
        if self._waiting:
            await self._helper.ensure()

    def _tell(self, new: bool) -> None:
        if not new:
            self._helper.send({"op": "begin"})
        waiting, self._waiting = self._waiting, {}
        for name, target in list(self._targets.items()):
            fds = waiting.pop(name, ())
            if fds or new:
                self._hand_over(name, target, fds)
            else:
                self._helper.send({"op": "keep", "port": name, "target": target})
        for fds in waiting.values():
            _close(fds)
        if not new:
            self._helper.send({"op": "commit"})

    def _hand_over(self, name: Name, target: Target | None, fds: tuple[int, ...]) -> None:
        if not fds:
            # The process that had the socket has gone, and the port is free again, for a moment.
            try:
                with bind(*name) as sock:
                    _listen(sock)
                    fds = (sock.detach(),)
            except OSError as error:
                log.warning("the proxy cannot take port %s/%s: %s", join(name[1], name[2]), name[0], error)
                return
        self._helper.send({"op": "serve", "port": name, "target": target}, fds)
        _close(fds)

    async def quit(self) -> None:
        """End the proxy, when it is there."""
        await self._helper.quit()
        self._let_go()

    def close(self) -> None:
        """Let go of it; it goes on."""
        self._helper.close()
        self._let_go()

    def _let_go(self) -> None:
        for fds in self._waiting.values():
            _close(fds)
        self._waiting = {}
        _close(tuple(self._closing))
        self._closing = []


def _listen(sock: socket.socket) -> None:
    if sock.type == socket.SOCK_STREAM:
        # Inherited by the connections: those that linger when the port has been closed are no obstacle to binding it again.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.listen(_BACKLOG)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
