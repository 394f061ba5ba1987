"""Walking a tree that may change under one's feet: each directory is opened from the root without links, one at a time.

Order: a directory, then what is in it and is no directory, by name, then its directories, by name. It is the same each time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from berth.kernel.paths import open_here
from berth.storage import overlay

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Entry:
    """A path relative to the root (empty for the root itself) with an O_PATH descriptor that is valid until the next one.

    For directories the descriptor is readable.
    """

    __slots__ = ("fd", "path", "status")

    def __init__(self, path: bytes, fd: int, status: os.stat_result) -> None:
        self.path = path
        self.fd = fd
        self.status = status

    def link(self) -> bytes:
        """The target of a symbolic link."""
        return os.readlink(b"", dir_fd=self.fd)

    def xattrs(self) -> dict[str, bytes]:
        """The attributes that belong to the content."""
        return content_xattrs(self.fd)

    def open(self) -> int:
        """The regular file, for reading: the very inode that was looked at."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)


def content_xattrs(fd: int) -> dict[str, bytes]:
    """Attributes that a tar or a copy carries, sorted by name. Capabilities bound to a namespace are made plain."""
    path = f"/proc/self/fd/{fd}"
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            return {}
        raise
    found: dict[str, bytes] = {}
    for name in sorted(names):
        if name in overlay.UNTRANSLATABLE:
            raise OSError(errno.ENOTSUP, f"it is kept in a form ({name}) that cannot be read outside its mount")
        if overlay.keeps(name):
            try:
                value = os.getxattr(path, name)
            except OSError as error:
                if error.errno in (errno.ENODATA, errno.EPERM, errno.EOVERFLOW):
                    continue
                raise
            found[name] = plain_capability(value) if name == "security.capability" else value
    return found


def plain_capability(value: bytes) -> bytes:
    """Revision 3 of a file capability names the root id of a namespace; revision 2 is the same without it."""
    if len(value) == 24 and value[3] == 3:
        return value[:3] + b"\x02" + value[4:20]
    return value


def walk(root: int, start: bytes = b"", enter: Callable[[Entry], bool] | None = None) -> Iterator[Entry]:
    """Every entry below `start`, itself first. What vanishes meanwhile is passed over.

    `enter` says whether to go into a directory (after it was given out).
    """
    pending = [start]
    while pending:
        path = pending.pop()
        try:
            fd = open_here(root, path or b".", _DIRECTORY)
        except OSError as error:
            if error.errno in _GONE and path != start:
                continue
            raise
        try:
            entry = Entry(path, fd, os.fstat(fd))
            yield entry
            if enter is not None and not enter(entry):
                continue
            below = []
            for name in sorted(os.listdir(os.fsencode(f"/proc/self/fd/{fd}"))):
                full = path + b"/" + name if path else name
                child = _open(fd, name)
                if child < 0:
                    continue
                try:
                    status = os.fstat(child)
                    if stat.S_ISDIR(status.st_mode):
                        below.append(full)
                    else:
                        yield Entry(full, child, status)
                finally:
                    os.close(child)
            pending.extend(reversed(below))
        finally:
            os.close(fd)


def _open(directory: int, name: bytes) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return -1
