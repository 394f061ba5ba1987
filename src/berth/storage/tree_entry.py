"""How a worker gets hold of a tree: a descriptor of its root, and the ids that files have there.

A running container's tree is its init's root directory: what is mounted there is seen as the container sees it. Files are
made with the container's ids, so that id-mapped mounts accept them. A tree that does not run is mounted here, in the mount
namespace of the worker, on top of the data root: no further directory is needed, and it vanishes with the worker.
"""

from __future__ import annotations

import errno
import os

from berth.errors import Conflict, InvalidArgument, NotFound
from berth.kernel import mount
from berth.kernel.libc import AT_FDCWD
from berth.kernel.namespace import CLONE_NEWNS, CLONE_NEWUSER, setns, unshare
from berth.kernel.paths import make_directories_in_root, open_in_root
from berth.kernel.process import PR_SET_SECUREBITS, prctl, set_filesystem_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SECBIT_NO_SETUID_FIXUP = 4
_NOBODY = 65534
_OPTIONS = "redirect_dir=off,metacopy=off,index=off"
_VOLATILE = "work/incompat/volatile"
Extent = tuple[int, int, int]
IDENTITY: tuple[Extent, ...] = ((0, 0, 0xFFFFFFFF),)


class IdMap:
    """An id map: extents of (id inside, id outside, count)."""

    __slots__ = ("_extents",)

    def __init__(self, extents: tuple[Extent, ...] = IDENTITY) -> None:
        self._extents = extents

    @staticmethod
    def read(path: str) -> IdMap:
        """From /proc/PID/uid_map or gid_map."""
        with open(path) as file:
            rows = [line.split() for line in file]
        return IdMap(tuple((int(a), int(b), int(c)) for a, b, c in rows))

    def outside(self, number: int) -> int:
        """The id on this side. An id that the container does not have becomes its root, to whom copied files belong anyway."""
        for inside, outside, count in self._extents:
            if inside <= number < inside + count:
                return outside + number - inside
        return self.outside(0)

    def exact(self, number: int) -> int:
        """The id on this side. InvalidArgument, in Docker's words, for one that the container does not have."""
        if not any(inside <= number < inside + count for inside, _, count in self._extents):
            raise InvalidArgument(
                f"Container ID {number} cannot be mapped to a host ID: the container runs with a range of ids of its own. "
                "Stop it first, or copy without the owners"
            )
        return self.outside(number)

    def inside(self, number: int) -> int:
        """The id that the container sees; 65534 for one that it does not have."""
        for inside, outside, count in self._extents:
            if outside <= number < outside + count:
                return inside + number - outside
        return _NOBODY


class Entered:
    """A tree. A context manager: the end lets go of it, and unmounts it."""

    def __init__(self, root: int, uids: IdMap, gids: IdMap, *, userns: int = -1, mounted: str | None = None) -> None:
        self.root = root
        self._userns = userns
        self._uids = uids
        self._gids = gids
        self._mounted = mounted

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Ids to write on disk for the container's ids."""
        return self._uids.outside(uid), self._gids.outside(gid)

    def exact(self, uid: int, gid: int) -> tuple[int, int]:
        """Like `outside`; InvalidArgument for ids that the container cannot have."""
        return self._uids.exact(uid), self._gids.exact(gid)

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The container's ids for those of a stat."""
        return self._uids.inside(uid), self._gids.inside(gid)

    def set_capability(self, fd: int, value: bytes) -> bool:
        """Give a file a capability. Through an id-mapped mount the kernel takes it only from inside of the user namespace, so
        a child goes there for it. False when it cannot be had."""
        if self._userns < 0:
            return _set_capability(fd, value)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                setns(self._userns, CLONE_NEWUSER)
                status = int(not _set_capability(fd, value))
            finally:
                os._exit(status)
        return os.waitpid(child, 0)[1] == 0

    def __enter__(self) -> Entered:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.root)
        if self._userns >= 0:
            os.close(self._userns)
        if self._mounted is not None:
            mount.umount2(self._mounted)


def enter_pid(pid: int, uid_base: int) -> Entered:
    """The tree of a running container. NotFound when it has ended."""
    try:
        uids, gids = IdMap.read(f"/proc/{pid}/uid_map"), IdMap.read(f"/proc/{pid}/gid_map")
        root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise NotFound("the container has ended meanwhile: try again") from None
    # A recycled process id is not taken for the container: its map begins elsewhere.
    if uids.outside(0) != uid_base:
        os.close(root)
        raise Conflict("the container has ended meanwhile: try again")
    prctl(PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    set_filesystem_ids(uid_base)
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC) if uid_base else -1
    return Entered(root, uids, gids, userns=userns)


def _set_capability(fd: int, value: bytes) -> bool:
    try:
        os.setxattr(fd, "security.capability", value)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EINVAL):
            raise
        return False
    return True


def enter_overlay(description: dict[str, Any]) -> Entered:
    """The tree of layers and, if there is one, an upper directory, with binds put in."""
    store: str = description["store"]
    unshare(CLONE_NEWNS)
    mount.make_private()
    # Before the data root is covered: sources of binds may be below it.
    binds = [(tree, target) for source, target, part in description["binds"] if (tree := _clone(source, part)) is not None]
    _mount_overlay(store, description["layers"], description.get("upper"), description.get("work"))
    root = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for tree, target in sorted(binds, key=lambda bind: bind[1]):
        _put_bind(root, tree, os.fsencode(target))
    return Entered(root, IdMap(), IdMap(), mounted=store)


def _clone(source: str, part: str) -> int | None:
    """A bind's source, or a part of it; what is not there, or cannot be reached inside the source, is not shown."""
    try:
        if not part:
            return mount.open_tree(AT_FDCWD, source, recursive=True)
        whole = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(whole, part, os.O_PATH)
        finally:
            os.close(whole)
        try:
            return mount.open_tree(fd, recursive=True)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _mount_overlay(store: str, layers: list[str], upper: str | None, work: str | None) -> None:
    """By the numbers of descriptors, relative to /proc/self/fd: paths of any length, and as the runtime mounts it."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    opened: list[int] = []

    def number(path: str) -> str:
        opened.append(os.open(f"{store}/{path}", flags))
        return str(opened[-1])

    try:
        options = "lowerdir=" + ":".join([number(layer) for layer in layers])
        if upper is not None and work is not None:
            options += f",upperdir={number(upper)},workdir={number(work)}"
        os.chdir("/proc/self/fd")
        try:
            mount.mount("overlay", store, "overlay", mount.MS_NODEV, f"{options},{_OPTIONS}")
        except OSError as error:
            if error.errno != errno.EINVAL or work is None or not _forget_volatile(f"{store}/{work}"):
                raise
            mount.mount("overlay", store, "overlay", mount.MS_NODEV, f"{options},{_OPTIONS}")
    finally:
        os.chdir("/")
        for fd in opened:
            os.close(fd)


def _forget_volatile(work: str) -> bool:
    """A mount that did not wait for the disk leaves a mark, and is then refused for ever; the content is whole all the same."""
    try:
        os.rmdir(f"{work}/{_VOLATILE}")
    except OSError:
        return False
    return True


def _put_bind(root: int, tree: int, target: bytes) -> None:
    """Attach a bind where it is in the container; its mount point is made if it can be."""
    try:
        point = _mount_point(root, target, os.path.isdir(f"/proc/self/fd/{tree}"))
    except OSError as error:
        os.close(tree)
        if error.errno in (errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
            return
        raise
    try:
        mount.move_mount(tree, point)
    finally:
        os.close(point)
        os.close(tree)


def path_in(root: int, fd: int) -> bytes:
    """Where a descriptor is, relative to the root. For display and comparison: it is not to be opened again."""
    top = os.readlink(b"/proc/self/fd/%d" % root).rstrip(b"/")
    return os.readlink(b"/proc/self/fd/%d" % fd)[len(top) :].strip(b"/")


def _mount_point(root: int, target: bytes, directory: bool) -> int:
    if directory:
        return make_directories_in_root(root, target)
    try:
        return open_in_root(root, target, os.O_PATH)
    except FileNotFoundError:
        os.close(make_directories_in_root(root, os.path.dirname(target)))
        os.close(open_in_root(root, target, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o644))
        return open_in_root(root, target, os.O_PATH)
