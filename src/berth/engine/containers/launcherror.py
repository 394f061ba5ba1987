"""What a failed launch is called in Docker's words. Its clients derive exit codes 126 and 127 from them."""

from __future__ import annotations

import errno
import os

from berth.contract.runtime import LaunchFailed
from berth.errors import BerthError, InvalidArgument

_START = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
_EXEC = "OCI runtime exec failed: exec failed: "
_TEXT = {
    errno.EACCES: "permission denied",
    errno.EISDIR: "is a directory",
    errno.ENOEXEC: "exec format error",
    errno.ENOTDIR: "not a directory",
}
# What the kernel says of a request that it cannot do. The rest (no memory, no room, a disk that failed) is the host's.
_REFUSED = {
    errno.EACCES, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENOENT,
    errno.ENOTDIR, errno.ENXIO, errno.EOPNOTSUPP, errno.EPERM, errno.ERANGE,
}  # fmt: skip


class StartFailed(BerthError):
    """The container could not be started for a reason within the engine or the host. `code` is its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class CommandFailed(InvalidArgument):
    """What was asked for cannot be run: 127 when the command does not exist, 126 when it may not be executed, 128 when the
    kernel refuses what it was to be given."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _process_error(failure: LaunchFailed, program: str) -> str:
    number = failure.errno
    if failure.step == "execve":
        name = failure.path or program
        if number == errno.ENOENT and "/" not in name:
            return f'exec: "{name}": executable file not found in $PATH'
        if number == errno.ENOENT:
            return f'exec: "{name}": stat {name}: no such file or directory'
        return f'exec: "{name}": {_TEXT.get(number) or os.strerror(number).lower()}'
    if failure.step == "chdir":
        reason = _TEXT.get(number) or os.strerror(number).lower()
        return f'chdir to cwd ("{failure.path}") set in config.json failed: {reason}'
    return failure.message


def exit_code(failure: LaunchFailed) -> int:
    """127 for an executable or working directory that is missing, 126 for one that may not be used, else 128, as with Docker."""
    if failure.step == "execve":
        return 127 if failure.errno == errno.ENOENT else 126
    if failure.step == "chdir" and failure.errno == errno.ENOENT:
        return 127
    return 126 if failure.step == "chdir" and failure.errno in (errno.EACCES, errno.ENOTDIR) else 128


def start_error(failure: LaunchFailed, program: str) -> StartFailed | CommandFailed:
    """What POST start answers."""
    code = exit_code(failure)
    if failure.step == "user":
        return CommandFailed(failure.message, 128)
    if failure.step not in ("execve", "chdir"):
        return (CommandFailed if failure.errno in _REFUSED else StartFailed)(failure.message, code)
    # runc says where it was when it made a container, and nothing of it when it entered one.
    during = "" if failure.step == "execve" else "error during container init: "
    text = f"{_START}unable to start container process: {during}{_process_error(failure, program)}: unknown"
    return CommandFailed(text, code)


def exec_error(failure: LaunchFailed, program: str) -> CommandFailed:
    """What exec start answers, or writes into the stream when it has already begun."""
    code = 126 if failure.step not in ("execve", "chdir") else exit_code(failure)
    if failure.step == "runtime":
        return CommandFailed(f"OCI runtime exec failed: {failure.path}: unknown", code)
    if failure.step == "user":
        return CommandFailed(failure.message, 126)
    return CommandFailed(f"{_EXEC}unable to start container process: {_process_error(failure, program)}: unknown", code)
