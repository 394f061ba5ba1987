"""Errors of the filesystem, told as berth's kinds: no room and no inodes first of all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from berth.errors import BerthError, Conflict, DataLoss, Forbidden, Internal, InvalidArgument, NotFound, ResourceExhausted

_KINDS: dict[int, type[BerthError]] = {
    errno.ENOSPC: ResourceExhausted,
    errno.EDQUOT: ResourceExhausted,
    errno.EMFILE: ResourceExhausted,
    errno.ENFILE: ResourceExhausted,
    errno.ENOENT: NotFound,
    errno.ENOTDIR: InvalidArgument,
    errno.EISDIR: InvalidArgument,
    errno.ELOOP: InvalidArgument,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.EXDEV: InvalidArgument,
    errno.EINVAL: InvalidArgument,
    errno.EROFS: Forbidden,
    errno.EACCES: Forbidden,
    errno.EPERM: Forbidden,
    errno.EBUSY: Conflict,
    errno.EIO: DataLoss,
}
_ADVICE = {
    errno.EIO: ": see what the kernel says of the disk (dmesg)",
    errno.ENFILE: ": raise fs.file-max (sysctl), or see who has so many files open (lsof)",
}


def translate(error: OSError, action: str) -> BerthError:
    """The error as one of berth's kinds. `action` says what was being done: `unpacking layer sha256:...`."""
    number = error.errno or 0
    what = f" {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"no space left on device while {action}{what}: make room (docker system prune) and try again")
    advice = _ADVICE.get(number, "")
    return _KINDS.get(number, Internal)(f"{action}{what}: {(error.strerror or str(error)).lower()}{advice}")


@contextmanager
def translated(action: str) -> Iterator[None]:
    """OSError inside becomes one of berth's kinds."""
    try:
        yield
    except OSError as error:
        raise translate(error, action) from error
