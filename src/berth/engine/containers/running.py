"""From start to end: start by hand or by policy, the watch over each task, what happens when it ends.

Each running container has one watcher that waits for the task's end, records it and applies the restart policy; a
container that waits for its next start has a restarter. Whoever changes a container holds its lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from berth import failpoint, trace
from berth.contract.runtime import Exit, LaunchRequest, Task
from berth.engine.containers import restart
from berth.engine.containers.cause import concluded
from berth.engine.containers.health import Prober, Unhealthy
from berth.engine.containers.lifecycle import HAS_TASK, Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.engine.containers.starting import Launching, check_startable
from berth.errors import BerthError, NotModified
from berth.model.identifier import short_id

log = logging.getLogger("berth.containers")
Remove = Callable[[Container], Awaitable[None]]


class Running:
    """Starts and watches. `remove` takes away a container that was run with --rm."""

    def __init__(self, parts: Parts, remove: Remove) -> None:
        self._parts = parts
        self._remove = remove
        self._launching = Launching(parts)
        self._prober = Prober(parts)
        self._clearing: set[asyncio.Task[None]] = set()

    def typical_request(self) -> LaunchRequest:
        """A launch like most."""
        return self._launching.typical_request()

    def prime(self, container: Container) -> None:
        """It may be started soon."""
        self._launching.prime(container)

    async def start(self, container: Container) -> None:
        """By the user's hand. NotModified when it runs already; Conflict and launch errors in Docker's words."""
        async with container.lock:
            if container.status is Status.RESTARTING:
                raise NotModified(f"container {short_id(container.id)} is already started")
            check_startable(container)
            container.state.manual_stop = False
            container.state.restart_count = 0
            container.backoff = 0.0
            failure: BerthError | None = None
            try:
                await self._start_locked(container)
            except BerthError as error:
                container.close_pending()
                failure = error
        if failure is not None:
            if container.auto_remove:
                await self._remove(container)
            raise failure

    async def _start_locked(self, container: Container) -> None:
        task = await self._launching.launch(container)
        self._emit_volumes(container, "mount")
        self._parts.emit(container, "start")
        self.watch(container, task)

    def on_unhealthy(self, listener: Unhealthy) -> None:
        """Whom to tell of a probe after which a container is unhealthy."""
        self._prober.on_unhealthy(listener)

    def watch(self, container: Container, task: Task) -> None:
        """Begin to wait for the task's end, and to probe its health."""
        container.task = task
        task.on_detach(lambda exec: self._detached(container, exec))
        task.on_oom(lambda: self._out_of_memory(container, task))
        container.watcher = asyncio.create_task(self._watch(container, task), name=f"watch {short_id(container.id)}")
        self._prober.begin(container, task)

    def _out_of_memory(self, container: Container, task: Task) -> None:
        """The kernel killed one of its processes, or (with --oom-kill-disable) made them wait."""
        if container.task is not task:
            return
        if not container.state.oom_killed:
            container.state.oom_killed = True
            self._parts.catalog.note(container)
        self._parts.emit(container, "oom")

    def _detached(self, container: Container, exec: str) -> None:
        if exec:
            self._parts.emit(container, "exec_detach", {"execID": exec})
        else:
            self._parts.emit(container, "detach")

    async def _watch(self, container: Container, task: Task) -> None:
        try:
            ended = await task.wait()
        except BerthError as error:
            log.error("lost container %s: %s", short_id(container.id), error.message)
            ended = Exit(code=255)
        async with container.lock:
            if container.task is not task:
                return
            await self.ended(container, ended)
        if container.auto_remove and container.status is Status.EXITED and not container.deleting and not container.held:
            await self._remove(container)

    async def ended(self, container: Container, ended: Exit) -> None:
        """Record the end, give back what the run had, decide whether to restart. The lock is held."""
        failpoint.hit("container.end.before-release")
        state, parts = container.state, self._parts
        self._prober.end(container)
        tell_disconnected = self._release(container)
        trace.mark("released", container.id)
        told, state.oom_killed = state.oom_killed, ended.oom_killed
        state.finished_at, state.exit_code, state.pid = ended.at, ended.code, 0
        state.ran_for = max(0.0, ended.at - state.started_at) if ended.ran_for is None else ended.ran_for
        state.cause = concluded(state.cause, ended)
        again = not container.deleting and self._goes_on(container, ended)
        state.renewing = False
        container.move(Status.RESTARTING if again else Status.EXITED)
        parts.catalog.note(container)
        failpoint.hit("container.end.after-row")
        if ended.oom_killed and not told:
            parts.emit(container, "oom")
        parts.emit(container, "die", {"exitCode": str(ended.code), "execDuration": str(int(state.ran_for))})
        tell_disconnected()
        self._emit_volumes(container, "unmount")
        container.tell_exit()
        parts.trace.ended(container.id)
        if again:
            self.schedule(container, state.ran_for)

    def _goes_on(self, container: Container, ended: Exit) -> bool:
        state = container.state
        if state.renewing and not state.manual_stop:
            return True
        policy = container.record.host_config.restart_policy
        return restart.should_restart(policy, ended.code, state.restart_count, manual_stop=state.manual_stop)

    def _release(self, container: Container) -> Callable[[], None]:
        """Give back what the run had. What is returned tells of the networks."""
        for execution in container.execs.values():
            execution.container_ended()
        if container.task is not None:
            # Beside what is told of the end: whoever starts it again waits for that, in the runtime.
            work = self._clear(container.task, container.uid_base)
            clearing = asyncio.create_task(work, name=f"clear {short_id(container.id)}")
            self._clearing.add(clearing)
            clearing.add_done_callback(self._clearing.discard)
            container.task = None
        elif container.uid_base:
            self._parts.ranges.give_back(container.uid_base)
        container.state.id_map = []
        try:
            tell = self._parts.networks.give_back(container.id)
            failpoint.hit("container.end.after-network")
        except (BerthError, OSError) as error:
            log.error("cannot clean up after container %s: %s", short_id(container.id), error)
            return lambda: None
        return tell

    async def _clear(self, task: Task, base: int) -> None:
        """Take away what a run that has ended leaves; its host ids are free then."""
        try:
            await task.delete()
            failpoint.hit("container.end.after-task")
        except (BerthError, OSError) as error:
            log.error("cannot clean up after container %s: %s", short_id(task.id), error)
        if base:
            self._parts.ranges.give_back(base)

    async def cleared(self) -> None:
        """Nothing is left of the runs that have ended."""
        while self._clearing:
            await asyncio.wait(self._clearing)

    def schedule(self, container: Container, ran_for: float) -> None:
        """Start it again after the back-off."""
        container.backoff = restart.next_delay(container.backoff, ran_for, self._parts.settings(container))
        container.next_start = time.time() + container.backoff
        container.restarter = asyncio.create_task(self._restart_later(container), name=f"restart {short_id(container.id)}")

    async def _restart_later(self, container: Container) -> None:
        await asyncio.sleep(container.backoff)
        async with container.lock:
            if container.status is not Status.RESTARTING or container.deleting:
                return
            container.restarter = None
            container.state.restart_count += 1
            try:
                await self._start_locked(container)
            except BerthError as error:
                log.warning("cannot restart container %s: %s", short_id(container.id), error.message)
                self._restart_failed(container)

    def _restart_failed(self, container: Container) -> None:
        state = container.state
        policy = container.record.host_config.restart_policy
        if restart.should_restart(policy, state.exit_code, state.restart_count, manual_stop=state.manual_stop):
            self.schedule(container, 0.0)
        else:
            container.move(Status.EXITED)
        self._parts.catalog.note(container)
        container.tell_exit()

    def cancel_restart(self, container: Container) -> None:
        """A container that waits for its next start stays down. The lock is held."""
        if container.restarter is not None:
            container.restarter.cancel()
            container.restarter = None
        if container.status is Status.RESTARTING:
            container.move(Status.EXITED)
            self._parts.catalog.note(container)
            container.tell_exit()

    def _emit_volumes(self, container: Container, action: str) -> None:
        for mount in container.record.mounts:
            if mount.type == "volume":
                attributes = {"container": container.id, "driver": mount.driver or "local"}
                if action == "mount":
                    attributes |= {
                        "destination": mount.destination,
                        "propagation": mount.propagation,
                        "read/write": "false" if mount.read_only else "true",
                    }
                self._parts.events.publish("volume", action, mount.name, attributes)

    async def let_go(self, container: Container) -> None:
        """The engine ends: stop watching; what runs goes on."""
        self._prober.keep(container)
        self._prober.end(container)
        for background in (container.watcher, container.restarter):
            if background is not None:
                background.cancel()
        container.close_pending()
        if container.status in HAS_TASK:
            self._parts.catalog.note(container)
