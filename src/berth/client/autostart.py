"""Starting `berthd` when nobody did: the embedded default, so that the first command needs no set-up.

The engine gets its own session, so that it outlives the terminal; leaving the session's cgroup is its own affair. What it
prints goes to a log file whose end is shown when it does not come up.
"""

from __future__ import annotations

import os
import sys
import time

from berth.client.address import BERTH_SOCKET
from berth.errors import Forbidden, Unavailable

DEFAULT_SOCKET = BERTH_SOCKET
LOG = "/var/log/berth.log"
WAIT_SECONDS = 30.0


def start_engine(
    *, socket: str = DEFAULT_SOCKET, root: str | None = None, log: str | None = None, wait: float = WAIT_SECONDS
) -> None:
    """Start the engine and wait until it answers. Raises Forbidden (not root) or Unavailable (it did not come up)."""
    if os.geteuid() != 0:
        raise Forbidden(
            f"no engine listens at unix://{socket} and only root may start one: "
            "run `sudo berthd`, or name an engine with --host or DOCKER_HOST"
        )
    path = log or (os.path.join(root, "berthd.log") if root else LOG)
    arguments = [] if socket == DEFAULT_SOCKET else ["--socket", socket]
    arguments += ["--root", root] if root else []
    try:
        if root:
            os.makedirs(root, mode=0o700, exist_ok=True)
        process = _spawn(arguments, path)
    except OSError as error:
        raise Unavailable(f"cannot start berthd: {error.filename or root}: {error.strerror}") from error
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        if answers(socket):
            return
        ended, status = os.waitpid(process, os.WNOHANG)
        # Another command may have started an engine at the same moment: the loser ends, the winner answers.
        if ended and not answers(socket):
            code = os.waitstatus_to_exitcode(status)
            raise Unavailable(f"berthd ended at once (exit code {code}); its log is {path}:\n{_tail(path)}")
        time.sleep(0.02)
    raise Unavailable(f"berthd did not answer at unix://{socket} within {wait:.0f} seconds; its log is {path}:\n{_tail(path)}")


def answers(socket_path: str) -> bool:
    """Whether an engine answers at a unix socket."""
    from berth.client.address import Address
    from berth.client.engine import Engine

    try:
        with Engine(Address(path=socket_path)) as engine:
            engine.system.ping()
    except (Unavailable, Forbidden):
        return False
    return True


def _spawn(arguments: list[str], log: str) -> int:
    os.makedirs(os.path.dirname(log), exist_ok=True)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            command = _command()
            return os.posix_spawn(
                command[0],
                [*command, *arguments],
                dict(os.environ),
                file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, sink, 1), (os.POSIX_SPAWN_DUP2, sink, 2)],
                setsid=True,
            )
        finally:
            os.close(null)
    finally:
        os.close(sink)


def _command() -> list[str]:
    """The engine's script beside our interpreter, else the interpreter with the module. -P: the working directory is not
    searched for modules."""
    script = os.path.join(os.path.dirname(sys.executable), "berthd")
    if os.access(script, os.X_OK):
        return [sys.executable, "-P", script]
    return [sys.executable, "-P", "-c", "from berth.api.main import main; main()"]


def _tail(path: str, lines: int = 15) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(cannot be read: {error})"
