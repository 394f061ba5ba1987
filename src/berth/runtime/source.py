"""What is mounted in a container but has to be opened outside of it: root, /dev, bind mounts, device nodes. Lean.

Runs in the process that sets a container up, with the host's privileges, in the launcher's mount namespace. Every
function returns detached mounts; init attaches them. A source comes as parts [(path below, descriptor, is directory)],
since a submount that cannot be idmapped travels by itself.

Scratch is a tmpfs that only the launcher's namespace has (`launch.prepare_launcher`): scratch/<id>/{store,root} are the
mount points that Linux 6.1 needs, which clones overlay layers only from mounts of the caller's own namespace.
"""

from __future__ import annotations

import errno
import os

from berth.kernel.file import write_text
from berth.kernel.libc import AT_FDCWD
from berth.kernel.mount import (
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
    MS_PRIVATE,
    mount,
    mount_setattr,
    move_mount,
    new_mount,
    open_tree,
    umount2,
)
from berth.kernel.namespace import CLONE_NEWNS, CLONE_NEWUSER, setns
from berth.kernel.paths import open_in_root
from berth.kernel.process import clone3, set_filesystem_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Source = dict[str, Any]
    Parts = list[tuple[str, int, bool]]

_KINDS = {"c": 0o020000, "b": 0o060000, "u": 0o020000, "p": 0o010000}
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
)
_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))
_OVERLAY_OPTIONS = "redirect_dir=off,metacopy=off,index=off"


# A descriptor of the host's mount namespace: a fact of this process and its forks, like its working directory. It cannot
# be a path: pid 1's namespace may be closed to us, and a bind of it inside our own the kernel refuses as a loop.
_host_mounts: list[int] = []


def keep_host_mounts() -> None:
    """In the launcher, before it leaves the host's mount namespace."""
    _host_mounts[:] = [os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)]


class Setting:
    """Whose ids: `base` is the host's id of the container's root, `userns` its user namespace or -1 for the host's."""

    def __init__(self, base: int, userns: int, scratch: str, id: str) -> None:
        self.base = base
        self.userns = userns
        self.scratch = scratch
        self.place = f"{scratch}/{id}"


def prepare(source: Source, setting: Setting) -> Parts:
    """The detached mounts of one source of the plan. OSError names the path."""
    kind = source["kind"]
    if kind == "overlay":
        fd = overlay(source, setting)
        return [("", fd, os.fstat(fd).st_mode & 0o170000 == 0o040000)]
    if kind == "directory":
        return [("", directory(source), True)]
    if kind == "dev":
        return [("", dev(source, setting), True)]
    if kind == "filesystem":
        return [("", filesystem(source, setting), True)]
    if kind == "node":
        return [("", node(source, setting), False)]
    return bind(source, setting)


def overlay(source: Source, setting: Setting) -> int:
    """The root filesystem. Its superblock belongs to the host, so NODEV: device nodes of an image would work otherwise."""
    store, root = setting.place + "/store", setting.place + "/root"
    try:
        os.mkdir(setting.place, 0o700)
    except FileExistsError:
        _clear(setting.place)
        os.mkdir(setting.place, 0o700)
    for path in store, root:
        os.mkdir(path, 0o700)
    try:
        tree = open_tree(AT_FDCWD, source["store"])
        try:
            _idmap(tree, setting)
            move_mount(tree, AT_FDCWD, store)
            try:
                return _overlay_on(tree, source, setting, root)
            finally:
                umount2(store)
        finally:
            os.close(tree)
    finally:
        for path in root, store, setting.place:
            os.rmdir(path)


def _clear(place: str) -> None:
    """What a setter-up of this container left that was killed at its work."""
    for name in "root", "store":
        try:
            umount2(f"{place}/{name}")
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
        try:
            os.rmdir(f"{place}/{name}")
        except FileNotFoundError:
            pass
    os.rmdir(place)


def _overlay_on(tree: int, source: Source, setting: Setting, root: str) -> int:
    fds: list[int] = []
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        for path in (*source["layers"], *([source["upper"], source["work"]] if source["upper"] else ())):
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree))
        if not source["upper"] and len(fds) == 1:
            # Overlay wants two lower directories when it has no upper one.
            clone = open_tree(fds[0])
            mount_setattr(clone, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)
            return clone
        lower = fds[:-2] if source["upper"] else fds
        options = "lowerdir=" + ":".join(map(str, lower))
        if source["upper"]:
            options += f",upperdir={fds[-2]},workdir={fds[-1]}"
        # Descriptor numbers relative to /proc/self/fd: short enough for 500 layers in the one page that mount(2) takes.
        os.chdir("/proc/self/fd")
        # Overlay works with its mounter's ids; one that the idmapped upper cannot store makes it read-only without a word.
        set_filesystem_ids(setting.base)
        try:
            mount("overlay", root, "overlay", MS_NODEV, f"{options},{_OVERLAY_OPTIONS}")
        finally:
            set_filesystem_ids(0)
        try:
            return _part(root, source.get("subpath") or "")
        finally:
            umount2(root)
    finally:
        os.fchdir(here)
        os.close(here)
        for fd in fds:
            os.close(fd)


def _part(root: str, subpath: str) -> int:
    """The mount, or what is at a path in it: links are followed inside of it only."""
    if not subpath:
        return open_tree(AT_FDCWD, root)
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = open_in_root(top, subpath, os.O_PATH)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"image-subpath {subpath}") from error
    finally:
        os.close(top)
    try:
        return open_tree(place)
    finally:
        os.close(place)


def _idmap(tree: int, setting: Setting, propagation: int = MS_PRIVATE, recursive: bool = False) -> None:
    if setting.userns >= 0:
        mount_setattr(tree, MOUNT_ATTR_IDMAP, 0, propagation, setting.userns, recursive)
    else:
        mount_setattr(tree, 0, 0, propagation, 0, recursive)


def directory(source: Source) -> int:
    """A plain directory as root filesystem (an OCI bundle), with what is mounted in it and the ids that its files have."""
    tree = open_tree(AT_FDCWD, source["path"], recursive=True)
    mount_setattr(tree, 0, 0, MS_PRIVATE, recursive=True)
    if source["attributes"]:
        mount_setattr(tree, source["attributes"])
    return tree


def filesystem(source: Source, setting: Setting) -> int:
    """A filesystem of a network or a disk, idmapped where it can be."""
    pairs = tuple((key, value) for key, value in source["data"])
    try:
        fd = new_mount(source["type"], (("source", source["device"]), *pairs), source["attributes"])
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{source['device']} as {error.filename}") from error
    try:
        _idmap(fd, setting)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        mount_setattr(fd, 0, 0, MS_PRIVATE)
    return fd


def dev(source: Source, setting: Setting) -> int:
    """A tmpfs with the device nodes and the usual links, owned by the container's root.

    Its superblock belongs to the host, which is what makes the nodes work inside a user namespace.
    """
    old = os.umask(0)
    set_filesystem_ids(setting.base)
    try:
        pairs = tuple((key, value) for key, value in source["options"])
        fd = new_mount("tmpfs", (("source", "tmpfs"), *pairs), source["attributes"])
        for entry in source["nodes"]:
            _make_node(fd, entry, setting.base)
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=fd)
        for name in "pts", "shm", "mqueue":
            os.mkdir(name, 0o755, dir_fd=fd)
        return fd
    finally:
        set_filesystem_ids(0)
        os.umask(old)


def _make_node(fd: int, entry: dict[str, Any], base: int) -> None:
    name: str = entry["name"]
    parts = name.split("/")
    for depth in range(1, len(parts)):
        try:
            os.mkdir("/".join(parts[:depth]), 0o755, dir_fd=fd)
        except FileExistsError:
            pass
    os.mknod(name, _KINDS[entry["type"]] | entry["mode"], os.makedev(entry["major"], entry["minor"]), dir_fd=fd)
    if entry["uid"] or entry["gid"]:
        os.chown(name, base + entry["uid"], base + entry["gid"], dir_fd=fd)


def node(source: Source, setting: Setting) -> int:
    """One device node as a mountable file, for a path outside of our own /dev."""
    old = os.umask(0)
    set_filesystem_ids(setting.base)
    try:
        fd = new_mount("tmpfs", (("mode", "755"), ("size", "4k")))
        _make_node(fd, {**source["node"], "name": "node"}, setting.base)
    finally:
        set_filesystem_ids(0)
        os.umask(old)
    os.mkdir(setting.place, 0o700)
    try:
        # Linux 6.1 clones parts of attached mounts only.
        move_mount(fd, AT_FDCWD, setting.place)
        try:
            return open_tree(fd, "node")
        finally:
            umount2(setting.place)
    finally:
        os.close(fd)
        os.rmdir(setting.place)


def bind(source: Source, setting: Setting) -> Parts:
    """A bind mount of the host's `path`: idmapped where the filesystem can, private (or as asked) from its birth.

    A clone that is not private stays in its source's peer group: what the container mounts there would reach the host.
    It is cloned in the host's mount namespace, where mounts appear that are younger than the launcher, and whose peers
    `shared` is about. Only the engine's own files (`own`) come from the launcher's, and what is named /proc/PID/root/...
    from that process's: Linux only clones mounts of the namespace that it is asked in.
    """
    if source["own"]:
        return _bind(source, setting)
    other, path = _other_namespace(source["path"])
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(_host_mounts[0] if other < 0 else other, CLONE_NEWNS)
        try:
            return _bind({**source, "path": path}, setting)
        finally:
            setns(ours, CLONE_NEWNS)
    finally:
        os.close(ours)
        if other >= 0:
            os.close(other)


def _other_namespace(path: str) -> tuple[int, str]:
    """The mount namespace that the path is in, and the path there; -1 for the host's."""
    parts = path.split("/", 4)
    if len(parts) < 5 or parts[1] != "proc" or not parts[2].isdigit() or parts[3] != "root":
        return -1, path
    return os.open(f"/proc/{parts[2]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), "/" + parts[4]


def _bind(source: Source, setting: Setting) -> Parts:
    path, recursive, propagation = source["path"], source["recursive"], source["propagation"]
    clone = open_tree(AT_FDCWD, path, recursive)
    try:
        if source["idmap"] is None:
            parts = _map_bind(clone, path, recursive, propagation, setting)
        else:
            parts = _map_as_asked(clone, source, setting)
    except BaseException:
        os.close(clone)
        raise
    for _, fd, _ in parts if source["deep"] else parts[:1]:
        if source["attributes"] or source["clear"]:
            mount_setattr(fd, source["attributes"], source["clear"], recursive=source["deep"])
    return parts


def _map_as_asked(clone: int, source: Source, setting: Setting) -> Parts:
    """By the mount's own map, by the container's, or not at all: never otherwise than was asked."""
    recursive = source["recursive"]
    mount_setattr(clone, 0, 0, source["propagation"], 0, recursive)
    if source["idmap"]:
        userns = _user_namespace(**source["maps"]) if source["maps"] else os.dup(setting.userns)
        try:
            mount_setattr(clone, MOUNT_ATTR_IDMAP, userns_fd=userns, recursive=source["idmap"] == "ridmap")
        finally:
            os.close(userns)
    return [("", clone, os.fstat(clone).st_mode & 0o170000 == 0o040000)]


def _user_namespace(uid: str, gid: str) -> int:
    """A user namespace with this map, which a process holds that has ended when this returns."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        write_text(f"/proc/{pid}/uid_map", uid)
        write_text(f"/proc/{pid}/gid_map", gid)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in read, write, pidfd:
            os.close(fd)
        os.waitpid(pid, 0)


def _map_bind(clone: int, path: str, recursive: bool, propagation: int, setting: Setting) -> Parts:
    is_directory = os.fstat(clone).st_mode & 0o170000 == 0o040000
    if setting.userns < 0:
        mount_setattr(clone, 0, 0, propagation, 0, recursive)
        return [("", clone, is_directory)]
    try:
        _idmap(clone, setting, propagation, recursive)
        return [("", clone, is_directory)]
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
    below = _submounts(path) if recursive and is_directory else []
    if not below:
        mount_setattr(clone, 0, 0, propagation, 0, recursive)
        return [("", clone, is_directory)]
    os.close(clone)
    return _one_by_one(path, below, propagation, setting)


def _one_by_one(path: str, below: list[str], propagation: int, setting: Setting) -> Parts:
    parts: Parts = []
    for place in (path, *(f"{os.path.realpath(path)}/{name}" for name in below)):
        try:
            fd = open_tree(AT_FDCWD, place)
        except (FileNotFoundError, PermissionError):
            continue
        try:
            _idmap(fd, setting, propagation)
        except OSError:
            # overlay, proc, sysfs, devpts ...: unmapped, which gives less power, not more
            mount_setattr(fd, 0, 0, propagation)
        name = "" if place == path else os.path.relpath(place, os.path.realpath(path))
        parts.append((name, fd, os.fstat(fd).st_mode & 0o170000 == 0o040000))
    return parts


def _submounts(path: str) -> list[str]:
    """The mount points below, relative, parents first."""
    top = os.path.realpath(path).rstrip("/") + "/"
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            where = line.split(" ", 5)[4]
            for code, character in _ESCAPES:
                where = where.replace(code, character)
            if where.startswith(top):
                found.append(where[len(top) :])
    return list(dict.fromkeys(found))
