"""The engine's side of trees: a worker per tree, requests one after another, tars streamed over socket pairs.

A stream is a socket pair of its own, whose other end goes to the worker with the request; the kernel's buffers are all that
is in flight. Leaving the context waits until the worker has unmounted what it mounted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from berth.contract.store import ByteStream, Expand, PathStat
from berth.errors import BerthError, Conflict
from berth.model.rootfs import Overlay
from berth.storage.expander import expanded
from berth.storage.workers import LONGEST, Control, Workers

_PIECE = 1 << 18
_BUFFER = 1 << 20
_GOODBYE = 20.0


class TreeStore:
    """Implements contract.store.Trees. `expand` undoes the compression of archives that are put in."""

    def __init__(self, workers: Workers, expand: Expand) -> None:
        self._workers = workers
        self._expand = expand

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
        tree = WorkerTree(await self._workers.start({"tree": arguments}), self._expand)
        try:
            yield tree
        finally:
            await asyncio.shield(tree.close())


class WorkerTree:
    """Implements contract.store.Tree over the control socket of a worker."""

    def __init__(self, control: Control, expand: Expand) -> None:
        self._control = control
        self._socket = control.socket
        self._expand = expand
        self._turn = asyncio.Lock()

    def _send(self, operation: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self._control.lost:
            raise Conflict("an earlier request to this tree was given up: open it again")
        socket.send_fds(self._socket, [json.dumps({"op": operation, **arguments}).encode()], list(fds))

    async def _ask(self, operation: str, arguments: dict[str, Any], fds: Sequence[int] = ()) -> Any:
        """A request without a stream. Giving up in the middle ends the worker: its answer would be taken for the next one."""
        async with self._turn:
            self._send(operation, arguments, fds)
            return await self._answer()

    async def _answer(self) -> Any:
        try:
            return await self._control.receive()
        except asyncio.CancelledError:
            self._control.lost = True
            raise

    async def _settle(self) -> None:
        """After giving up on a stream: the worker meets a closed socket and says so; nobody asks why."""
        with contextlib.suppress(BerthError):
            await self._answer()

    async def close(self) -> None:
        """Wait until the worker has let go of the tree. A lost one ends by itself when the socket closes."""
        if self._control.lost:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        else:
            with contextlib.suppress(OSError, BerthError):
                self._send("close", {})
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    while await asyncio.get_running_loop().sock_recv(self._socket, LONGEST):
                        pass
        finally:
            self._socket.close()

    async def stat(self, path: str) -> PathStat:
        """NotFound without it."""
        return msgspec.convert(await self._ask("stat", {"path": path}), PathStat)

    def get(self, path: str) -> ByteStream:
        """The path as a tar whose members start with its base name."""
        return self._read("get", {"path": path})

    def export(self) -> ByteStream:
        """Everything as a tar, names from the root on."""
        return self._read("export", {})

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
        """Unpack a tar. Owners are those of the tar either way, as with Docker for containers without a user. One that a running
        container has no id for becomes its root; with `copy_uid_gid` it is refused."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            near, far = _pair()
            try:
                try:
                    self._send("put", {"path": path, "strict": no_overwrite_dir_non_dir, "exact": copy_uid_gid}, [far.fileno()])
                finally:
                    far.close()
                try:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        async for chunk in expanded(stream, self._expand):
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


def _pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    near.setblocking(False)
    return near, far
