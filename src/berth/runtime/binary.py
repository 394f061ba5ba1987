"""The command line of another OCI runtime (runc, crun, runsc ...): run it, and understand what it complains of. Lean.

A command is a small dict, JSON-able, in the plan and in the run state:

    path      the binary
    options   what comes before the subcommand: --root DIR and the like
    hidden    a mount point that the binary must not see, or ""
"""

from __future__ import annotations

import errno
import json
import os
import select

from berth import failpoint
from berth.kernel import mount, namespace
from berth.kernel.process import reset_signals
from berth.runtime.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Command = dict[str, Any]
    Stdio = tuple[int, int, int]

_LOG = "log.json"
_ERRORS = "stderr"
_LONGEST = 1 << 16
# Removing a container that has ended takes some ten milliseconds; a binary that hangs must not hold up whoever waits.
_PATIENCE_MS = 15_000
_TRIES = 3
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_NUMBERS = {
    "no such file or directory": errno.ENOENT,
    "not a directory": errno.ENOTDIR,
    "permission denied": errno.EACCES,
    "is a directory": errno.EISDIR,
    "exec format error": errno.ENOEXEC,
}


def call(command: Command, arguments: list[str], directory: str, stdio: Stdio | None = None) -> None:
    """Run a subcommand to its end, in `directory`, where it may leave files. Failure says what it complained of.

    `stdio` is what a new process of the container inherits; without one it is nothing.
    """
    for name in _LOG, _ERRORS:
        if os.path.exists(f"{directory}/{name}"):
            os.unlink(f"{directory}/{name}")
    pid = os.fork()
    if pid == 0:
        _execute(command, arguments, directory, stdio)
    _, status = os.waitpid(pid, 0)
    if status:
        raise complaint(_last_words(directory) or f"{command['path']} ended with {os.waitstatus_to_exitcode(status)}")


def _execute(command: Command, arguments: list[str], directory: str, stdio: Stdio | None) -> NoReturn:
    try:
        reset_signals()
        os.chdir(directory)
        errors = os.open(_ERRORS, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if command["hidden"]:
            namespace.unshare(namespace.CLONE_NEWNS)
            mount.make_slave()
            mount.umount2(command["hidden"])
        null = os.open("/dev/null", os.O_RDWR)
        for number, fd in enumerate(stdio or (null, null, errors)):
            os.dup2(fd, number)
        failpoint.hit("foreign.binary.before-exec")
        log = ["--log", _LOG, "--log-format", "json"]
        os.execve(command["path"], [command["path"], *command["options"], *log, *arguments], _ENVIRONMENT)
    except OSError as error:
        with open(f"{directory}/{_ERRORS}", "w") as file:
            file.write(f"{error.filename or command['path']}: {error.strerror}")
    finally:
        os._exit(127)


def _last_words(directory: str) -> str:
    """Its last error in the log; else what it printed."""
    message = ""
    for line in _read(f"{directory}/{_LOG}").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("level") in ("error", "fatal"):
            message = str(record.get("msg", ""))
    return message or _read(f"{directory}/{_ERRORS}").strip()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST)
    except OSError:
        return ""


def complaint(text: str) -> Failure:
    """A complaint about the command or the working directory as the step that it is; any other as it stands."""
    lower = text.lower()
    name = _quoted(text, "exec: ") or _quoted(text, "executable file ")
    if lower.startswith("open executable: "):
        # crun, which does not say which; a directory it may not open at all.
        return Failure("execve", errno.EACCES, "")
    if "executable file" in lower and "not found" in lower:
        return Failure("execve", errno.ENOENT, name)
    for words, number in _NUMBERS.items():
        if words in lower and "chdir to cwd" in lower:
            return Failure("chdir", number, _quoted(text, "cwd (") or _quoted(text, "chdir to "))
        if words in lower and name:
            return Failure("execve", number, name)
    return Failure("runtime", 0, text)


def _quoted(text: str, after: str) -> str:
    """What stands in quotes or backquotes right behind a word."""
    rest = text.partition(after)[2]
    return rest[1:].partition(rest[:1])[0] if rest[:1] in ('"', "`", "'") else ""


def delete(command: Command, id: str) -> None:
    """Kill what is left of a container, and remove what the binary keeps of it. Idempotent; waits a bounded time.

    A binary that is killed at it is called again: it has control groups that only it knows of.
    """
    kept = f"{command['options'][1]}/{id}"
    for _ in range(_TRIES):
        if _delete(command, id) or not os.path.exists(kept):
            return


def _delete(command: Command, id: str) -> bool:
    """Whether there is nothing more to be had from it."""
    arguments = [command["path"], *command["options"], "delete", "--force", id]
    nowhere = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]
    try:
        pid = os.posix_spawn(command["path"], arguments, _ENVIRONMENT, file_actions=nowhere)
    except OSError:
        # The binary is gone: nothing that it keeps does any harm, and the control group is removed without it.
        return True
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(_PATIENCE_MS):
        os.kill(pid, 9)
    os.close(pidfd)
    return os.waitpid(pid, 0)[1] == 0
