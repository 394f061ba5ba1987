"""Which filesystems the kernel can show with the ids of a container (idmapped mounts)."""

from __future__ import annotations

import platform
import re

# Tried: the kernel refuses MOUNT_ATTR_IDMAP on these.
NEVER = frozenset(
    [
        "overlay",
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "cgroup",
        "cgroup2",
        "mqueue",
        "securityfs",
        "debugfs",
        "tracefs",
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "fuse",
        "fuseblk",
        "9p",
    ]
)
_TMPFS_SINCE = (6, 3)


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def can_idmap(kind: str, kernel: tuple[int, int]) -> bool:
    """Whether mounts of this filesystem type can be id-mapped."""
    if kind in NEVER or kind.startswith("fuse."):
        return False
    return kind != "tmpfs" or kernel >= _TMPFS_SINCE
