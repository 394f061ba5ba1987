"""The containers below --root, one directory each, and their states.

    <root>/<id>/state.json   what `state`, `exec`, `kill` and `delete` need to know; `pid` is 0 until init exists
    <root>/<id>/start        the socket on which init waits between create and start
    <root>/.berth/           compiled filters, and the empty folder where mount points are made

A directory that cannot be made because it exists is how two commands with the same id exclude each other. Nothing here
survives a reboot, nor has to.
"""

from __future__ import annotations

import errno
import os
from time import gmtime, strftime, time_ns

from berth.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from berth.kernel import process
from berth.kernel.file import read_text
from berth.runtime import cgroup
from berth.runtime.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

FILE, SOCKET = "state.json", "start"
_PUNCTUATION = "_+-."


class Container:
    """One of them. `values` are those of state.json."""

    def __init__(self, root: str, id: str, values: dict[str, Any]) -> None:
        self.id = id
        self.directory = f"{root}/{id}"
        self.values = values

    @property
    def run(self) -> dict[str, Any]:
        """What `runtime.launch` calls the state of a container: enough to enter it and to end it."""
        found: dict[str, Any] = self.values["run"]
        return found

    @property
    def pid(self) -> int:
        """Init's process id; 0 before it exists and after it has ended."""
        pid: int = self.run.get("pid", 0)
        return pid if pid and _alive(pid, self.run["start_time"]) else 0

    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        if not self.run.get("pid"):
            return "creating" if _alive(*self.values["creator"]) else "stopped"
        if not self.pid:
            return "stopped"
        if cgroup.frozen(self.run["cgroup"]):
            return "paused"
        return "created" if os.path.exists(f"{self.directory}/{SOCKET}") else "running"

    def document(self) -> dict[str, Any]:
        """As the specification wants it, with what runc adds."""
        status = self.status()
        values = self.values
        return {
            "ociVersion": values["ociVersion"],
            "id": self.id,
            "pid": self.pid if status != "stopped" else 0,
            "status": status,
            "bundle": values["bundle"],
            "rootfs": values["rootfs"],
            "created": values["created"],
            **({"annotations": values["annotations"]} if values["annotations"] else {}),
            "owner": "",
        }

    def save(self) -> None:
        """Write state.json, whole or not at all."""
        path = f"{self.directory}/{FILE}"
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, jsontext.encode(self.values).encode())
        finally:
            os.close(fd)
        os.rename(path + ".new", path)

    def discard(self) -> None:
        """Remove the directory."""
        for name in (SOCKET, FILE, FILE + ".new"):
            try:
                os.unlink(f"{self.directory}/{name}")
            except FileNotFoundError:
                pass
        os.rmdir(self.directory)

    def require(self, *statuses: str) -> None:
        """Conflict unless it is in one of these."""
        if self.status() not in statuses:
            raise Conflict("container not running")


def _alive(pid: int, start_time: int) -> bool:
    """Whether this very process lives; a zombie does not."""
    try:
        fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and int(fields[19]) == start_time


def check_id(id: str) -> None:
    """InvalidArgument for a name that is none, or could lead out of the directory."""
    if not id or not all(c in _PUNCTUATION or (c.isascii() and c.isalnum()) for c in id) or id.startswith("."):
        raise InvalidArgument("invalid container ID format")


def make(root: str, id: str, values: dict[str, Any]) -> Container:
    """A new one. AlreadyExists when the id is taken."""
    check_id(id)
    os.makedirs(root, 0o700, exist_ok=True)
    now = time_ns()
    me = os.getpid()
    created = strftime("%Y-%m-%dT%H:%M:%S", gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"
    container = Container(root, id, {**values, "created": created, "creator": [me, process.start_time(me)]})
    try:
        os.mkdir(container.directory, 0o711)
    except FileExistsError:
        raise AlreadyExists("container with given ID already exists") from None
    container.save()
    return container


def load(root: str, id: str) -> Container:
    """One that exists. NotFound."""
    check_id(id)
    try:
        text = read_text(f"{root}/{id}/{FILE}")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        raise NotFound("container does not exist") from None
    return Container(root, id, jsontext.decode(text))


def every(root: str) -> Iterator[Container]:
    """All, by name."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        if not name.startswith("."):
            try:
                yield load(root, name)
            except (NotFound, InvalidArgument):
                # just removed, or nothing of ours
                continue
