"""What becomes of a container that is unhealthy: `health-on-failure` of model.extension.

    none      nothing, as with Docker
    kill      SIGKILL; what follows is the restart policy's
    restart   the stop signal, and a start whatever the policy says, after the same back-off
    stop      stopped as if by hand

Not before `health-cooldown` has passed since the start: a service that needs long to recover is not shot again and again.
"""

from __future__ import annotations

import asyncio
import logging

from berth.contract.runtime import Task
from berth.engine.containers.cause import Kind
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.engine.containers.stopping import Stopping
from berth.errors import BerthError, NotModified
from berth.model.identifier import short_id

log = logging.getLogger("berth.containers")


class Healing:
    """Acts on bad health."""

    def __init__(self, parts: Parts, stopping: Stopping) -> None:
        self._parts = parts
        self._stopping = stopping
        self._working: dict[str, asyncio.Task[None]] = {}

    def unhealthy(self, container: Container, task: Task) -> None:
        """A probe has failed, and the container is unhealthy. Called after each such probe."""
        settings = self._parts.settings(container)
        if settings.health_on_failure == "none" or container.running_for() < settings.health_cooldown:
            return
        if container.id in self._working:
            return
        log.info("container %s is unhealthy: %s", short_id(container.id), settings.health_on_failure)
        # In a task of its own: the end of the run cancels the prober, which has called us.
        work = asyncio.create_task(self._act(container, task, settings.health_on_failure), name=f"heal {short_id(container.id)}")
        self._working[container.id] = work
        work.add_done_callback(lambda _: self._working.pop(container.id, None))

    async def _act(self, container: Container, task: Task, action: str) -> None:
        try:
            if action == "stop":
                await self._stopping.stop(container, None, kind=Kind.HEALTH)
            else:
                await self._stopping.end_unhealthy(container, task, at_once=action == "kill", renew=action == "restart")
        except NotModified:
            # It has ended meanwhile.
            pass
        except BerthError as error:
            log.warning("cannot %s the unhealthy container %s: %s", action, short_id(container.id), error.message)

    def stop(self) -> None:
        """The engine ends. Idempotent."""
        for work in list(self._working.values()):
            work.cancel()
