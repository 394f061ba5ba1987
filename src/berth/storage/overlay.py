"""The overlay form on disk: whiteouts are character devices 0:0, opaque directories carry an attribute.

In a tar the same is said by empty files: `.wh.NAME` and `.wh..wh..opq` (OCI image-spec, layer.md).
"""

from __future__ import annotations

import os
import stat

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
META_PREFIX = b".wh..wh."
OPAQUE = "trusted.overlay.opaque"
PRIVATE = "trusted.overlay."
UNTRANSLATABLE = ("trusted.overlay.redirect", "trusted.overlay.metacopy")


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a directory entry of a layer says that a name of the layers below is gone."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(directory: int, name: bytes) -> None:
    """A whiteout in an open directory."""
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)


def is_opaque(directory: int) -> bool:
    """Whether an open directory hides what is below it."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


def set_opaque(directory: int) -> None:
    """Hide what is below an open directory (a readable descriptor)."""
    os.setxattr(directory, OPAQUE, b"y")


def keeps(attribute: str) -> bool:
    """Whether an extended attribute belongs to the content: it is carried in tars and copies, in both directions.

    Others are refused: trusted.overlay.* from an archive could redirect a directory, security.selinux and ima belong to the host.
    """
    return attribute.startswith(("user.", "system.posix_acl_")) or attribute == "security.capability"
