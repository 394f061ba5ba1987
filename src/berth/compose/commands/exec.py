"""exec and cp: into a container that runs."""

from __future__ import annotations

from dataclasses import dataclass

from berth.client.exec import ExecConfig
from berth.compose.commands.ps import pick
from berth.compose.session import Session


@dataclass(frozen=True)
class ExecOptions:
    """Options of exec. `tty` and `interactive` are on unless -T and --interactive=false."""

    service: str
    command: tuple[str, ...]
    detach: bool = False
    env: tuple[str, ...] = ()
    index: int = 0
    interactive: bool = True
    privileged: bool = False
    tty: bool = True
    user: str | None = None
    workdir: str | None = None


def run(session: Session, options: ExecOptions) -> int:
    """The exit code of the command."""
    container = pick(session, options.service, options.index)
    engine = session.engine
    # Without a terminal of our own, a terminal inside would only spoil the output.
    tty = options.tty and not options.detach and session.terminal.is_terminal()
    attached = not options.detach
    exec_id = engine.execs.create(
        container.id,
        ExecConfig(
            cmd=list(options.command),
            env=[resolve(entry, session) for entry in options.env] or None,
            user=options.user,
            working_dir=options.workdir,
            tty=tty or None,
            privileged=options.privileged or None,
            attach_stdin=(attached and options.interactive) or None,
            attach_stdout=attached or None,
            attach_stderr=attached or None,
        ),
    )
    if options.detach:
        engine.execs.start_detached(exec_id)
        return 0

    def resize(height: int, width: int) -> None:
        engine.execs.resize(exec_id, height=height, width=width)

    with engine.execs.start(exec_id, tty=tty) as stream, session.terminal.prepared(resize, raw=tty):
        if session.terminal.join(stream, stdin=options.interactive):
            return 0
    return engine.execs.inspect(exec_id).exit_code or 0


def resolve(entry: str, session: Session) -> str:
    """NAME=VALUE; a bare NAME takes the value of the surroundings."""
    return entry if "=" in entry else f"{entry}={session.options.environ.get(entry, '')}"
