"""Unpacking of tars made by anybody, into a layer (overlay form) or into the live tree of a container.

Names are cleaned, so that none begins above the target; parents are opened by openat2 and kept open; the last component
is only made with O_EXCL, mkdir, symlink, link or mknod relative to its parent, never opened through a link. So what an
archive says, and what a container swaps meanwhile, stays inside the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from berth.errors import Conflict, InvalidArgument
from berth.kernel.fs import remove_tree_at, set_xattr_at
from berth.kernel.paths import make_directories_in_root, open_here, open_in_root
from berth.storage import overlay
from berth.storage.tar_reader import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK, Member, TarReader

LARGE_ID = 0xFFFF
_HIGHEST_ID = 0xFFFFFFFE
_OPEN_DIRECTORIES = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID = stat.S_ISUID | stat.S_ISGID
_TIME_LIMIT = (1 << 62) - 1
_TYPES = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


class Unpacked:
    """What was unpacked: bytes of file content, and the ids above 65535, which need map entries of their own."""

    # Plain classes here and in its neighbours: importing dataclasses would double the start-up time of a worker.
    __slots__ = ("large_ids", "size")

    def __init__(self) -> None:
        self.size = 0
        self.large_ids: set[int] = set()


def clean(name: bytes) -> bytes:
    """A member's name relative to the target, without empty, `.` and `..` components. Empty for the target itself."""
    if b".." not in name and b"//" not in name and b"/./" not in name and not name.endswith(b"/."):
        if name.startswith(b"./"):
            name = name[2:]
        name = name.strip(b"/")
        return b"" if name == b"." else name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class Unpacker:
    """Unpacks members into a directory. One use; `close` lets go of the directories that it holds open.

    `root` is what links are resolved in, `base` the target's path inside. With `layer`, whiteouts are turned into overlay
    form, and parents that the archive leaves out look as they do in `lower` (roots of the layers below, top first).
    `strict` refuses to replace a directory by something else and the reverse. `owner` maps ids to those written on disk;
    `set_capability(fd, value)` is asked for file capabilities where setting the attribute is not enough.
    """

    def __init__(
        self,
        root: int,
        base: bytes = b"",
        *,
        layer: bool = False,
        lower: Sequence[int] = (),
        strict: bool = False,
        owner: Callable[[int, int], tuple[int, int]] | None = None,
        set_capability: Callable[[int, bytes], object] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._root = root
        self._base_path = base.rstrip(b"/") + b"/" if base.strip(b"/") else b""
        self._base = open_in_root(root, base or b".", os.O_RDONLY | os.O_DIRECTORY)
        self._layer = layer
        self._lower = lower
        self._strict = strict
        self._owner = owner
        self._set_capability = set_capability
        self._stop = stop
        self._open: dict[bytes, int] = {}
        self._retired: list[int] = []
        self._times: dict[bytes, int] = {}
        self.result = Unpacked()

    def close(self) -> None:
        """Close the directories."""
        self._forget()
        self._close_retired()
        os.close(self._base)

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, reader: TarReader) -> Unpacked:
        """Unpack every member. OSError from the filesystem, DataLoss and InvalidArgument for a bad archive."""
        while (member := reader.next()) is not None:
            if self._stop():
                raise Conflict("unpacking was cancelled")
            name = clean(member.name)
            try:
                self._place(reader, member, name)
            except OSError as error:
                shown = os.fsdecode(name)
                raise OSError(error.errno, error.strerror, shown) from error
        self._set_times()
        return self.result

    def _place(self, reader: TarReader, member: Member, name: bytes) -> None:
        if self._retired:
            self._close_retired()
        if not name:
            if self._layer and member.kind == DIRECTORY:
                self._finish(self._base, member)
                self._times[b""] = member.mtime
            return
        directory, _, base = name.rpartition(b"/")
        if self._layer and base.startswith(overlay.WHITEOUT_PREFIX):
            self._whiteout(self._directory(directory), base)
            return
        parent = self._directory(directory)
        kind = member.kind
        if kind == FILE:
            self._file(reader, member, parent, base)
        elif kind == DIRECTORY:
            self._make_directory(member, parent, base, name)
        elif kind == SYMLINK:
            self._replacing(parent, base, kind, lambda: os.symlink(member.link, base, dir_fd=parent))
            self._finish_name(parent, base, member)
        elif kind == HARD_LINK:
            self._hard_link(member, parent, base)
        else:
            self._node(member, parent, base)

    # Parents

    def _forget(self) -> None:
        """Paths may lead elsewhere from now on, or too many are open. They are closed when no member is being placed."""
        self._retired.extend(self._open.values())
        self._open.clear()

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.pop())

    def _keep(self, name: bytes, fd: int) -> int:
        if len(self._open) >= _OPEN_DIRECTORIES:
            self._forget()
        self._open[name] = fd
        return fd

    def _directory(self, name: bytes) -> int:
        """A descriptor of a directory of the archive, made if it is missing. It is closed later, by this object."""
        if not name:
            return self._base
        fd = self._open.get(name)
        if fd is not None:
            return fd
        try:
            return self._keep(name, open_here(self._base, name, _DIRECTORY))
        except OSError as error:
            if error.errno == errno.ELOOP:
                return self._keep(name, self._follow(name))
            if error.errno == errno.ENOENT or (error.errno == errno.ENOTDIR and self._layer):
                return self._keep(name, self._make_parents(name))
            raise

    def _follow(self, name: bytes) -> int:
        """A path with links in it: resolved inside the root, missing parts made there."""
        path = self._base_path + name
        try:
            return open_in_root(self._root, path, _DIRECTORY)
        except FileNotFoundError:
            fd = make_directories_in_root(self._root, path)
        try:
            return os.open(b".", _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)

    def _make_parents(self, name: bytes) -> int:
        current = os.dup(self._base)
        at = 0
        try:
            while at < len(name):
                at = name.find(b"/", at) + 1 or len(name) + 1
                path = name[: at - 1]
                below = self._enter_or_make(current, path)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def _enter_or_make(self, parent: int, path: bytes) -> int:
        base = path.rpartition(b"/")[2]
        try:
            return open_here(parent, base, _DIRECTORY)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return self._follow(path)
            if error.errno == errno.ENOTDIR:
                hidden = self._layer and overlay.is_whiteout(os.stat(base, dir_fd=parent, follow_symlinks=False))
                if not hidden:
                    raise
                os.unlink(base, dir_fd=parent)
                os.mkdir(base, 0o755, dir_fd=parent)
                fd = open_here(parent, base, _DIRECTORY)
                overlay.set_opaque(fd)
                os.fchmod(fd, 0o755)
                return fd
            if error.errno != errno.ENOENT:
                raise
        os.mkdir(base, 0o755, dir_fd=parent)
        fd = open_here(parent, base, _DIRECTORY)
        if not self._copy_from_lower(fd, path):
            os.fchmod(fd, 0o755)
            if self._owner is not None:
                os.fchown(fd, *self._owner(0, 0))
        return fd

    def _copy_from_lower(self, fd: int, path: bytes) -> bool:
        """Make an implied directory look as in the layers below."""
        for root in self._lower:
            try:
                below = open_here(root, path, _DIRECTORY)
            except FileNotFoundError:
                continue
            except OSError:
                return False
            try:
                copy_directory_attributes(below, fd)
                self._times[path] = os.fstat(below).st_mtime_ns
            finally:
                os.close(below)
            return True
        return False

    # Members

    def _replacing(self, parent: int, base: bytes, kind: int, make: Callable[[], object]) -> None:
        """Make an entry; what is there already goes first."""
        try:
            make()
        except FileExistsError:
            self._clear(parent, base, kind)
            make()

    def _clear(self, parent: int, base: bytes, kind: int) -> None:
        mode = os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            if self._strict and kind != DIRECTORY:
                shown = os.fsdecode(base)
                raise InvalidArgument(f'cannot overwrite directory "{shown}" with non-directory "{shown}"')
            self._forget()
            remove_tree_at(parent, base)
            return
        if self._strict and kind == DIRECTORY:
            shown = os.fsdecode(base)
            raise InvalidArgument(f'cannot overwrite non-directory "{shown}" with directory "{shown}"')
        if stat.S_ISLNK(mode):
            self._forget()
        os.unlink(base, dir_fd=parent)

    def _file(self, reader: TarReader, member: Member, parent: int, base: bytes) -> None:
        try:
            fd = os.open(base, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._clear(parent, base, FILE)
            fd = os.open(base, _CREATE, 0o600, dir_fd=parent)
        try:
            if member.stored or member.sparse is not None:
                reader.copy_to(fd)
            self._finish(fd, member)
            time = member.mtime
            if not -_TIME_LIMIT < time < _TIME_LIMIT:
                time = 0
            os.utime(fd, ns=(time, time))
        finally:
            os.close(fd)
        self.result.size += member.size

    def _finish(self, fd: int, member: Member) -> None:
        """Owner, mode and attributes by an open descriptor, in the order in which the kernel does not undo them."""
        uid, gid = self._ids(member)
        if uid or gid or self._owner is not None or member.kind == DIRECTORY:
            os.fchown(fd, uid, gid)
        os.fchmod(fd, member.mode & ~_SET_ID if self._owner is not None and self._changed_hands(member, uid) else member.mode)
        if member.xattrs:
            for attribute, value in member.xattrs.items():
                if attribute == "security.capability" and self._set_capability is not None:
                    self._set_capability(fd, value)
                elif overlay.keeps(attribute):
                    _tolerant(lambda a=attribute, v=value: os.setxattr(fd, a, v))  # type: ignore[misc]

    def _changed_hands(self, member: Member, uid: int) -> bool:
        """Whether the owner does not exist where it is unpacked, so that root has it: not with the right to become root."""
        return member.uid != 0 and self._owner is not None and uid == self._owner(0, 0)[0]

    def _ids(self, member: Member) -> tuple[int, int]:
        uid, gid = member.uid, member.gid
        if uid > LARGE_ID or gid > LARGE_ID or uid < 0 or gid < 0:
            for number in (uid, gid):
                if not 0 <= number <= _HIGHEST_ID:
                    raise InvalidArgument(f"invalid archive: {os.fsdecode(member.name)} is owned by {number}")
                if number > LARGE_ID:
                    self.result.large_ids.add(number)
        return self._owner(uid, gid) if self._owner is not None else (uid, gid)

    def _make_directory(self, member: Member, parent: int, base: bytes, name: bytes) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                hidden = self._layer and overlay.is_whiteout(status)
                self._clear(parent, base, DIRECTORY)
                os.mkdir(base, 0o700, dir_fd=parent)
                if hidden:
                    # The layers below have the name too, and the archive says that theirs is gone.
                    fd = open_here(parent, base, _DIRECTORY)
                    overlay.set_opaque(fd)
                    os.close(fd)
        fd = self._open.get(name, -1)
        if fd < 0:
            fd = self._keep(name, open_here(parent, base, _DIRECTORY))
        self._finish(fd, member)
        self._times[name] = member.mtime

    def _finish_name(self, parent: int, base: bytes, member: Member) -> None:
        """Owner, attributes and time of an entry that cannot be opened for this: never following it."""
        uid, gid = self._ids(member)
        os.chown(base, uid, gid, dir_fd=parent, follow_symlinks=False)
        for attribute, value in (member.xattrs or {}).items():
            if overlay.keeps(attribute):
                _tolerant(lambda a=attribute, v=value: set_xattr_at(parent, base, a, v))  # type: ignore[misc]
        time = member.mtime if -_TIME_LIMIT < member.mtime < _TIME_LIMIT else 0
        os.utime(base, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    def _node(self, member: Member, parent: int, base: bytes) -> None:
        device = os.makedev(member.major, member.minor) if member.kind != FIFO else 0
        kind = _TYPES[member.kind]
        self._replacing(parent, base, member.kind, lambda: os.mknod(base, kind | 0o600, device, dir_fd=parent))
        uid, gid = self._ids(member)
        os.chown(base, uid, gid, dir_fd=parent, follow_symlinks=False)
        fd = open_here(parent, base, os.O_PATH | os.O_NOFOLLOW)
        try:
            os.chmod(f"/proc/self/fd/{fd}", member.mode)
        finally:
            os.close(fd)
        self._finish_name(parent, base, member)

    def _hard_link(self, member: Member, parent: int, base: bytes) -> None:
        target = clean(member.link)
        if not target:
            raise InvalidArgument(f"invalid archive: {os.fsdecode(member.name)} is a hard link to nothing")
        directory, _, name = target.rpartition(b"/")
        source = self._directory(directory)
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if self._layer and overlay.is_whiteout(status):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        try:
            if os.path.samestat(status, os.stat(base, dir_fd=parent, follow_symlinks=False)):
                return
        except FileNotFoundError:
            pass
        self._replacing(
            parent,
            base,
            HARD_LINK,
            lambda: os.link(name, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False),
        )

    def _whiteout(self, parent: int, base: bytes) -> None:
        if base == overlay.OPAQUE_MARKER:
            overlay.set_opaque(parent)
            return
        if base.startswith(overlay.META_PREFIX):
            return
        name = base[len(overlay.WHITEOUT_PREFIX) :]
        if name in (b"", b".", b".."):
            raise InvalidArgument(f"invalid archive: {os.fsdecode(base)} is no whiteout")
        try:
            overlay.make_whiteout(parent, name)
        except FileExistsError:
            # This layer has the name itself: what it says hides what is below, unless a directory would be merged.
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                fd = open_here(parent, name, _DIRECTORY)
                overlay.set_opaque(fd)
                os.close(fd)

    def _set_times(self) -> None:
        """Times of directories last: everything that was made in them changed them."""
        for name, time in self._times.items():
            if not -_TIME_LIMIT < time < _TIME_LIMIT:
                time = 0
            try:
                fd = open_in_root(self._root, self._base_path + name, _DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                os.utime(fd, ns=(time, time))
            finally:
                os.close(fd)


def copy_directory_attributes(source: int, destination: int) -> None:
    """Owner, mode and attributes from one open directory to another."""
    status = os.fstat(source)
    os.fchown(destination, status.st_uid, status.st_gid)
    os.fchmod(destination, stat.S_IMODE(status.st_mode))
    for attribute in os.listxattr(source):
        if overlay.keeps(attribute):
            value = os.getxattr(source, attribute)
            _tolerant(lambda a=attribute, v=value: os.setxattr(destination, a, v))  # type: ignore[misc]


def _tolerant(call: Callable[[], object]) -> None:
    """An attribute that the filesystem or the namespace cannot take is left out, as tar does."""
    try:
        call()
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.EOVERFLOW):
            raise
