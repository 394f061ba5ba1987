"""ExecService: further processes in running containers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress

from berth import failpoint
from berth.contract.runtime import AttachStream, ExecTask, LaunchFailed
from berth.engine.containers.attaching import parse_detach_keys
from berth.engine.containers.defaults import words
from berth.engine.containers.execution import ExecBody, ExecInspect, Execution
from berth.engine.containers.launcherror import exec_error
from berth.engine.containers.lifecycle import Status, require_task
from berth.engine.containers.record import Container
from berth.engine.containers.service import ContainerService
from berth.engine.containers.telling import Told
from berth.engine.containers.validation import check_terminal_size, console_size
from berth.errors import BerthError, Conflict, InvalidArgument, NotFound
from berth.model.identifier import is_id_prefix, new_id, short_id

log = logging.getLogger("berth.exec")
# Docker's clients ask for the exit code right after the end; nobody comes back minutes later.
_KEEP_SECONDS = 300.0
# How long a resize waits for the process to be started, as in Docker.
_START_SECONDS = 10.0


class ExecService:
    """Execs by id. They live in memory; those that were started, the shims remember for an engine that starts later."""

    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers
        self._parts = containers.parts
        self._execs: dict[str, Execution] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    def restore(self) -> None:
        """At engine start, after the containers: find the execs that an earlier engine started."""
        told = Told(self._parts.events.kept)
        for container in self._parts.catalog:
            task = container.live_task()
            if task is not None:
                for identifier in task.exec_ids():
                    self._adopt(container, identifier, task.find_exec(identifier), told)

    def _adopt(self, container: Container, identifier: str, process: ExecTask | None, told: Told) -> None:
        execution = Execution.restored(identifier, container, process) if process is not None else None
        if process is None or execution is None:
            return
        self._execs[identifier] = container.execs[identifier] = execution
        # What the earlier engine did not come to tell, and what has happened since.
        if told.lacks_exec(container.id, identifier, "exec_start"):
            self._emit(execution, f"exec_start: {' '.join(execution.args)}")
        if execution.running:
            self._watch(execution, process)
        elif told.lacks_exec(container.id, identifier, "exec_die"):
            self._emit(execution, "exec_die", {"exitCode": str(execution.exit_code)})

    def create(self, reference: str, body: ExecBody) -> str:
        """A new exec, not started. Conflict unless the container runs and is not frozen."""
        container = self._containers.get(reference)
        args = words(body.cmd)
        if not args:
            raise InvalidArgument("No exec command specified")
        if container.status is Status.PAUSED:
            # Docker repeats the name as it was given.
            raise Conflict(f"Container {reference} is paused, unpause the container before exec")
        require_task(container.id, container.status)
        if container.task is not None:
            container.task.check("exec")
        for entry in body.env or []:
            if not entry or entry.startswith("="):
                raise InvalidArgument(f"invalid environment variable: {entry}")
        if body.working_dir and not body.working_dir.startswith("/"):
            raise InvalidArgument(f"the working directory '{body.working_dir}' is invalid, it needs to be an absolute path")
        parse_detach_keys(body.detach_keys)
        if body.on_disconnect not in (None, "", "keep", "kill"):
            raise InvalidArgument(f"invalid OnDisconnect {body.on_disconnect!r}: it is keep or kill")
        self._forget_old()
        execution = Execution(new_id(), container, body, args)
        self._execs[execution.id] = execution
        container.execs[execution.id] = execution
        self._emit(execution, f"exec_create: {' '.join(args)}")
        return execution.id

    def _emit(self, execution: Execution, action: str, extra: dict[str, str] | None = None) -> None:
        self._parts.emit(execution.container, action, {"execID": execution.id, **(extra or {})})

    def _forget_old(self) -> None:
        now = time.monotonic()
        for identifier, execution in list(self._execs.items()):
            container_gone = self._parts.catalog.find(execution.container.id) is None
            if container_gone or (execution.ended_at and now - execution.ended_at > _KEEP_SECONDS):
                del self._execs[identifier]
                execution.container.execs.pop(identifier, None)

    def get(self, identifier: str) -> Execution:
        """By id or unambiguous prefix; NotFound in Docker's words."""
        found = self._execs.get(identifier)
        if found is not None:
            return found
        matches = [e for i, e in self._execs.items() if i.startswith(identifier)] if is_id_prefix(identifier) else []
        if len(matches) != 1:
            raise NotFound(f"No such exec instance: {identifier}")
        return matches[0]

    def terminal_size(self, identifier: str, start: ExecBody) -> tuple[int, int]:
        """Rows and columns that its terminal begins with, by the start or by the create. InvalidArgument."""
        return console_size(start.console_size or self.get(identifier).body.console_size)

    def claim(self, identifier: str) -> Execution:
        """Before the connection is taken over: an exec is started once, in a container that runs."""
        execution = self.get(identifier)
        if execution.running:
            raise Conflict(f"exec command {execution.id} is already running")
        if execution.claimed:
            raise Conflict(f"exec command {execution.id} has already run")
        require_task(execution.container.id, execution.container.status)
        execution.claimed = True
        return execution

    async def start(self, execution: Execution, streams: Sequence[AttachStream], size: tuple[int, int] = (0, 0)) -> None:
        """Run it. The streams' descriptors are owned by this call, also when it fails in Docker's words."""
        async with execution.container.lock:
            task = execution.container.live_task()
            if task is None or execution.container.status is Status.PAUSED:
                # Since it was claimed.
                for stream in streams:
                    os.close(stream.fd)
                execution.ended(126)
                require_task(execution.container.id, execution.container.status)
                raise Conflict(f"container {execution.container.id} is not running")
            try:
                failpoint.hit("exec.start.before-process")
                settings = self._parts.settings(execution.container)
                request = execution.request(size, self._parts.config.default_ulimits, settings.exec_on_disconnect)
                process = await task.exec(request, streams)
            except LaunchFailed as failure:
                error = exec_error(failure, execution.args[0])
                execution.ended(error.code)
                raise error from failure
            except BerthError:
                execution.ended(126)
                raise
            execution.started(process)
            failpoint.hit("exec.start.after-process")
        self._emit(execution, f"exec_start: {' '.join(execution.args)}")
        self._watch(execution, process)

    def _watch(self, execution: Execution, process: ExecTask) -> None:
        watcher = asyncio.create_task(self._await_end(execution, process), name=f"exec {short_id(execution.id)}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _await_end(self, execution: Execution, process: ExecTask) -> None:
        try:
            code = (await process.wait()).code
        except BerthError as error:
            log.error("lost exec %s: %s", short_id(execution.id), error.message)
            code = 255
        execution.ended(code)
        self._emit(execution, "exec_die", {"exitCode": str(execution.exit_code)})

    async def end(self, identifier: str) -> None:
        """End it and what it started. Conflict unless it runs."""
        execution = self.get(identifier)
        if execution.task is None or not execution.running:
            raise Conflict(f"exec process is not running: {execution.id}")
        await execution.task.end()

    def inspect(self, identifier: str) -> ExecInspect:
        """Its state."""
        return self.get(identifier).inspect()

    async def resize(self, identifier: str, height: int, width: int) -> None:
        """The terminal's size. A client asks as soon as it has the head of the start's answer: then the process is waited for. An
        exec without a terminal takes no notice, as with Docker."""
        execution = self.get(identifier)
        check_terminal_size(height, width)
        if execution.claimed:
            with suppress(TimeoutError):
                await asyncio.wait_for(execution.settled.wait(), _START_SECONDS)
        if execution.task is None or not execution.running:
            raise Conflict(f"exec process is not running: {execution.id}")
        if execution.tty:
            await execution.task.resize(height, width)
