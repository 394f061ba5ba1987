"""The engine's side of a helper process (the resolver, the proxy): finds it or starts it, and starts it again when it has ended.

A helper is forked by the launcher, listens on a SEQPACKET socket in the run directory and outlives the engine. Messages are JSON
documents with descriptors (network.control has the other side). It never answers: readable means that it has ended.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from array import array
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec

from berth.errors import BerthError, Unavailable

log = logging.getLogger(__name__)

Spawn = Callable[[str, Sequence[str], Sequence[int]], Awaitable[int]]


class Helper:
    """One process. `what` names it to people; `tell` sends everything that it has to know (its argument: whether the process is a
    new one); `needed` says whether it is worth starting again; `restarted` is awaited after that."""

    def __init__(
        self, module: str, what: str, path: str, spawn: Spawn, tell: Callable[[bool], None], needed: Callable[[], bool]
    ) -> None:
        self._module = module
        self._what = what
        self._path = path
        self._spawn = spawn
        self._tell = tell
        self._needed = needed
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self.restarted: Callable[[], Awaitable[None]] | None = None

    async def ensure(self, *, start: bool = True) -> None:
        """Be connected, starting the process when nobody answers, unless `start` is false. Unavailable when it cannot be
        started."""
        async with self._lock:
            if self._socket is not None or self._closed:
                return
            sock = self._connect()
            new = sock is None
            if sock is None and not start:
                return
            if sock is None:
                await self._start()
                sock = self._connect()
            if sock is None:
                raise Unavailable(f"the {self._what} at {self._path} does not answer: see the engine's log")
            self._socket = sock
            asyncio.get_running_loop().add_reader(sock.fileno(), self._gone)
            self._tell(new)

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
            await self._spawn(self._module, [self._path], [listener.fileno()])

    def _gone(self) -> None:
        self._drop_connection()
        if not self._closed and self._needed():
            log.warning("the %s has ended: it is started again", self._what)
            self.ensure_soon()
        elif not self._closed:
            self._sweep()

    def _sweep(self) -> None:
        """Take away the socket of a process that has ended."""
        sock = self._connect()
        if sock is not None:
            sock.close()
            return
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def ensure_soon(self) -> None:
        """`ensure` in the background; trouble is logged."""
        task = asyncio.ensure_future(self._again())
        task.add_done_callback(lambda _: None)

    async def _again(self) -> None:
        try:
            await self.ensure()
            if self.restarted:
                await self.restarted()
        except (BerthError, OSError) as error:
            log.error("the %s could not be started: %s", self._what, error)

    def _drop_connection(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def send(self, document: dict[str, object], fds: Sequence[int] = ()) -> bool:
        """False when there is no process to take it: it will be told everything once there is one."""
        if self._socket is None:
            return False
        data = msgspec.json.encode({"v": 1, **document})
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], rights)
        except OSError as error:
            # It has ended, or has not read for two seconds (a TimeoutError has no number).
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EAGAIN, None):
                raise
            self._gone()
            return False
        return True

    async def quit(self) -> None:
        """End the process, when it is there."""
        self._closed = True
        if self._socket is None:
            self._socket = self._connect()
            if self._socket is None:
                return
            asyncio.get_running_loop().add_reader(self._socket.fileno(), lambda: None)
        self.send({"op": "quit"})
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
