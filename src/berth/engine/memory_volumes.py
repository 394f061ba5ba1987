"""tmpfs volumes in use: containers that run at the same time share one filesystem, and its content ends with the last of them.

    <run>/volumes/<digest of name and creation>.sock    where the holder of one listens (storage.memory_holder)
    <run>/volumes/mnt                                   where each mounts in a mount namespace of its own; empty on the host

Each container's shim keeps a connection to the holder, which knows its users by that. So containers share a volume across
engines, and a holder that was killed takes nothing from those who have the filesystem mounted: who starts later gets a new one.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from berth.contract.volume import Held, Volume
from berth.engine import volume_options
from berth.errors import Internal, Unavailable

Spawn = Callable[[str, Sequence[str], Sequence[int]], Awaitable[int]]
HOLDER = "berth.storage.memory_holder"
_PATIENCE = 5.0
_LONGEST = 1 << 13


class MemoryVolumes:
    """Finds the holder of a volume, or starts it. `spawn` is Runtime.spawn."""

    def __init__(self, run: str, spawn: Spawn) -> None:
        self._folder = f"{run}/volumes"
        self._spawn = spawn
        # One start at a time: two engines never work with one run directory, so nobody else makes these sockets.
        self._starting = asyncio.Lock()

    async def hold(self, volume: Volume) -> Held:
        """Use a volume: where its filesystem is, and the connection that says so, which the caller owns."""
        path = self._socket_path(volume)
        async with self._starting:
            for _ in range(3):
                sock = _connect(path)
                if sock is None:
                    await self._start(path, volume)
                    continue
                try:
                    answer = await _answer(sock, volume.name)
                except BaseException:
                    sock.close()
                    raise
                if answer is not None:
                    return _held(volume, answer, sock)
                # It was about to end.
                sock.close()
        raise Unavailable(f"the process that holds volume {volume.name} ended three times: see launcher.log in the run directory")

    def forget(self, volume: Volume) -> None:
        """The volume is removed: so is the socket that a killed holder of it has left."""
        with suppress(FileNotFoundError):
            os.unlink(self._socket_path(volume))

    def _socket_path(self, volume: Volume) -> str:
        # A volume that is made anew under its name is another one.
        return f"{self._folder}/{hashlib.sha256(f'{volume.name} {volume.created}'.encode()).hexdigest()[:32]}.sock"

    async def _start(self, path: str, volume: Volume) -> None:
        """The listening socket is made here and handed over, so that connecting works before the process is up."""
        place = f"{self._folder}/mnt"
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        os.makedirs(place, mode=0o700, exist_ok=True)
        options = json.dumps(volume_options.data(volume.options))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            with suppress(FileNotFoundError):
                # Of one that was killed.
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(512)
            await self._spawn(HOLDER, [path, place, volume.options["device"], options], [listener.fileno()])


def _connect(path: str) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    return sock


async def _answer(sock: socket.socket, name: str) -> dict[str, Any] | None:
    """What the holder says; None when it has ended instead."""
    try:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, _LONGEST), _PATIENCE)
    except TimeoutError:
        raise Unavailable(f"the process that holds volume {name} does not answer: try again, or restart its containers") from None
    except ConnectionResetError:
        return None
    answer: dict[str, Any] | None = json.loads(data) if data else None
    return answer


def _held(volume: Volume, answer: dict[str, Any], sock: socket.socket) -> Held:
    if "errno" in answer:
        sock.close()
        place, how = f"{volume.options['device']}:{volume.mountpoint}", volume_options.mount_text(volume.options)
        raise Internal(
            f"error while mounting volume '{volume.mountpoint}': failed to mount local volume: "
            f"mount {place}, {how}: {os.strerror(answer['errno']).lower()}"
        )
    return Held(source=f"/proc/{answer['pid']}/root{answer['path']}", connection=sock.detach())
