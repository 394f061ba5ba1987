"""Namespaces: unshare, setns, and their names in the OCI specification."""

from __future__ import annotations

import os

from berth.kernel.file import write_text
from berth.kernel.libc import check, libc
from berth.kernel.process import clone3, die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

FLAGS = {
    "user": CLONE_NEWUSER,
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
"""By the name that the OCI runtime specification uses."""

FILES = {
    "user": "user",
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}
"""The file below /proc/PID/ns."""


def unshare(flags: int) -> None:
    """New namespaces for this process (pid and time: for its children)."""
    check(libc.unshare(flags), "unshare")


def setns(fd: int, flags: int = 0) -> None:
    """Join the namespace `fd`, or, with a pidfd, all those of that process that `flags` names."""
    check(libc.setns(fd, flags), "setns")


def mapped_user_namespace(uid_map: str, gid_map: str) -> int:
    """A descriptor of a new user namespace with these maps, to map mounts by; nobody is in it. Only for processes with one
    thread."""
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        die_with_parent()
        while True:
            _signal.pause()
    try:
        write_text(f"/proc/{pid}/uid_map", uid_map)
        write_text(f"/proc/{pid}/gid_map", gid_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(pidfd)
        os.kill(pid, _signal.SIGKILL)
        os.waitpid(pid, 0)
