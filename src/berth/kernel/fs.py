"""Files made durable, trees removed, extended attributes: what the standard library leaves out.

A durable change is: temporary file in the same directory, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct

from berth.kernel.libc import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_IMMUTABLE = 0x10
_APPEND = 0x20
_DEPTH = 48

_blocking = ctypes.CDLL(None, use_errno=True)


def fsync_directory(path: str | int) -> None:
    """Make the entries of a directory durable."""
    if isinstance(path, int):
        os.fsync(path)
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def syncfs(path: str | int) -> None:
    """Flush the whole filesystem that holds `path`. Errors of earlier writes are reported (Linux 5.8). Other threads run on."""
    if isinstance(path, int):
        check(_blocking.syncfs(path), "syncfs")
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(_blocking.syncfs(fd), path)
    finally:
        os.close(fd)


class naming:
    """OSError inside tells the file, as those of `open` do: a descriptor that cannot be read does not know its name."""

    # A class: contextlib is too much to import for those who only start a container.
    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing is done."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The name is added where there is none, or only one of /proc."""
        if (
            isinstance(error, OSError)
            and error.errno
            and (not error.filename or str(error.filename).startswith("/proc/self/fd/"))
        ):
            error.filename = self._path


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of the data, however short the writes are."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_atomically(path: str, data: bytes, mode: int = 0o644) -> None:
    """The file has either its old content or the new, whenever the power goes. Durable when this returns.

    Not for files that are bind-mounted somewhere: a bind pins the inode, so those are rewritten in place.
    """
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    fsync_directory(os.path.dirname(path) or ".")


def remove_tree(path: str | bytes, dir_fd: int | None = None) -> None:
    """Remove a file or a whole tree. Idempotent. Never follows a link, never leaves the tree by a rename that races.

    Immutable and append-only flags are taken off. Trees of any depth: what lies deeper than some levels is first moved up.
    """
    name = os.fsencode(path)
    while name.endswith(b"/") and len(name) > 1:
        name = name[:-1]
    parent = os.open(os.path.dirname(name) or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        remove_tree_at(parent, os.path.basename(name))
    finally:
        os.close(parent)


def remove_tree_at(parent: int, name: bytes) -> None:
    """Like remove_tree, for an entry of an open directory."""
    try:
        fd = _open_or_unlink(parent, name)
        if fd < 0:
            return
    except FileNotFoundError:
        return
    try:
        deep = [0]
        _empty(fd, fd, 0, deep)
        done = 0
        while done < deep[0]:
            done += 1
            below = _open_or_unlink(fd, b".deep-%d" % done)
            if below >= 0:
                try:
                    _empty(below, fd, 0, deep)
                finally:
                    os.close(below)
                _retry(_rmdir, fd, b".deep-%d" % done)
    finally:
        os.close(fd)
    _retry(_rmdir, parent, name)


def _open_or_unlink(parent: int, name: bytes) -> int:
    """A descriptor of a directory, or -1 after anything else was unlinked."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except NotADirectoryError:
        pass
    except PermissionError:
        found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            # By its descriptor: chmod of a name would follow a link that has been put there meanwhile.
            os.chmod(f"/proc/self/fd/{found}", 0o700)
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(found)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    _retry(_unlink, parent, name)
    return -1


def _empty(fd: int, top: int, depth: int, deep: list[int]) -> None:
    with os.scandir(fd) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if fd == top and name.startswith(b".deep-"):
            name = _rename_aside(fd, name)
        if not is_directory:
            _retry(_unlink, fd, name)
        elif depth >= _DEPTH:
            deep[0] += 1
            _clear_flags(fd, name)
            os.rename(name, b".deep-%d" % deep[0], src_dir_fd=fd, dst_dir_fd=top)
        else:
            below = _open_or_unlink(fd, name)
            if below < 0:
                continue
            try:
                _empty(below, top, depth + 1, deep)
            finally:
                os.close(below)
            _retry(_rmdir, fd, name)


def _rename_aside(fd: int, name: bytes) -> bytes:
    """An entry that happens to have one of our own names gets another."""
    other = b".aside-" + os.urandom(8).hex().encode()
    _clear_flags(fd, name)
    os.rename(name, other, src_dir_fd=fd, dst_dir_fd=fd)
    return other


def _unlink(name: bytes, parent: int) -> None:
    os.unlink(name, dir_fd=parent)


def _rmdir(name: bytes, parent: int) -> None:
    os.rmdir(name, dir_fd=parent)


def _retry(call: Callable[[bytes, int], None], parent: int, name: bytes) -> None:
    """unlink or rmdir; on EPERM once more without the flags that forbid it. Being gone already is fine."""
    try:
        call(name, parent)
    except FileNotFoundError:
        return
    except PermissionError:
        _clear_flags(parent, name)
        try:
            os.fchmod(parent, stat.S_IMODE(os.fstat(parent).st_mode) | 0o700)
        except OSError:
            pass
        call(name, parent)


def _clear_flags(parent: int, name: bytes) -> None:
    """Take immutable and append-only off the directory and, if it can hold flags, the entry."""
    _clear_fd_flags(parent)
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return
    try:
        _clear_fd_flags(fd)
    finally:
        os.close(fd)


def _clear_fd_flags(fd: int) -> None:
    try:
        buffer = bytearray(8)
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, buffer)
        (flags,) = struct.unpack_from("I", buffer)
        if flags & (_IMMUTABLE | _APPEND):
            struct.pack_into("I", buffer, 0, flags & ~(_IMMUTABLE | _APPEND))
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, buffer)
    except OSError:
        pass


def at(dirfd: int, name: bytes) -> bytes:
    """A path to an entry of an open directory, for calls that take no directory descriptor (the xattr family).

    Only for a single component, and with calls that do not follow it.
    """
    return b"/proc/self/fd/%d/%s" % (dirfd, name)


def xattrs_at(dirfd: int, name: bytes) -> dict[str, bytes]:
    """All extended attributes of an entry, which is not followed. Empty where the filesystem has none."""
    path = at(dirfd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            return {}
        raise
    found = {}
    for attribute in names:
        try:
            found[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EPERM, errno.EOVERFLOW):
                raise
    return found


def set_xattr_at(dirfd: int, name: bytes, attribute: str, value: bytes) -> None:
    """Set one extended attribute of an entry, which is not followed."""
    os.setxattr(at(dirfd, name), attribute, value, follow_symlinks=False)
