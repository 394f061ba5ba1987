"""`berthd --log-cap`: all logs of this engine together take no more than that.

Every few seconds the files are counted. While they are too many bytes, the oldest rotated file of the container with the
largest log goes; where nothing has been rotated, the largest log is begun anew (by its shim while the container runs). Without
the setting nothing is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass

from berth.engine import log_files
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.errors import BerthError
from berth.model.identifier import short_id
from berth.model.units import human_binary_size

log = logging.getLogger("berth.containers")
INTERVAL = 5.0


@dataclass
class _Log:
    """The files of one container, newest first, with their sizes in bytes."""

    container: Container
    files: list[tuple[str, int]]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


class LogCap:
    """Holds the logs of all containers to the engine's cap."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, where there is a cap."""
        if self._parts.config.log_cap:
            self._task = asyncio.create_task(self._loop(), name="log cap")

    def stop(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _loop(self) -> None:
        while True:
            await self.enforce()
            await asyncio.sleep(INTERVAL)

    async def enforce(self) -> int:
        """Bring the logs below the cap now; the bytes that went."""
        cap, freed = self._parts.config.log_cap, 0
        logs = [_Log(c, _sizes(self._parts.log_path(c.id))) for c in self._parts.catalog]
        excess = sum(each.size for each in logs) - cap
        while excess > freed:
            rotated = [each for each in logs if len(each.files) > 1]
            largest = max(rotated or logs, key=lambda each: each.size, default=None)
            if largest is None or not largest.files:
                break
            gone = self._drop_oldest(largest) if rotated else await self._begin_anew(largest)
            freed += gone
        if freed:
            log.warning("logs were over the cap of %s: removed %s", human_binary_size(cap), human_binary_size(freed))
        return freed

    def _drop_oldest(self, largest: _Log) -> int:
        name, size = largest.files.pop()
        _remove(name)
        return size

    async def _begin_anew(self, largest: _Log) -> int:
        """Its only file goes. Whatever fails, it is not tried again in this round."""
        size, largest.files = largest.size, []
        path = self._parts.log_path(largest.container.id)
        task = largest.container.live_task()
        if task is None:
            _remove(path)
            return size
        try:
            await task.rotate_log()
        except BerthError as error:
            log.warning("the log of container %s cannot be rotated: %s", short_id(largest.container.id), error.message)
            return 0
        for name in log_files.names(path)[1:]:
            _remove(name)
        return size


def _sizes(path: str) -> list[tuple[str, int]]:
    found = []
    for name in log_files.names(path):
        try:
            found.append((name, os.stat(name).st_size))
        except FileNotFoundError:
            # Rotated in this moment: counted in the next round.
            continue
    return found


def _remove(name: str) -> None:
    try:
        os.unlink(name)
    except FileNotFoundError:
        # The shim was faster.
        pass
