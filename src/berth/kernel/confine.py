"""Giving up everything for good: for a process that computes on foreign bytes, so that whoever takes it over has nothing."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence

from berth.kernel import seccomp
from berth.kernel.capability import capset
from berth.kernel.mount import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, new_mount
from berth.kernel.process import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, prctl

_EMPTY = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC


def confine(identity: int, memory: int, keep: Sequence[int]) -> None:
    """From here on this process has the descriptors `keep`, an empty read-only root, the ids `identity`, no capabilities, at
    most `memory` bytes of address space, and `seccomp.compute_only`. Only for a root without securebits that has one thread."""
    _silence(keep)
    root = new_mount("tmpfs", (("mode", "555"),), _EMPTY)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    os.setgroups([])
    os.setresgid(identity, identity, identity)
    os.setresuid(identity, identity, identity)
    capset(0, 0, 0)
    # Not to be traced or looked into by another process of the same ids.
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    seccomp.load(seccomp.compute_only())


def _silence(keep: Sequence[int]) -> None:
    """Close every other descriptor. Standard streams lead nowhere: a log is a file that could be filled."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for standard in range(3):
        os.dup2(null, standard)
    first = 3
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
