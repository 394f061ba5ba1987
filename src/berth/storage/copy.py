"""Copying trees as they are: owners, modes, times, attributes, links, nodes, holes. By descriptors, nothing is followed.

The destination is merged into: existing directories stay and take the source's look, anything else in the way is replaced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable

from berth.errors import InvalidArgument
from berth.kernel.fs import naming, remove_tree_at, set_xattr_at
from berth.kernel.paths import open_here
from berth.storage import overlay
from berth.storage.walk import Entry, walk

_FICLONE = 0x40049409
_PIECE = 1 << 22
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ENOSYS, errno.ETXTBSY, errno.EBADF)


class Treatment:
    """How a copy differs from its source. `owner` maps ids, `mode` maps permission bits of what is no link.

    `layer`: whiteouts and opaque directories are copied too. `top`: the destination itself takes the source's look.
    """

    __slots__ = ("enter", "layer", "links", "mode", "owner", "stop", "top")

    def __init__(
        self,
        *,
        owner: Callable[[int, int], tuple[int, int]] = lambda uid, gid: (uid, gid),
        mode: Callable[[int], int] = lambda mode: mode,
        layer: bool = False,
        top: bool = True,
        enter: Callable[[Entry], bool] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.owner = owner
        self.mode = mode
        self.layer = layer
        self.top = top
        self.enter = enter
        self.stop = stop
        self.links: dict[tuple[int, int], bytes] = {}


def copy_tree(source: int, start: bytes, destination: int, treatment: Treatment) -> None:
    """Copy the content of the directory `start` below `source` into the open directory `destination`."""
    skip = len(start) + 1 if start else 0
    times: list[tuple[bytes, int]] = []
    held = (b"", os.dup(destination))
    treatment.links = {}
    try:
        for entry in walk(source, start, treatment.enter):
            if treatment.stop():
                raise InvalidArgument("the copy was cancelled")
            path = entry.path[skip:]
            if not path:
                if treatment.top:
                    _dress(entry, destination, treatment)
                    times.append((path, entry.status.st_mtime_ns))
                continue
            directory, _, name = path.rpartition(b"/")
            if held[0] != directory:
                os.close(held[1])
                held = (b"", -1)
                held = (directory, open_here(destination, directory, _DIRECTORY) if directory else os.dup(destination))
            if stat.S_ISDIR(entry.status.st_mode):
                copy_directory(entry, held[1], name, treatment)
                times.append((path, entry.status.st_mtime_ns))
            elif not _link_again(entry, destination, path, held[1], name, treatment):
                with naming(entry.path or name):
                    copy_entry(entry, held[1], name, treatment)
    finally:
        if held[1] >= 0:
            os.close(held[1])
    for path, time in reversed(times):
        fd = open_here(destination, path or b".", _DIRECTORY)
        try:
            os.utime(fd, ns=(time, time))
        finally:
            os.close(fd)


def _link_again(entry: Entry, destination: int, path: bytes, parent: int, name: bytes, treatment: Treatment) -> bool:
    """A further name of a file that was copied already."""
    if entry.status.st_nlink < 2:
        return False
    inode = (entry.status.st_dev, entry.status.st_ino)
    first = treatment.links.setdefault(inode, path)
    if first == path:
        return False
    directory, _, base = first.rpartition(b"/")
    source = open_here(destination, directory or b".", os.O_PATH | os.O_DIRECTORY)
    try:
        _replace(parent, name, lambda: os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False))
    finally:
        os.close(source)
    return True


def copy_directory(entry: Entry, parent: int, name: bytes, treatment: Treatment) -> None:
    """Make the directory, or give the existing one the source's look. Its time is set later, by the caller."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
    fd = open_here(parent, name, _DIRECTORY)
    try:
        _dress(entry, fd, treatment)
        if treatment.layer and overlay.is_opaque(entry.fd):
            overlay.set_opaque(fd)
    finally:
        os.close(fd)


def copy_entry(entry: Entry, parent: int, name: bytes, treatment: Treatment) -> None:
    """Anything that is no directory. Sockets are passed over."""
    mode = entry.status.st_mode
    if stat.S_ISREG(mode):
        _copy_file(entry, parent, name, treatment)
        return
    if stat.S_ISSOCK(mode) or (overlay.is_whiteout(entry.status) and not treatment.layer):
        return
    if stat.S_ISLNK(mode):
        target = entry.link()
        _replace(parent, name, lambda: os.symlink(target, name, dir_fd=parent))
    else:
        kind = stat.S_IFMT(mode)
        bits = kind | treatment.mode(stat.S_IMODE(mode))
        _replace(parent, name, lambda: os.mknod(name, bits, entry.status.st_rdev, dir_fd=parent))
    os.chown(name, *treatment.owner(entry.status.st_uid, entry.status.st_gid), dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISLNK(mode) and not overlay.is_whiteout(entry.status):
        fd = open_here(parent, name, os.O_PATH | os.O_NOFOLLOW)
        try:
            os.chmod(f"/proc/self/fd/{fd}", treatment.mode(stat.S_IMODE(mode)))
        finally:
            os.close(fd)
    for attribute, value in entry.xattrs().items():
        _tolerant(attribute, lambda a=attribute, v=value: set_xattr_at(parent, name, a, v))  # type: ignore[misc]
    time = entry.status.st_mtime_ns
    os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)


def _copy_file(entry: Entry, parent: int, name: bytes, treatment: Treatment) -> None:
    made: list[int] = []
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    source = entry.open()
    try:
        _replace(parent, name, lambda: made.append(os.open(name, flags, 0o600, dir_fd=parent)))
        (fd,) = made
        try:
            _copy_data(source, fd, entry.status.st_size, treatment.stop)
            _dress(entry, fd, treatment)
            time = entry.status.st_mtime_ns
            os.utime(fd, ns=(time, time))
        finally:
            os.close(fd)
    finally:
        os.close(source)


def _dress(entry: Entry, fd: int, treatment: Treatment) -> None:
    os.fchown(fd, *treatment.owner(entry.status.st_uid, entry.status.st_gid))
    os.fchmod(fd, treatment.mode(stat.S_IMODE(entry.status.st_mode)))
    for attribute, value in entry.xattrs().items():
        _tolerant(attribute, lambda a=attribute, v=value: os.setxattr(fd, a, v))  # type: ignore[misc]


def _copy_data(source: int, destination: int, size: int, stop: Callable[[], bool]) -> None:
    """By reflink where the filesystem can, else only the parts that have data."""
    if not size:
        return
    try:
        fcntl.ioctl(destination, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    offset = 0
    while offset < size and not stop():
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno != errno.EINVAL:
                raise
            start, end = offset, size
        _copy_range(source, destination, start, min(end, size))
        offset = end
    os.ftruncate(destination, size)


def _copy_range(source: int, destination: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(source, destination, min(end - start, _PIECE), start, start)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            data = os.pread(source, min(end - start, _PIECE), start)
            count = os.pwrite(destination, data, start)
        if not count:
            return
        start += count


def _replace(parent: int, name: bytes, make: Callable[[], object]) -> None:
    try:
        make()
    except FileExistsError:
        remove_tree_at(parent, name)
        make()


def _tolerant(attribute: str, call: Callable[[], object]) -> None:
    """An attribute that the other filesystem cannot take is left out, except the capability of a program."""
    try:
        call()
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.EOVERFLOW):
            raise
