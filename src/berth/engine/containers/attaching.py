"""Attach clients: to a task that runs, or kept until the start; and waiting for ends."""

from __future__ import annotations

import asyncio
import os

from berth.contract.runtime import AttachStream
from berth.engine.containers.lifecycle import Status, is_running
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container, Ended
from berth.errors import BerthError, Conflict, InvalidArgument

DEFAULT_DETACH_KEYS = b"\x10\x11"
_NAMED = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_detach_keys(text: str | None) -> bytes:
    """`ctrl-p,ctrl-q` as bytes; the default for None or empty."""
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and ord(key) < 128:
            keys.append(ord(key))
            continue
        name = key.removeprefix("ctrl-")
        if name == key or len(name) != 1:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided: Unknown character: '{key}'")
        if name.isascii() and name.isalpha() and name.islower():
            keys.append(ord(name) - ord("a") + 1)
        elif name in _NAMED:
            keys.append(_NAMED[name])
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided: Unknown character: '{key}'")
    return bytes(keys)


class Attaching:
    """Hands connections over."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def check(self, container: Container) -> None:
        """Conflict, in Docker's words, when nobody can attach now. Before the connection is taken over."""
        if container.status is Status.PAUSED:
            raise Conflict(f"Container {container.id} is paused, unpause the container before attach.")
        if container.status is Status.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running.")
        if container.deleting or container.status in (Status.REMOVING, Status.DEAD):
            raise Conflict(f"Container {container.id} is marked for removal, nobody can attach to it")
        if container.task is not None:
            container.task.check("attach")

    async def attach(self, container: Container, stream: AttachStream) -> None:
        """The stream's descriptor is owned by this call. A container that does not run gets the client at its start."""
        async with container.lock:
            task = container.live_task()
            if task is not None:
                try:
                    await task.attach(stream)
                except BerthError:
                    # It ended this moment: the client sees the end of its connection, which the runtime has closed.
                    return
            elif container.deleting:
                os.close(stream.fd)
                return
            else:
                container.keep_for_start(stream)
        self._parts.emit(container, "attach")

    def wait(self, container: Container, condition: str) -> asyncio.Future[Ended]:
        """not-running (the default), next-exit or removed."""
        if condition == "next-exit":
            return container.next_exit()
        if condition == "removed":
            return container.removal()
        if condition not in ("", "not-running"):
            raise InvalidArgument(f'invalid condition: "{condition}"')
        if is_running(container.status):
            return container.next_exit()
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        future.set_result(Ended(code=container.state.exit_code, error=container.state.error))
        return future
