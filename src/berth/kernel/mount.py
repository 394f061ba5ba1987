"""Mounts: mount(2) where one page of options is needed, the descriptor based calls of Linux 5.12 everywhere else.

A mount made here is detached (it belongs to no namespace and no path) until `move_mount` puts it on a descriptor.
"""

from __future__ import annotations

import ctypes
import os
from struct import pack

from berth.kernel import number
from berth.kernel.libc import AT_EMPTY_PATH, AT_RECURSIVE, check, libc, syscall

MS_RDONLY = 1
MS_NODEV = 4
MS_BIND = 1 << 12
MS_MOVE = 1 << 13
MS_REC = 1 << 14
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_OPEN_TREE_CLONE = 1
_FSOPEN_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6
_FROM_EMPTY_PATH, _TO_EMPTY_PATH = 0x04, 0x40
_MNT_DETACH = 2


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, kind, options)]
    result = libc.mount(encoded[0], os.fsencode(target), encoded[1], ctypes.c_ulong(flags), encoded[2])
    check(result, target)


def umount2(target: str, flags: int = _MNT_DETACH) -> None:
    """umount2(2), lazily unless other flags are given."""
    check(libc.umount2(os.fsencode(target), flags), target)


def open_tree(dirfd: int, path: str = "", recursive: bool = False) -> int:
    """A detached clone of a mount, or of a part of it; with an empty path of what `dirfd` is."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return syscall(number.OPEN_TREE, dirfd, os.fsencode(path), flags, what=path)


def mount_setattr(
    fd: int, attributes: int = 0, clear: int = 0, propagation: int = 0, userns_fd: int = 0, recursive: bool = False
) -> None:
    """Change the mount `fd`. With MOUNT_ATTR_IDMAP `userns_fd` gives the map. Propagation goes along in the same call."""
    changes = pack("4Q", attributes, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(number.MOUNT_SETATTR, fd, b"", flags, changes, len(changes), what="mount_setattr")


def move_mount(fd: int, to_fd: int, path: str = "") -> None:
    """Attach the mount `fd` at `path` below `to_fd`, or on what `to_fd` itself is."""
    flags = _FROM_EMPTY_PATH | (0 if path else _TO_EMPTY_PATH)
    syscall(number.MOVE_MOUNT, fd, b"", to_fd, os.fsencode(path), flags, what=path or "move_mount")


def new_mount(kind: str, options: tuple[tuple[str, str | None], ...] = (), attributes: int = 0) -> int:
    """A new filesystem as a detached mount. An option without a value is a flag. OSError names the option at fault."""
    fs = syscall(number.FSOPEN, kind.encode(), _FSOPEN_CLOEXEC, what=kind)
    try:
        for key, value in options:
            text = None if value is None else os.fsencode(value)
            command = _SET_FLAG if text is None else _SET_STRING
            syscall(number.FSCONFIG, fs, command, key.encode(), text, 0, what=f"{kind} option {key}")
        syscall(number.FSCONFIG, fs, _CMD_CREATE, None, None, 0, what=kind)
        return syscall(number.FSMOUNT, fs, 1, attributes, what=kind)
    finally:
        os.close(fs)


def pivot_root_here() -> None:
    """The working directory becomes the root; the old root is on top of it until `umount2(".")`."""
    syscall(number.PIVOT_ROOT, b".", b".", what="pivot_root")


def move_here_to_root() -> None:
    """The mount that is the working directory goes on top of the root: for roots that cannot be pivoted."""
    check(libc.mount(b".", b"/", None, ctypes.c_ulong(MS_MOVE), None), "/")


def make_private() -> None:
    """All mounts of this namespace: nothing goes out, nothing comes in."""
    check(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "/")


def make_slave() -> None:
    """All mounts of this namespace: later mounts of the host appear, nothing goes back."""
    check(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None), "/")
