"""Stop, kill, restart, pause and unpause."""

from __future__ import annotations

import asyncio

from berth import failpoint
from berth.contract.runtime import Task
from berth.engine.containers.cause import SIGKILL, Kind, asked
from berth.engine.containers.lifecycle import HAS_TASK, Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container, Ended
from berth.engine.containers.running import Running
from berth.engine.containers.signals import parse_signal
from berth.errors import BerthError, Conflict, Internal, NotFound, NotModified
from berth.model.identifier import short_id

DEFAULT_TIMEOUT = 10
_KILL_TIMEOUT = 10.0


class Stopping:
    """Ends runs. Waits for the end without holding the container's lock: the watcher needs it."""

    def __init__(self, parts: Parts, running: Running) -> None:
        self._parts = parts
        self._running = running

    async def stop(
        self, container: Container, timeout: int | None, signal: str = "", *, by: str = "", kind: Kind = Kind.STOP
    ) -> None:
        """The stop signal, then SIGKILL after `timeout` seconds (-1: never). NotModified when it does not run.

        `by` and `kind` say who asks, and for what: kept for whoever wants to know why it ended.
        """
        number = parse_signal(signal or container.record.config.stop_signal or "TERM")
        seconds = timeout if timeout is not None else container.record.config.stop_timeout
        async with container.lock:
            if container.status is Status.RESTARTING:
                container.state.manual_stop = True
                self._running.cancel_restart(container)
                self._parts.emit(container, "stop")
                return
            if container.status not in HAS_TASK:
                raise NotModified(f"container {short_id(container.id)} is already stopped")
            failpoint.hit("container.stop.before-row")
            container.state.manual_stop = True
            container.state.cause = asked(kind, by, number)
            self._parts.catalog.note(container)
            failpoint.hit("container.stop.after-row")
            ended = container.next_exit()
            await self._signal(container, number)
            failpoint.hit("container.stop.after-signal")
        if not await _in_time(ended, DEFAULT_TIMEOUT if seconds is None else seconds):
            await self._kill_and_wait(container, ended)
        failpoint.hit("container.stop.after-end")
        self._parts.emit(container, "stop")

    async def _signal(self, container: Container, number: int) -> None:
        """The lock is held. A frozen container is thawed, so that the signal arrives."""
        task = _task(container)
        try:
            await task.kill(number)
        except NotFound:
            return
        self._parts.emit(container, "kill", {"signal": str(number)})
        if container.status is Status.PAUSED:
            try:
                await task.resume()
            except BerthError:
                # It ended first: the unified hierarchy kills what is frozen, and so does the end of a namespace's first process.
                # What could not be thawed for another reason is told by whoever waits for the end.
                return
            container.move(Status.RUNNING)
            self._parts.emit(container, "unpause")

    async def _kill_and_wait(self, container: Container, ended: asyncio.Future[Ended]) -> None:
        async with container.lock:
            if container.status in HAS_TASK and not ended.done():
                if container.state.cause is not None:
                    container.state.cause.forced = container.state.cause.signal != SIGKILL
                await self._signal(container, SIGKILL)
        await self._killed(container, ended)

    async def _killed(self, container: Container, ended: asyncio.Future[Ended]) -> None:
        if not await _in_time(ended, _KILL_TIMEOUT):
            raise Internal(
                f"container {short_id(container.id)} did not end within {_KILL_TIMEOUT:.0f} s of SIGKILL: "
                "its process may be stuck in the kernel (a dead network filesystem, say)"
            )

    async def end_unhealthy(self, container: Container, task: Task, *, at_once: bool, renew: bool) -> None:
        """End a run for its health; nothing when that has ended. With `renew` it is started again, else as its policy says."""
        number = SIGKILL if at_once else parse_signal(container.record.config.stop_signal or "TERM")
        seconds = container.record.config.stop_timeout
        async with container.lock:
            if container.task is not task or container.status is not Status.RUNNING or container.state.manual_stop:
                return
            container.state.cause = asked(Kind.HEALTH, "", number)
            container.state.renewing = renew
            self._parts.catalog.note(container)
            ended = container.next_exit()
            await self._signal(container, number)
        if not await _in_time(ended, DEFAULT_TIMEOUT if seconds is None else seconds):
            await self._kill_and_wait(container, ended)

    async def kill(self, container: Container, signal: str, *, by: str = "") -> None:
        """One signal. SIGKILL waits for the end."""
        number = parse_signal(signal or "KILL")
        async with container.lock:
            if container.status is Status.RESTARTING and number == SIGKILL:
                container.state.manual_stop = True
                self._running.cancel_restart(container)
                return
            if container.status not in HAS_TASK:
                raise Conflict(f"container {container.id} is not running")
            fatal = number in (SIGKILL, parse_signal(container.record.config.stop_signal or "TERM"))
            container.state.cause = asked(Kind.KILL, by, number)
            if fatal:
                container.state.manual_stop = True
                self._parts.catalog.note(container)
            ended = container.next_exit()
            await self._signal(container, number)
        if number == SIGKILL:
            await self._killed(container, ended)

    async def kill_for_removal(self, container: Container) -> None:
        """For a forced removal: whatever it does, it ends now."""
        async with container.lock:
            container.state.manual_stop = True
            self._running.cancel_restart(container)
            if container.status not in HAS_TASK:
                return
            ended = container.next_exit()
            await self._signal(container, SIGKILL)
        await self._killed(container, ended)

    async def restart(self, container: Container, timeout: int | None, signal: str = "", *, by: str = "") -> None:
        """Stop if it runs, then start. A container with --rm is not removed by the stop in between."""
        container.held = True
        try:
            try:
                await self.stop(container, timeout, signal, by=by, kind=Kind.RESTART)
            except NotModified:
                pass
            await self._running.start(container)
        finally:
            container.held = False
        self._parts.emit(container, "restart")

    async def pause(self, container: Container) -> None:
        """Freeze it."""
        async with container.lock:
            if container.status is Status.PAUSED:
                raise Conflict(f"Container {container.id} is already paused")
            if container.status is Status.RESTARTING:
                raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
            if container.status is not Status.RUNNING:
                raise Conflict(f"Container {container.id} is not running")
            failpoint.hit("container.pause.before-freeze")
            await _task(container).pause()
            failpoint.hit("container.pause.after-freeze")
            container.move(Status.PAUSED)
            self._parts.catalog.note(container)
            failpoint.hit("container.pause.after-row")
        self._parts.emit(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Thaw it."""
        async with container.lock:
            if container.status is not Status.PAUSED:
                raise Conflict(f"Container {container.id} is not paused")
            await _task(container).resume()
            failpoint.hit("container.unpause.after-thaw")
            container.move(Status.RUNNING)
            self._parts.catalog.note(container)
        self._parts.emit(container, "unpause")


def _task(container: Container) -> Task:
    task = container.live_task()
    if task is None:
        raise Conflict(f"container {container.id} is not running")
    return task


async def _in_time(ended: asyncio.Future[Ended], seconds: float) -> bool:
    if seconds < 0:
        await ended
        return True
    done, _ = await asyncio.wait({ended}, timeout=seconds)
    return bool(done)
