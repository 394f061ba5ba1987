"""The files that tell of a run of a container, and where they are.

    <run>/shims/<id>.sock         where the shim listens (the directory is 0700, the socket 0600)
    <run>/shims/<id>.json         the run: pids with start times, control group, what `launch.enter` needs, the directory
    <run>/shims/<id>.exit.json    the exit record, if it could not be written into the container's directory
    <run>/shims/<id>.oci          of a container that another runtime's binary made: how that one is called (runtime.binary)
    <directory>/exit.json         the exit record: how init ended

All are replaced by rename and not flushed: after a power cut nothing runs, and what an exit record said does not matter.
Lean code.
"""

from __future__ import annotations

import _socket
import errno
import json
import os
from time import CLOCK_BOOTTIME, clock_gettime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]


def shims(run: str) -> str:
    """The directory of sockets and run files."""
    return f"{run}/shims"


def state_path(run: str, id: str) -> str:
    """The run file."""
    return f"{run}/shims/{id}.json"


def socket_path(run: str, id: str) -> str:
    """The shim's socket."""
    return f"{run}/shims/{id}.sock"


def command_path(run: str, id: str) -> str:
    """How the binary is called that made the container, where it was another runtime's."""
    return f"{run}/shims/{id}.oci"


def exit_paths(run: str, id: str, directory: str) -> tuple[str, str]:
    """Where the exit record may be, the better place first."""
    return f"{directory}/exit.json", f"{run}/shims/{id}.exit.json"


def write(path: str, document: Document) -> None:
    """Replace a file."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, json.dumps(document, separators=(",", ":")).encode())
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        remove(temporary)
        raise


def read(path: str) -> Document | None:
    """A file's document; None when it is missing or not whole. OSError when this process has too many files open to say."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read())
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None
    return document if isinstance(document, dict) else None


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def uptime() -> float:
    """Seconds since the host was booted, by a clock that nobody sets and that goes on while the host sleeps: durations are
    measured by it."""
    return clock_gettime(CLOCK_BOOTTIME)


def ended(status: int, at: float) -> Document:
    """A wait status in Docker's terms: 128 + signal for a signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"code": 128 + number, "signal": number, "at": at}
    return {"code": os.WEXITSTATUS(status), "signal": 0, "at": at}


def write_exit(run: str, id: str, directory: str, document: Document) -> None:
    """Write the exit record, in the run directory when the container's is gone or full. OSError when neither works."""
    better, other = exit_paths(run, id, directory)
    try:
        write(better, document)
    except OSError:
        write(other, document)


def read_exit(run: str, id: str, directory: str) -> Document | None:
    """The exit record, or None."""
    better, other = exit_paths(run, id, directory)
    return read(other) or read(better)


def remove_run_files(run: str, id: str) -> None:
    """Everything but the exit record in the container's directory."""
    remove(socket_path(run, id))
    remove(state_path(run, id))
    remove(exit_paths(run, id, "")[1])
    remove(command_path(run, id))


def at_socket(run: str, id: str, action: Callable[[str], None]) -> None:
    """Call `action` with an address of the shim's socket that is short enough for the kernel, however long `run` is."""
    directory = os.open(shims(run), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        action(f"/proc/self/fd/{directory}/{id}.sock")
    finally:
        os.close(directory)


def listen(run: str, id: str) -> _socket.socket:
    """Make the shim's socket, in place of a dead one."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    remove(socket_path(run, id))
    before = os.umask(0o177)
    try:
        at_socket(run, id, sock.bind)
    finally:
        os.umask(before)
    sock.listen(16)
    return sock
