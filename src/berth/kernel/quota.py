"""Project quotas: which project an inode is accounted to, and what a project may take up of its file system.

quotactl_fd(2) names the file system by any descriptor on it. The forms with struct if_dqblk are the same for ext4, xfs and
f2fs: the kernel translates them (fs/quota/quota.c). Limits are for root alone; projects are changed from the first user namespace
alone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct

from berth.kernel.libc import syscall
from berth.kernel.number import QUOTACTL_FD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Quota(NamedTuple):
        """What a project has and may have: bytes (a limit of 0 is none) and inodes."""

        project: int
        limit: int
        space: int
        inodes: int
        inode_limit: int
else:
    from collections import namedtuple

    Quota = namedtuple("Quota", "project limit space inodes inode_limit")

_PRJQUOTA = 2
_Q_GETQUOTA, _Q_SETQUOTA, _Q_GETNEXTQUOTA, _Q_XGETQSTATV = 0x800007, 0x800008, 0x800009, 0x5808
# struct if_nextdqblk: hard and soft limit in KiB, bytes, hard and soft limit of inodes, inodes, two times, what is valid, the id.
_BLOCK = struct.Struct("=8QII")
_KIB = 1024
_QIF_BLIMITS = 1
# struct fs_quota_statv: the version that is asked for, padding, flags.
_STATE = struct.Struct("=bBH")
_ACCOUNTED, _ENFORCED = 1 << 4, 1 << 5
_FSGETXATTR, _FSSETXATTR = 0x801C581F, 0x401C5820
# struct fsxattr: flags, extent size, extents, project, copy-on-write extent size, padding.
_ATTRIBUTES = struct.Struct("=5I8x")
_PROJINHERIT = 0x200


def _quotactl(fd: int, command: int, identity: int, buffer: ctypes.Array[ctypes.c_char], what: str) -> None:
    syscall(QUOTACTL_FD, fd, ctypes.c_uint32(command << 8 | _PRJQUOTA).value, identity, buffer, what=what)


def state(fd: int) -> tuple[bool, bool]:
    """Whether the file system counts what projects take up, and whether it holds limits. Twice False without projects."""
    buffer = ctypes.create_string_buffer(256)
    _STATE.pack_into(buffer, 0, 1, 0, 0)
    try:
        _quotactl(fd, _Q_XGETQSTATV, 0, buffer, "quotactl_fd")
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            return False, False
        raise
    flags = _STATE.unpack_from(buffer)[2]
    return bool(flags & _ACCOUNTED), bool(flags & _ENFORCED)


def exists() -> bool:
    """Whether the kernel has quotas at all (CONFIG_QUOTA, Linux 5.14)."""
    try:
        _quotactl(-1, _Q_XGETQSTATV, 0, ctypes.create_string_buffer(256), "quotactl_fd")
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def get_quota(fd: int, project: int) -> Quota:
    """What a project has; zeros for one that nobody has used."""
    buffer = ctypes.create_string_buffer(_BLOCK.size)
    try:
        _quotactl(fd, _Q_GETQUOTA, project, buffer, "quotactl_fd: Q_GETQUOTA")
    except FileNotFoundError:
        # xfs has no record of it.
        return Quota(project, 0, 0, 0, 0)
    return _quota(buffer, project)


def next_quota(fd: int, project: int) -> Quota | None:
    """The first project from this number on that the file system has a record of."""
    buffer = ctypes.create_string_buffer(_BLOCK.size)
    try:
        _quotactl(fd, _Q_GETNEXTQUOTA, project, buffer, "quotactl_fd: Q_GETNEXTQUOTA")
    except FileNotFoundError:
        return None
    return _quota(buffer, _BLOCK.unpack_from(buffer)[9])


def _quota(buffer: ctypes.Array[ctypes.c_char], project: int) -> Quota:
    hard, _, space, inode_limit, _, inodes, *_ = _BLOCK.unpack_from(buffer)
    return Quota(project, hard * _KIB, space, inodes, inode_limit)


def set_limit(fd: int, project: int, limit: int) -> None:
    """Let a project take up so many bytes, rounded up to KiB; 0 takes the limit off."""
    buffer = ctypes.create_string_buffer(_BLOCK.size)
    _BLOCK.pack_into(buffer, 0, -(-limit // _KIB), 0, 0, 0, 0, 0, 0, 0, _QIF_BLIMITS, 0)
    _quotactl(fd, _Q_SETQUOTA, project, buffer, "quotactl_fd: Q_SETQUOTA")


def get_project(fd: int) -> int:
    """The project of an open file or directory; 0 where the file system knows none."""
    buffer = bytearray(_ATTRIBUTES.size)
    try:
        fcntl.ioctl(fd, _FSGETXATTR, buffer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            return 0
        raise
    return int(_ATTRIBUTES.unpack(buffer)[3])


def set_project(fd: int, project: int) -> None:
    """Account a directory to a project, and what will be made in it."""
    buffer = bytearray(_ATTRIBUTES.size)
    fcntl.ioctl(fd, _FSGETXATTR, buffer)
    flags, extent_size, extents, _, cow_size = _ATTRIBUTES.unpack(buffer)
    fcntl.ioctl(fd, _FSSETXATTR, _ATTRIBUTES.pack(flags | _PROJINHERIT, extent_size, extents, project, cow_size))
