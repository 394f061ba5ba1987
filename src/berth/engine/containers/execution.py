"""A further process in a container (exec): its request, and the instance that the API names by an id."""

from __future__ import annotations

import asyncio
import time

from msgspec import Struct, field, json, structs

from berth.contract.runtime import ExecRequest, ExecTask
from berth.engine.config import Ulimit
from berth.engine.containers import capability, confinement, spec
from berth.engine.containers.defaults import replace_env, words
from berth.engine.containers.record import Container
from berth.model import oci
from berth.wire.container import ProcessConfig


class ExecBody(Struct, kw_only=True, omit_defaults=True):
    """The body of POST /containers/{id}/exec. `on_disconnect`, which Docker's does not have, is keep or kill."""

    attach_stdin: bool | None = field(name="AttachStdin", default=None)
    attach_stdout: bool | None = field(name="AttachStdout", default=None)
    attach_stderr: bool | None = field(name="AttachStderr", default=None)
    console_size: list[int] | None = field(name="ConsoleSize", default=None)
    detach_keys: str | None = field(name="DetachKeys", default=None)
    tty: bool | None = field(name="Tty", default=None)
    env: list[str] | None = field(name="Env", default=None)
    cmd: str | list[str] | None = field(name="Cmd", default=None)
    privileged: bool | None = field(name="Privileged", default=None)
    user: str | None = field(name="User", default=None)
    working_dir: str | None = field(name="WorkingDir", default=None)
    detach: bool | None = field(name="Detach", default=None)
    on_disconnect: str | None = field(name="OnDisconnect", default=None)


class ExecInspect(Struct, kw_only=True):
    """The answer of GET /exec/{id}/json."""

    id: str = field(name="ID")
    running: bool = field(name="Running")
    exit_code: int | None = field(name="ExitCode")
    process: ProcessConfig = field(name="ProcessConfig")
    open_stdin: bool = field(name="OpenStdin")
    open_stdout: bool = field(name="OpenStdout")
    open_stderr: bool = field(name="OpenStderr")
    can_remove: bool = field(name="CanRemove", default=False)
    container_id: str = field(name="ContainerID")
    detach_keys: str = field(name="DetachKeys", default="")
    pid: int = field(name="Pid")


class Execution:
    """One exec. It keeps its exit code until the container is started anew or removed, or for some minutes."""

    def __init__(self, identifier: str, container: Container, body: ExecBody, args: list[str]) -> None:
        self.id = identifier
        self.container = container
        self.body = body
        self.args = args
        self.task: ExecTask | None = None
        self.claimed = False
        # Set once the process has been started, or cannot be.
        self.settled = asyncio.Event()
        self.running = False
        self.exit_code: int | None = None
        self.ended_at = 0.0

    @property
    def tty(self) -> bool:
        """Whether it has a terminal."""
        return bool(self.body.tty)

    @classmethod
    def restored(cls, identifier: str, container: Container, task: ExecTask) -> Execution | None:
        """One that an earlier engine started; None for a health probe, which has no name in the API."""
        if not task.about:
            return None
        body = json.decode(task.about, type=ExecBody)
        execution = cls(identifier, container, body, words(body.cmd))
        execution.claimed = True
        execution.started(task)
        if task.exit is not None:
            execution.ended(task.exit.code)
        return execution

    def started(self, task: ExecTask) -> None:
        """The process runs."""
        self.task, self.running = task, True
        self.settled.set()

    def ended(self, code: int) -> None:
        """The process is gone, or never came to be."""
        if self.exit_code is None:
            self.exit_code = code
        self.running, self.ended_at = False, time.monotonic()
        self.settled.set()

    def container_ended(self) -> None:
        """Its container ended, and took it along."""
        if self.running:
            self.ended(137)

    def request(self, size: tuple[int, int], default_ulimits: tuple[Ulimit, ...], on_disconnect: str) -> ExecRequest:
        """What the runtime gets. `on_disconnect` is the container's, for a request that says nothing."""
        body = self.body
        return exec_request(
            self.container,
            self.id,
            self.args,
            env=list(body.env or []),
            user=body.user or "",
            cwd=body.working_dir or "",
            terminal=self.tty,
            privileged=bool(body.privileged),
            size=size,
            default_ulimits=default_ulimits,
            # The environment may hold secrets, and nobody asks for it again.
            about=json.encode(structs.replace(body, env=None)).decode(),
            ends_with_client=(body.on_disconnect or on_disconnect) == "kill",
        )

    def inspect(self) -> ExecInspect:
        """The API's view."""
        body = self.body
        program, *arguments = self.args
        return ExecInspect(
            id=self.id,
            running=self.running,
            exit_code=self.exit_code,
            process=ProcessConfig(
                tty=self.tty, entrypoint=program, arguments=arguments, privileged=bool(body.privileged), user=body.user or ""
            ),
            open_stdin=bool(body.attach_stdin),
            open_stdout=bool(body.attach_stdout),
            open_stderr=bool(body.attach_stderr),
            container_id=self.container.id,
            detach_keys=body.detach_keys or "",
            pid=self.task.pid if self.task is not None else 0,
        )


def exec_request(
    container: Container,
    identifier: str,
    args: list[str],
    *,
    env: list[str],
    user: str = "",
    cwd: str = "",
    terminal: bool = False,
    privileged: bool = False,
    size: tuple[int, int] = (0, 0),
    default_ulimits: tuple[Ulimit, ...] = (),
    about: str = "",
    ends_with_client: bool = False,
) -> ExecRequest:
    """A process with the container's environment, user, directory, ulimits and confinement, unless told otherwise."""
    config, host = container.record.config, container.record.host_config
    whole = privileged or bool(host.privileged)
    held = list(
        capability.effective(host.cap_add or [], host.cap_drop or [], privileged=whole, host_user=not container.state.id_map)
    )
    options = confinement.security_of(container.record)
    extra = ["TERM=xterm", *env] if terminal else env
    chosen = user or config.user or ""
    process = oci.Process(
        terminal=terminal,
        user=spec.numeric_user(chosen),
        args=args,
        env=replace_env(spec.process_env(config, config.hostname or "", container.state.linked), extra),
        cwd=cwd or config.working_dir or "/",
        capabilities=oci.Capabilities(bounding=held, effective=held, permitted=held),
        rlimits=spec.rlimits(host, default_ulimits),
        no_new_privileges=options.no_new_privileges,
        apparmor_profile=confinement.apparmor_profile(options),
        oom_score_adj=host.oom_score_adj or 0,
    )
    return ExecRequest(
        id=identifier,
        process=process,
        user=chosen,
        groups=tuple(host.group_add or ()),
        terminal=terminal,
        height=size[0],
        width=size[1],
        privileged=privileged,
        about=about,
        ends_with_client=ends_with_client,
    )
