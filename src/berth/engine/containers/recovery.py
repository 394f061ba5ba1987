"""What an engine does when it starts: take over what runs, record what ended meanwhile, remove what was left half-done.

row says running, shim lives          the task is taken over, its watcher starts
row says running, exit record         the end is recorded with its own code and time; restart policy; --rm removes it
row says created, shim lives          killed right after the launch: taken over
row says running, neither             the host went down: code 255
row says running/paused, shim lives   frozen or not: as the row says
row says ports change                 they are as before the change
row says restarting                   the back-off starts anew
row says removing                     the removal is finished
row says exited, that run's files     what is left of the run is removed
directory or shim without a row       removed
a record whose event was not told     told (see telling)
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

from berth import failpoint
from berth.contract.runtime import Exit, Task
from berth.engine.containers import restart
from berth.engine.containers.cause import Cause, Kind
from berth.engine.containers.lifecycle import HAS_TASK, Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.publishing import Publishing
from berth.engine.containers.record import Container
from berth.engine.containers.removal import Removal
from berth.engine.containers.running import Running
from berth.engine.containers.telling import make_up
from berth.errors import BerthError, ResourceExhausted
from berth.kernel.fs import remove_tree
from berth.model.identifier import short_id

log = logging.getLogger("berth.containers")
_LOST = 255


class Recovery:
    """Run once, before the engine serves."""

    def __init__(self, parts: Parts, running: Running, removal: Removal, publishing: Publishing) -> None:
        self._parts = parts
        self._running = running
        self._removal = removal
        self._publishing = publishing

    async def restore(self, *, sweep: bool = True) -> None:
        """See the module's table. Without `sweep` nothing is removed for want of a row."""
        containers = self._parts.catalog.load()
        present = {identifier async for identifier in self._parts.runtime.tasks()}
        if sweep:
            await self._remove_unknown({c.id for c in containers}, present)
        failpoint.hit("engine.recover.after-unknown")
        tasks = await self._load_tasks([c for c in containers if c.status in HAS_TASK or c.id in present])
        await self._clear(containers, tasks)
        for container in containers:
            self._note_start(container, tasks.get(container.id))
        make_up(self._parts, containers)
        ended = {identifier: task.exit for identifier, task in tasks.items() if task.exit is not None}
        alive = [c for c in containers if c.id in tasks and c.id not in ended]
        for container in alive:
            container.task = tasks[container.id]
            if container.uid_base:
                self._parts.ranges.adopt(container.uid_base)
        await asyncio.gather(*(self._thaw_or_freeze(c, tasks[c.id]) for c in alive))
        await self._parts.networks.restore([(c.facts(), tasks[c.id].pid) for c in alive])
        for container in containers:
            await self._publishing.put_back(container, container.task)
        failpoint.hit("engine.recover.after-networks")
        for container in alive:
            self._running.watch(container, tasks[container.id])
        running = {c.id for c in alive}
        for container in containers:
            if container.id not in running:
                await self._settle(container, tasks.get(container.id), ended.get(container.id))

    @staticmethod
    async def _clear(containers: list[Container], tasks: dict[str, Task]) -> None:
        """Take away what is left of runs whose end is on record: the engine was killed while it did so."""
        for container in containers:
            task, state = tasks.get(container.id), container.state
            if task is None or task.exit is None:
                continue
            noted = state.status in (Status.EXITED, Status.RESTARTING) and state.started_at == task.started_at
            if noted or state.status in (Status.REMOVING, Status.DEAD):
                del tasks[container.id]
                try:
                    await task.delete()
                except BerthError as error:
                    log.warning("what is left of the last run of container %s stays: %s", short_id(container.id), error.message)

    def _note_start(self, container: Container, task: Task | None) -> None:
        """The engine was killed between a launch and its record: the container has a task all the same."""
        state = container.state
        if task is not None and state.status in (Status.CREATED, Status.EXITED, Status.RESTARTING):
            state.status, state.started_at, state.pid = Status.RUNNING, task.started_at, task.pid
            self._parts.catalog.note(container)

    @staticmethod
    async def _thaw_or_freeze(container: Container, task: Task) -> None:
        """The engine was killed between a (un)pause or a commit's pause and its record: the record counts."""
        try:
            if container.status is Status.PAUSED:
                await task.pause()
            else:
                await task.resume()
        except BerthError as error:
            log.warning("container %s: %s", short_id(container.id), error.message)

    async def _load_tasks(self, containers: list[Container]) -> dict[str, Task]:
        """All at once: each is asked for by a message to another process."""
        loaded = await asyncio.gather(*map(self._load_task, containers))
        return {container.id: task for container, task in zip(containers, loaded, strict=True) if task is not None}

    async def _load_task(self, container: Container) -> Task | None:
        try:
            task = await self._parts.runtime.load(container.id)
        except ResourceExhausted:
            # Nothing can be said of one that was not looked at, least of all that it has ended.
            raise
        except BerthError as error:
            log.error("cannot reach container %s: %s", short_id(container.id), error.message)
            return None
        if task is None:
            # A launch that did not get as far as a run file, and ended with its shim.
            await self._parts.runtime.remove_leftovers(container.id)
        return task

    async def _settle(self, container: Container, task: Task | None, ended: Exit | None) -> None:
        try:
            if container.status in HAS_TASK:
                container.task = task
                async with container.lock:
                    if ended is None:
                        container.state.cause = Cause(kind=Kind.LOST, at=time.time())
                    await self._running.ended(container, ended or Exit(code=_LOST, at=time.time()))
                was_running = True
            else:
                was_running = container.status is Status.RESTARTING
            if container.status is Status.REMOVING:
                container.state.status = Status.DEAD
                # Volumes that were to go with it are found without a container afterwards (VolumeService.sweep).
                await self._removal.finish(container, volumes=container.auto_remove)
            elif container.auto_remove and container.status is Status.EXITED:
                await self._removal.remove(container, volumes=True)
            elif container.status is Status.RESTARTING and container.restarter is None:
                self._running.schedule(container, 0.0)
            elif container.status is Status.EXITED and container.state.started_at:
                self._start_at_boot(container, was_running)
        except BerthError as error:
            log.error("cannot recover container %s: %s", short_id(container.id), error.message)

    def _start_at_boot(self, container: Container, was_running: bool) -> None:
        state = container.state
        if restart.should_start_at_boot(
            container.record.host_config.restart_policy,
            state.exit_code,
            manual_stop=state.manual_stop,
            was_running=was_running,
        ):
            container.state.status = Status.RESTARTING
            self._running.schedule(container, 0.0)

    async def _remove_unknown(self, known: set[str], present: set[str]) -> None:
        for identifier in present:
            if identifier not in known:
                await self._parts.runtime.remove_leftovers(identifier)
        for name in os.listdir(f"{self._parts.config.root}/containers"):
            if name in known:
                continue
            try:
                await self._parts.snapshots.remove(name)
                remove_tree(self._parts.directory(name))
            except (BerthError, OSError) as error:
                log.warning("cannot remove what is left of %s: %s", name, error)
