"""inotify(7): being told of changes in a directory."""

from __future__ import annotations

import os

from berth.kernel.libc import check, libc

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_NONBLOCK = 0o4000
IN_CLOEXEC = 0o2000000


def inotify_init1(flags: int = IN_NONBLOCK | IN_CLOEXEC) -> int:
    """A new inotify descriptor."""
    return check(libc.inotify_init1(flags))


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch the path; returns the watch's number."""
    return check(libc.inotify_add_watch(fd, os.fsencode(path), mask), path)
