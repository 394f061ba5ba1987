"""The engine's side of trees: a worker per tree, requests one after another, tars streamed over socket pairs.

Workers are forked by a parent that the launcher forks when a tree is opened and none is there; it ends when it is idle.

A stream is a socket pair of its own, whose other end goes to the worker with the request; the kernel's buffers are all that
is in flight. Leaving the context waits until the worker has unmounted what it mounted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from berth import errors
from berth.contract.store import ByteStream, PathStat
from berth.errors import BerthError, Conflict, Internal
from berth.model.rootfs import Overlay

Spawn = Callable[[str, Sequence[str], Sequence[int]], Awaitable[int]]
WORKER = "berth.storage.worker"
_LONGEST = 1 << 17
_PIECE = 1 << 18
_BUFFER = 1 << 20
_GOODBYE = 20.0


class TreeStore:
    """Implements contract.store.Trees. `spawn` is Runtime.spawn."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._parent: socket.socket | None = None
        self._starting = asyncio.Lock()

    def close(self) -> None:
        """Let go of the workers' parent; trees that are open stay so."""
        if self._parent is not None:
            self._parent.close()
            self._parent = None

    def of_pid(self, pid: int, uid_base: int) -> contextlib.AbstractAsyncContextManager[WorkerTree]:
        """The tree of a running container. NotFound when it has ended."""
        return self._open(["pid", str(pid), str(uid_base)])

    def of_overlay(
        self, overlay: Overlay, binds: tuple[tuple[str, str, str], ...] = ()
    ) -> contextlib.AbstractAsyncContextManager[WorkerTree]:
        """The tree of a container that does not run, or of an image. Not for one whose upper directory is mounted already."""
        description = {**msgspec.to_builtins(overlay), "binds": binds}
        return self._open(["overlay", json.dumps(description)])

    @contextlib.asynccontextmanager
    async def _open(self, arguments: list[str]) -> AsyncIterator[WorkerTree]:
        tree = await self._enter(arguments)
        try:
            yield tree
        finally:
            await asyncio.shield(tree.close())

    async def _enter(self, arguments: list[str]) -> WorkerTree:
        """A worker that has entered its tree. A parent that was idle may end just when it is asked: then a new one is."""
        while True:
            near, far = _sequenced()
            tree = WorkerTree(near)
            try:
                try:
                    fresh = await self._fork(arguments, far.fileno())
                finally:
                    far.close()
                await tree.receive()
            except BaseException:
                near.close()
                if not tree.lost or fresh:
                    raise
                self.close()
            else:
                return tree

    async def _fork(self, arguments: list[str], fd: int) -> bool:
        """Ask the parent for a worker; true when the parent had to be started for it."""
        message = [json.dumps({"tree": arguments}).encode()]
        async with self._starting:
            if self._parent is not None:
                try:
                    socket.send_fds(self._parent, message, [fd])
                    return False
                except OSError:
                    self.close()
            near, far = _sequenced()
            try:
                await self._spawn(WORKER, [], [far.fileno()])
                socket.send_fds(near, message, [fd])
            except BaseException:
                near.close()
                raise
            finally:
                far.close()
            self._parent = near
            return True


class WorkerTree:
    """Implements contract.store.Tree over the control socket of a worker."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._turn = asyncio.Lock()
        self.lost = False

    async def receive(self) -> Any:
        """The worker's answer to the last request."""
        data = await asyncio.get_running_loop().sock_recv(self._control, _LONGEST)
        if not data:
            self.lost = True
            raise Internal("the worker that reads the container's filesystem has ended: see the launcher's log")
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            kind: type[BerthError] = getattr(errors, answer["error"]["kind"], Internal)
            raise kind(answer["error"]["message"])
        return answer["ok"]

    def _send(self, operation: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self.lost:
            raise Conflict("an earlier request to this tree was given up: open it again")
        socket.send_fds(self._control, [json.dumps({"op": operation, **arguments}).encode()], list(fds))

    async def _ask(self, operation: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        """A request without a stream. Giving up in the middle ends the worker: its answer would be taken for the next one."""
        async with self._turn:
            self._send(operation, arguments, fds)
            return await self._answer()

    async def _answer(self) -> Any:
        try:
            return await self.receive()
        except asyncio.CancelledError:
            self.lost = True
            raise

    async def _settle(self) -> None:
        """After giving up on a stream: the worker meets a closed socket and says so; nobody asks why."""
        with contextlib.suppress(BerthError):
            await self._answer()

    async def close(self) -> None:
        """Wait until the worker has let go of the tree. A lost one ends by itself when the socket closes."""
        if self.lost:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
        else:
            with contextlib.suppress(OSError, BerthError):
                self._send("close", {})
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    while await asyncio.get_running_loop().sock_recv(self._control, _LONGEST):
                        pass
        finally:
            self._control.close()

    async def stat(self, path: str) -> PathStat:
        """NotFound without it."""
        return msgspec.convert(await self._ask("stat", {"path": path}), PathStat)

    def get(self, path: str) -> ByteStream:
        """The path as a tar whose members start with its base name."""
        return self._read("get", {"path": path})

    async def _read(self, operation: str, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        async with self._turn:
            near, far = _pair()
            try:
                try:
                    self._send(operation, arguments, [far.fileno()])
                finally:
                    far.close()
                while chunk := await loop.sock_recv(near, _PIECE):
                    yield chunk
            except BaseException:
                near.close()
                await self._settle()
                raise
            finally:
                near.close()
            await self._answer()

    async def put(
        self, path: str, stream: ByteStream, *, no_overwrite_dir_non_dir: bool = False, copy_uid_gid: bool = False
    ) -> None:
        """Unpack a tar. Owners are those of the tar either way, as with Docker for containers without a user."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            near, far = _pair()
            try:
                try:
                    self._send("put", {"path": path, "strict": no_overwrite_dir_non_dir}, [far.fileno()])
                finally:
                    far.close()
                try:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        async for chunk in stream:
                            await loop.sock_sendall(near, chunk)
                except BaseException:
                    near.close()
                    await self._settle()
                    raise
            finally:
                near.close()
            await self._answer()

    async def make_directories(self, path: str, *, uid: int = 0, gid: int = 0, mode: int = 0o755) -> None:
        """Like mkdir -p."""
        await self._ask("make_directories", {"path": path, "uid": uid, "gid": gid, "mode": mode})

    async def read_file(self, path: str, limit: int) -> bytes:
        """At most `limit` bytes of a regular file. NotFound; InvalidArgument for anything else than a file."""
        return b"".join([chunk async for chunk in self._read("read_file", {"path": path, "limit": limit})])

    async def copy_out(self, path: str, destination: str) -> bool:
        """Copy the content of a directory into the host's empty directory. False when there is no such directory."""
        fd = os.open(destination, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return bool(await self._ask("copy_out", {"path": path}, [fd]))
        finally:
            os.close(fd)

    async def copy_in(
        self,
        sources: list[tuple[str, str]],
        destination: str,
        *,
        owner: str = "",
        chmod: int | None = None,
        destination_is_directory: bool = False,
    ) -> None:
        """COPY: each source is (root directory on the host, path in it)."""
        roots = sorted({root for root, _ in sources})
        fds: list[int] = []
        try:
            for root in roots:
                fds.append(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            await self._ask(
                "copy_in",
                {
                    "sources": [(roots.index(root), path) for root, path in sources],
                    "destination": destination,
                    "owner": owner,
                    "chmod": chmod,
                    "destination_is_directory": destination_is_directory,
                },
                fds,
            )
        finally:
            for fd in fds:
                os.close(fd)


def _sequenced() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    return near, far


def _pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    near.setblocking(False)
    return near, far
