"""Paths inside a tree that somebody else controls: every lookup is confined by the kernel (openat2, Linux 5.6).

A rootfs, a layer, a volume may hold any symbolic link and may be changed while it is read. `openat2` with
RESOLVE_IN_ROOT treats the directory as the root: `..` and absolute links stay inside, whatever is swapped meanwhile.
Magic links (/proc/PID/root, /proc/self/fd/N) are refused. Work on the descriptor that comes back; never join strings
and use the path again.
"""

from __future__ import annotations

import errno
import os
import struct

from berth.kernel.libc import syscall

OPENAT2 = 437
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_HERE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_TRIES = 64
_LINKS = 40


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """The system call. O_CLOEXEC is always added. EAGAIN (a rename raced with the lookup of `..`) is tried again."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_TRIES):
        try:
            return syscall(OPENAT2, dirfd, name, how, len(how))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR) or attempt == _TRIES - 1:
                raise OSError(error.errno, error.strerror, path) from None
    raise AssertionError("unreachable")


def open_in_root(root_fd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open `path` as if `root_fd` were the root directory. The last component is followed unless O_NOFOLLOW is given.

    `mode` counts only with O_CREAT. The caller closes the descriptor. Raises OSError with `path` as its file name.
    """
    return openat2(root_fd, path or ".", flags, mode, _IN_ROOT)


def open_here(dirfd: int, name: str | bytes, flags: int, mode: int = 0) -> int:
    """Open a path below `dirfd` that may contain no symbolic link at all, neither on the way nor at its end (ELOOP)."""
    return openat2(dirfd, name, flags, mode, _HERE)


def make_directories_in_root(root_fd: int, path: str | bytes, mode: int = 0o755) -> int:
    """Like `mkdir -p` inside the root; returns an O_PATH descriptor of the last directory, which the caller closes.

    Links are followed inside the root, dangling ones too: what they point at is made. Existing directories keep their mode.
    ENOTDIR when something else is in the way, ELOOP after too many links.
    """
    return _make(root_fd, os.fsencode(path), mode, [_LINKS])


def _make(root_fd: int, path: bytes, mode: int, links: list[int]) -> int:
    directory = os.O_PATH | os.O_DIRECTORY
    try:
        return open_in_root(root_fd, path, directory)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    current = open_in_root(root_fd, ".", directory)
    done = b"/"
    try:
        for part in parts:
            below = _enter(root_fd, current, done, part, mode, links)
            os.close(current)
            current = below
            done += part + b"/"
    except BaseException:
        os.close(current)
        raise
    return current


def _enter(root_fd: int, parent: int, done: bytes, part: bytes, mode: int, links: list[int]) -> int:
    """One component: entered, or made, or (a dangling link) made where it points to."""
    directory = os.O_PATH | os.O_DIRECTORY
    for _ in range(_TRIES):
        try:
            return open_in_root(root_fd, done + part, directory)
        except FileNotFoundError:
            if part == b"..":
                raise
        try:
            os.mkdir(part, mode, dir_fd=parent)
            return open_here(parent, part, directory)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                raise
            continue
        try:
            target = os.readlink(part, dir_fd=parent)
        except OSError:
            continue
        links[0] -= 1
        if links[0] < 0:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), done + part)
        return _make(root_fd, target if target.startswith(b"/") else done + target, mode, links)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), done + part)
