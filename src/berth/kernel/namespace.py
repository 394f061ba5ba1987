"""Namespaces: unshare, setns, and their names in the OCI specification."""

from __future__ import annotations

from berth.kernel.libc import check, libc

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
