"""The engine's side of the resolver: starts it when it is not there, tells it what containers are called, and tells it again
when it had to be started anew.

Messages are JSON documents on a SEQPACKET connection (network.resolver has the other side and the description).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from array import array
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from berth.errors import BerthError, Unavailable

log = logging.getLogger(__name__)

Spawn = Callable[[str, Sequence[str], Sequence[int]], Awaitable[int]]
_MODULE = "berth.network.resolver"


class ResolverRecord(msgspec.Struct, kw_only=True):
    """What DNS knows of a container. `networks`: id to (name of the network, names of the container in it, its addresses).
    `links`: its own names for others. `forward`: whether queries for other names go out; `upstreams` instead of the host's."""

    networks: dict[str, tuple[str, list[str], list[str]]] = msgspec.field(default_factory=dict)
    links: dict[str, str] = msgspec.field(default_factory=dict)
    forward: bool = True
    upstreams: list[str] = msgspec.field(default_factory=list)


class ResolverClient:
    """One per engine. Calls before `ensure` are remembered and sent then."""

    def __init__(self, path: str, spawn: Spawn) -> None:
        self._path = path
        self._spawn = spawn
        self._socket: socket.socket | None = None
        self._records: dict[str, ResolverRecord] = {}
        self._lock = asyncio.Lock()
        self._closed = False
        self.restarted: Callable[[], Awaitable[None]] | None = None

    async def ensure(self) -> None:
        """Be connected, starting the resolver when nobody answers. Unavailable when it cannot be started."""
        async with self._lock:
            if self._socket is not None:
                return
            sock = self._connect()
            if sock is None:
                await self._start()
                sock = self._connect()
            if sock is None:
                raise Unavailable(f"the DNS resolver at {self._path} does not answer: see the engine's log")
            self._socket = sock
            asyncio.get_running_loop().add_reader(sock.fileno(), self._gone)
            self._send_all()

    def _connect(self) -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            return None
        sock.settimeout(2)
        return sock

    async def _start(self) -> None:
        """The listening socket is made here and handed over, so that connecting works before the process is up."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
            listener.bind(self._path)
            os.chmod(self._path, 0o600)
            listener.listen(512)
            await self._spawn(_MODULE, [self._path], [listener.fileno()])

    def _gone(self) -> None:
        """The resolver never sends: readable means that it has ended."""
        self._drop_connection()
        if not self._closed and self._records:
            log.warning("the DNS resolver has ended: it is started again")
            task = asyncio.ensure_future(self._again())
            task.add_done_callback(lambda _: None)

    async def _again(self) -> None:
        try:
            await self.ensure()
            if self.restarted:
                await self.restarted()
        except (BerthError, OSError) as error:
            log.error("the DNS resolver could not be started again: %s", error)

    def _drop_connection(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _send(self, document: dict[str, object], fds: Sequence[int] = ()) -> None:
        if self._socket is None:
            return
        data = msgspec.json.encode({"v": 1, **document})
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], rights)
        except OSError as error:
            # It has ended, or has not read for two seconds (a TimeoutError has no number).
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EAGAIN, None):
                raise
            self._gone()

    def _send_all(self) -> None:
        self._send({"op": "begin"})
        for container, record in self._records.items():
            self._send({"op": "records", "container": container, "record": record})
        self._send({"op": "commit"})

    def put(self, container: str, record: ResolverRecord) -> None:
        """What a container is called, in place of what was said before."""
        self._records[container] = record
        self._send({"op": "records", "container": container, "record": record})

    def drop(self, container: str) -> None:
        """A container has no names any more. Idempotent."""
        if self._records.pop(container, None) is not None:
            self._send({"op": "drop", "container": container})

    def replace_all(self, records: dict[str, ResolverRecord]) -> None:
        """All containers at once: what is not among them is forgotten."""
        self._records = dict(records)
        self._send_all()

    def serve(self, container: str, fds: Sequence[int]) -> None:
        """Hand over sockets (UDP, TCP) made in a container's namespace, and a pidfd: served until the process ends."""
        self._send({"op": "serve", "container": container}, fds)

    async def quit(self) -> None:
        """End the resolver, when it is there."""
        self._closed = True
        if self._socket is None:
            self._socket = self._connect()
            if self._socket is None:
                return
            asyncio.get_running_loop().add_reader(self._socket.fileno(), lambda: None)
        self._send({"op": "quit"})
        self._drop_connection()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Let go of it; it goes on."""
        self._closed = True
        if self._socket is not None:
            self._drop_connection()
