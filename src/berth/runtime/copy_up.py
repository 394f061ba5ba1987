"""`tmpcopyup`: a copy of a directory of the image on the tmpfs that hides it. Lean; runs in init, before pivot.

Everything is reached from descriptors and no link is followed. What a user namespace may not make (device nodes) is left
out; what does not fit is the filesystem's refusal.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FORMAT = 0o170000
_DIRECTORY, _LINK, _FILE = 0o040000, 0o120000, 0o100000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 1 << 20


def copy(source: int, target: int) -> None:
    """The contents of directory `source`, and its own mode and owner, to `target`. Either may be an O_PATH descriptor."""
    opened = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    other = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        _directory(opened, other)
    finally:
        os.close(opened)
        os.close(other)


def _directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = status.st_mode & _FORMAT
        if kind == _DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=target)
            _both(source, target, name, _READ | os.O_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY, _directory)
        elif kind == _FILE:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            _both(source, target, name, _READ, flags, _file)
        elif kind == _LINK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    _look(source, target)


def _both(source: int, target: int, name: str, read: int, write: int, work: Callable[[int, int], None]) -> None:
    one = os.open(name, read, dir_fd=source)
    try:
        two = os.open(name, write | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            work(one, two)
        finally:
            os.close(two)
    finally:
        os.close(one)


def _file(source: int, target: int) -> None:
    while data := os.read(source, _CHUNK):
        while data:
            data = data[os.write(target, data) :]
    _look(source, target)


def _look(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, status.st_mode & 0o7777)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
