"""Processes started in running containers."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from berth.client.engine import Engine
from berth.client.stream import Hijacked


class ExecConfig(Struct, kw_only=True, omit_defaults=True):
    """What to run, and which of its streams to attach."""

    cmd: list[str] = field(name="Cmd")
    env: list[str] | None = field(name="Env", default=None)
    user: str | None = field(name="User", default=None)
    working_dir: str | None = field(name="WorkingDir", default=None)
    tty: bool | None = field(name="Tty", default=None)
    privileged: bool | None = field(name="Privileged", default=None)
    attach_stdin: bool | None = field(name="AttachStdin", default=None)
    attach_stdout: bool | None = field(name="AttachStdout", default=None)
    attach_stderr: bool | None = field(name="AttachStderr", default=None)
    detach_keys: str | None = field(name="DetachKeys", default=None)
    console_size: list[int] | None = field(name="ConsoleSize", default=None)
    on_disconnect: str | None = field(name="OnDisconnect", default=None)


class ExecInspect(Struct, kw_only=True):
    """What became of it. `exit_code` is None while it runs."""

    id: str | None = field(name="ID", default=None)
    running: bool = field(name="Running", default=False)
    exit_code: int | None = field(name="ExitCode", default=None)
    pid: int | None = field(name="Pid", default=None)
    container_id: str | None = field(name="ContainerID", default=None)


class Execs:
    """Exec instances by id."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, container: str, config: ExecConfig) -> str:
        """The id of a new instance, not started yet."""
        answer: dict[str, Any] = self._engine.json("POST", f"/containers/{container}/exec", body=config)
        return str(answer["Id"])

    def start(self, exec_id: str, *, tty: bool) -> Hijacked:
        """Start with the streams attached."""
        return self._engine.hijack(f"/exec/{exec_id}/start", tty=tty, body={"Detach": False, "Tty": tty})

    def start_detached(self, exec_id: str, *, tty: bool = False) -> None:
        """Start and leave alone."""
        self._engine.raw("POST", f"/exec/{exec_id}/start", body={"Detach": True, "Tty": tty})

    def inspect(self, exec_id: str) -> ExecInspect:
        """Whether it runs, and how it ended."""
        return self._engine.typed(ExecInspect, "GET", f"/exec/{exec_id}/json")

    def end(self, exec_id: str) -> None:
        """End it and what it started: an extension of berthd. Conflict when it does not run."""
        self._engine.raw("DELETE", f"/exec/{exec_id}")

    def resize(self, exec_id: str, *, height: int, width: int) -> None:
        """The size of the terminal, in characters."""
        self._engine.raw("POST", f"/exec/{exec_id}/resize", query={"h": height, "w": width})
