"""The engine's side of worker processes: a parent that forks one for each task, and the control socket of each.

The parent is forked by the launcher when a worker is needed and no parent is there; it ends when it is idle.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from berth import errors
from berth.errors import BerthError, Internal

Spawn = Callable[[str, Sequence[str], Sequence[int]], Awaitable[int]]
WORKER = "berth.storage.worker"
LONGEST = 1 << 17


class Control:
    """The control socket of a worker. `lost` once the worker has ended."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.lost = False

    async def receive(self) -> Any:
        """The next answer: its value, or its error raised. Internal when the worker has ended instead."""
        data = await asyncio.get_running_loop().sock_recv(self.socket, LONGEST)
        if not data:
            self.lost = True
            raise Internal("the worker that reads the container's filesystem has ended: see the launcher's log")
        return answered(data)


def answered(data: bytes) -> Any:
    """The value of an answer; its error is raised."""
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        kind: type[BerthError] = getattr(errors, answer["error"]["kind"], Internal)
        raise kind(answer["error"]["message"])
    return answer["ok"]


class Workers:
    """One parent at a time. `spawn` is Runtime.spawn."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._parent: socket.socket | None = None
        self._starting = asyncio.Lock()

    def close(self) -> None:
        """Let go of the parent; workers go on."""
        if self._parent is not None:
            self._parent.close()
            self._parent = None

    async def start(self, task: Mapping[str, object], fds: Sequence[int] = ()) -> Control:
        """A worker that has said it is ready. A parent that was idle may end just when it is asked: then a new one is."""
        message = json.dumps(task).encode()
        while True:
            near, far = _sequenced()
            control = Control(near)
            fresh = True
            try:
                try:
                    fresh = await self._fork(message, [far.fileno(), *fds])
                finally:
                    far.close()
                await control.receive()
            except BaseException:
                near.close()
                if not control.lost or fresh:
                    raise
                self.close()
            else:
                return control

    async def _fork(self, message: bytes, fds: Sequence[int]) -> bool:
        """Ask the parent for a worker; true when the parent had to be started for it."""
        async with self._starting:
            if self._parent is not None:
                try:
                    socket.send_fds(self._parent, [message], fds)
                    return False
                except OSError:
                    self.close()
            near, far = _sequenced()
            try:
                await self._spawn(WORKER, [], [far.fileno()])
                socket.send_fds(near, [message], fds)
            except BaseException:
                near.close()
                raise
            finally:
                far.close()
            self._parent = near
            return True


def _sequenced() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    return near, far
