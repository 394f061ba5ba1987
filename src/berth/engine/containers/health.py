"""Health checks: a command run in the container at intervals, and the verdict that follows from its results.

starting ──success──> healthy <──> unhealthy: `retries` failures in a row make it unhealthy, one success healthy again.
Failures within the start period do not count. The last five results are kept, 4096 bytes of output each.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from msgspec import Struct

from berth.contract.runtime import AttachStream, ExecTask, Exit, LaunchFailed, Task
from berth.engine.containers.execution import exec_request
from berth.engine.containers.launcherror import exec_error
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.errors import BerthError
from berth.model.identifier import new_id, short_id
from berth.model.instant import rfc3339
from berth.wire.container import ContainerConfig
from berth.wire.health import Health, HealthcheckResult

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
Unhealthy = Callable[[Container, Task], None]
_KEPT = 5
_OUTPUT = 4096
_SECOND = 10**9
# How long the end of a probe that was killed is waited for, in seconds.
_DEATH = 2.0


class Check(Struct, frozen=True, kw_only=True):
    """A health check that is on; times in seconds."""

    args: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float


def check_of(config: ContainerConfig) -> Check | None:
    """The check of a container, None when it has none or switched it off."""
    health = config.healthcheck
    test = (health.test if health else None) or []
    if health is None or not test or test[0] in ("", "NONE") or len(test) < 2:
        return None
    shell = config.shell or ["/bin/sh", "-c"]
    return Check(
        args=(*shell, test[1]) if test[0] == "CMD-SHELL" else tuple(test[1:]),
        interval=(health.interval or 30 * _SECOND) / _SECOND,
        timeout=(health.timeout or 30 * _SECOND) / _SECOND,
        retries=health.retries or 3,
        start_period=(health.start_period or 0) / _SECOND,
        start_interval=(health.start_interval or 5 * _SECOND) / _SECOND,
    )


def judge(health: Health, result: HealthcheckResult, check: Check, running_for: float) -> Health:
    """The health after a further result."""
    log = [*(health.log or []), result][-_KEPT:]
    if result.exit_code == 0:
        return Health(status=HEALTHY, failing_streak=0, log=log)
    starting = health.status == STARTING and running_for < check.start_period
    streak = 0 if starting else (health.failing_streak or 0) + 1
    status = UNHEALTHY if streak >= check.retries else health.status
    return Health(status=status, failing_streak=streak, log=log)


class Prober:
    """Runs the checks."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._unhealthy: Unhealthy = lambda container, task: None

    def on_unhealthy(self, listener: Unhealthy) -> None:
        """Whom to tell, after each probe, that a container is unhealthy."""
        self._unhealthy = listener

    def begin(self, container: Container, task: Task) -> None:
        """Probe as long as the task runs."""
        check = check_of(container.record.config)
        if check is None:
            container.health = None
            return
        state = container.state
        known = state.health if state.health_of == state.started_at else None
        container.health = known or Health(status=STARTING, failing_streak=0, log=[])
        container.prober = asyncio.create_task(self._loop(container, task, check), name=f"health {short_id(container.id)}")

    def keep(self, container: Container) -> None:
        """Put it into the record of the run, for the next engine."""
        container.state.health, container.state.health_of = container.health, container.state.started_at

    def end(self, container: Container) -> None:
        """Idempotent."""
        if container.prober is not None:
            container.prober.cancel()
            container.prober = None
        if container.health is not None and container.health.status != UNHEALTHY:
            container.health = Health(status=UNHEALTHY, failing_streak=container.health.failing_streak, log=container.health.log)

    async def _loop(self, container: Container, task: Task, check: Check) -> None:
        while True:
            health = container.health
            early = health is not None and health.status == STARTING and container.running_for() < check.start_period
            await asyncio.sleep(min(check.start_interval, check.interval) if early else check.interval)
            if container.task is not task:
                return
            if container.status is not Status.RUNNING or container.health is None:
                continue
            result = await self._probe(container, task, check)
            if container.task is not task or container.health is None:
                return
            if result is None:
                continue
            before, streak = container.health.status, container.health.failing_streak
            container.health = judge(container.health, result, check, container.running_for())
            if (container.health.status, container.health.failing_streak) != (before, streak):
                # Not after every probe: one that says what the last one said is not worth a write.
                self.keep(container)
                self._parts.catalog.note(container)
            if container.health.status != before:
                self._parts.emit(container, f"health_status: {container.health.status}")
            if container.health.status == UNHEALTHY:
                self._unhealthy(container, task)

    async def _probe(self, container: Container, task: Task, check: Check) -> HealthcheckResult | None:
        """None when the container has been paused or has ended meanwhile."""
        started = time.time()
        identifier, command = new_id(), " ".join(check.args)
        request = exec_request(
            container, identifier, list(check.args), env=[], default_ulimits=self._parts.config.default_ulimits
        )
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            try:
                # A pause waits: frozen before it is whole, the process would keep its shim waiting, and the shim the next engine.
                async with container.lock:
                    if container.task is not task or container.status is not Status.RUNNING:
                        return None
                    self._emit(container, f"exec_create: {command}", identifier)
                    process = await task.exec(request, [AttachStream(fd=theirs.detach(), stdout=True, stderr=True)])
            except LaunchFailed as failure:
                return _result(started, -1, exec_error(failure, check.args[0]).message)
            except BerthError as error:
                return _result(started, -1, error.message)
            self._emit(container, f"exec_start: {command}", identifier)
            reading = asyncio.create_task(_read(ours))
            try:
                ended = await asyncio.wait_for(process.wait(), check.timeout)
                self._emit(container, "exec_die", identifier, ended)
                output = await asyncio.wait_for(reading, 2)
                return _result(started, ended.code, output)
            except TimeoutError:
                await self._give_up(container, identifier, process)
                return _result(started, -1, f"Health check exceeded timeout ({_go_seconds(check.timeout)})")
            finally:
                reading.cancel()

    async def _give_up(self, container: Container, identifier: str, process: ExecTask) -> None:
        """End a probe that takes too long, or whose output does not end."""
        if process.exit is not None:
            return
        try:
            await process.kill(9)
            self._emit(container, "exec_die", identifier, await asyncio.wait_for(process.wait(), _DEATH))
        except (BerthError, TimeoutError):
            # It has just ended by itself, or hangs in the kernel.
            pass

    def _emit(self, container: Container, action: str, identifier: str, ended: Exit | None = None) -> None:
        code = {"exitCode": str(ended.code)} if ended is not None else {}
        self._parts.emit(container, action, {"execID": identifier, **code})


async def _read(source: socket.socket) -> str:
    """All output, of which the first 4096 bytes are kept."""
    loop = asyncio.get_running_loop()
    kept = b""
    while data := await loop.sock_recv(source, 65536):
        kept += data[: _OUTPUT - len(kept)]
    return kept.decode("utf-8", "replace")


def _go_seconds(seconds: float) -> str:
    return f"{seconds:g}s"


def _result(started: float, code: int, output: str) -> HealthcheckResult:
    return HealthcheckResult(start=rfc3339(started), end=rfc3339(time.time()), exit_code=code, output=output[:_OUTPUT])
