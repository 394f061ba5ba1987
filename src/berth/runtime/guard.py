"""Run from a read-only mount of the interpreter, so that no container can overwrite it (CVE-2019-5736). Lean.

A process that enters a container is the interpreter until execve, and an image can make it execute itself
(`/proc/self/exe` as program, or behind `#!`). What then opens /proc/PID/exe again, for writing, gets the file by way of
the mount that it was executed from. In a user namespace the file's owner stands in the way; in the host's, as with
`--network host`, only this mount does. It is detached, in no mount namespace: nobody can make it writable, and it costs
no memory, unlike a copy.
"""

from __future__ import annotations

import os
import sys

from berth.kernel.libc import AT_FDCWD
from berth.kernel.mount import MOUNT_ATTR_RDONLY, MS_PRIVATE, mount_setattr, open_tree


def execute_read_only() -> None:
    """Execute this very command again, from a read-only mount; returns at once in the second run.

    Nothing that the command does before may have to happen only once. Descriptors that shall survive are inheritable.
    """
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return
    clone = open_tree(AT_FDCWD, "/proc/self/exe")
    mount_setattr(clone, MOUNT_ATTR_RDONLY, propagation=MS_PRIVATE)
    os.execve(clone, sys.orig_argv, os.environ)
