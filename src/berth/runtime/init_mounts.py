"""The steps of init that build the container's tree of mounts, before pivot: see `runtime.init`. Lean."""

from __future__ import annotations

import errno
import os

from berth.kernel import mount, terminal
from berth.kernel.file import PROC_SUPER_MAGIC, filesystem_type
from berth.kernel.paths import make_directories_in_root, open_in_root
from berth.runtime.failure import Failure
from berth.runtime.message import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.runtime.init import Init

_DIRECTORY = 0o040000
_LINKS = 40
_RESTRICTED = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


def root(state: Init, *, source: int, propagation: int) -> None:
    """Leave the host's mount events, and put the root filesystem where pivot_root can take it."""
    if state.staging < 0:
        mount.make_private()
    state.root = state.sources[source][0][1]
    mount.move_mount(state.root, state.place)
    state.propagation = propagation


def trees(state: Init, *, paths: list[str]) -> None:
    """Put what was built on the staging tmpfs in its place, each tree with all that is mounted in it. As copies: mounts are
    listed by age, and the root's is expected to be the first."""
    for path in paths:
        fd = mount.open_tree(state.staging, path[1:], recursive=True)
        if path != "/dev":
            _refuse_link(state, path)
        _put(state, fd, path)
        if state.devpts >= 0 and state.terminals.startswith(f"{path}/"):
            # A terminal is known by the mount that it was opened in.
            os.close(state.devpts)
            place = state.terminals.removeprefix(f"{path}/")
            state.devpts = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        os.close(fd)


def _target(state: Init, path: str, is_directory: bool, links: int = _LINKS) -> int:
    """A descriptor of the mount point, made if it is missing. Links are resolved inside the root, dangling ones too: what they
    lead to is made."""
    if is_directory:
        return make_directories_in_root(state.root, path)
    try:
        return open_in_root(state.root, path, os.O_PATH)
    except FileNotFoundError:
        folder, name = os.path.split(path)
        parent = make_directories_in_root(state.root, folder)
        try:
            os.close(open_in_root(state.root, path, os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644))
        except OSError as error:
            if error.errno != errno.ELOOP or not links:
                raise
            return _target(state, os.path.join(folder, os.readlink(name, dir_fd=parent)), False, links - 1)
        finally:
            os.close(parent)
        return open_in_root(state.root, path, os.O_PATH)


def _put(state: Init, fd: int, path: str, is_directory: bool = True) -> None:
    target = _target(state, path, is_directory)
    try:
        if os.path.samestat(os.fstat(target), os.fstat(state.root)):
            raise Failure("mount", errno.EINVAL, f"{path}: it leads to the root")
        mount.move_mount(fd, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(target)


def mount_new(state: Init, *, target: str, kind: str, name: str, options: list[Any], attributes: int) -> None:
    """A new filesystem of our own: proc, sysfs, tmpfs, devpts, mqueue."""
    if kind in ("proc", "sysfs"):
        _refuse_link(state, target)
    pairs = tuple((key, value) for key, value in options)
    fd = mount.new_mount(kind, (("source", name), *pairs), attributes)
    _put(state, fd, target)
    if kind == "devpts":
        state.devpts, state.terminals = fd, target
    else:
        os.close(fd)


def mount_copy(state: Init, *, target: str, kind: str, name: str, options: list[Any], attributes: int) -> None:
    """A new filesystem with a copy of what it hides."""
    from berth.runtime import copy_up

    pairs = tuple((key, value) for key, value in options)
    fd = mount.new_mount(kind, (("source", name), *pairs), attributes & ~mount.MOUNT_ATTR_RDONLY)
    hidden = _target(state, target, True)
    try:
        copy_up.copy(hidden, fd)
    finally:
        os.close(hidden)
    mount.mount_setattr(fd, attributes)
    _put(state, fd, target)
    os.close(fd)


def _refuse_link(state: Init, target: str) -> None:
    """procfs and sysfs go where they are looked for, or nowhere: later writes to /proc rely on it."""
    try:
        fd = open_in_root(state.root, target, os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    mode = os.fstat(fd).st_mode
    os.close(fd)
    if mode & 0o170000 != _DIRECTORY:
        raise Failure("mount", errno.ENOTDIR, target)


def attach(state: Init, *, target: str, source: int, inside_proc: bool) -> None:
    """What was opened outside: /dev, a bind mount and its submounts, a device node."""
    if not inside_proc:
        _refuse_proc(state, target)
    for below, fd, is_directory in state.sources[source]:
        _put(state, fd, f"{target}/{below}" if below else target, is_directory)
        if target == "/dev" and not below:
            state.null = fd


def _refuse_proc(state: Init, target: str) -> None:
    """A link of the image may lead to /proc; nothing is mounted there (CVE-2023-28642)."""
    try:
        fd = open_in_root(state.root, target, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    inside = filesystem_type(fd) == PROC_SUPER_MAGIC
    os.close(fd)
    if inside:
        raise Failure("mount", errno.EPERM, f"{target}: it leads into /proc")


def control_groups(state: Init, *, target: str, v1: list[list[str]], v2: str | None, attributes: int) -> None:
    """/sys/fs/cgroup as the host has it: cgroup2 itself, or a tmpfs with one folder per v1 hierarchy. Read-only."""
    if v2 == "":
        fd = mount.new_mount("cgroup2", (("source", "cgroup"),), attributes)
        _put(state, fd, target)
        os.close(fd)
        return
    top = mount.new_mount(
        "tmpfs", (("source", "cgroup"), ("mode", "755"), ("size", "64k")), attributes & ~mount.MOUNT_ATTR_RDONLY
    )
    _put(state, top, target)
    for name, controllers in v1:
        chosen = tuple((option, None) for option in controllers.split(","))
        fd = mount.new_mount("cgroup", (("source", "cgroup"), *chosen), attributes)
        os.mkdir(name, 0o755, dir_fd=top)
        mount.move_mount(fd, top, name)
        os.close(fd)
        for alias in controllers.split(","):
            if alias != name:
                os.symlink(name, alias, dir_fd=top)
    if v2:
        fd = mount.new_mount("cgroup2", (("source", "cgroup"),), attributes)
        os.mkdir(v2, 0o755, dir_fd=top)
        mount.move_mount(fd, top, v2)
        os.close(fd)
    mount.mount_setattr(top, attributes)
    os.close(top)


def console(state: Init, *, height: int, width: int) -> None:
    """A pty of the container's own devpts; its master goes to the shim, its slave becomes /dev/console."""
    if state.devpts < 0 and state.root < 0:
        state.devpts = os.open("/dev/pts", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if state.devpts < 0:
        raise Failure("console", errno.ENOENT, "/dev/pts")
    master, state.slave = terminal.open_pair(state.devpts)
    if height and width:
        terminal.set_size(master, height, width)
    send(state.sock, {"console": True}, [master])
    os.close(master)
    if state.root >= 0:
        clone = mount.open_tree(state.slave)
        _put(state, clone, "/dev/console", False)
        os.close(clone)


def mask(state: Init, *, path: str) -> None:
    """Hide a path: a directory below an empty tmpfs, a file below our own /dev/null. A missing one needs no hiding."""
    try:
        target = open_in_root(state.root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if os.fstat(target).st_mode & 0o170000 == _DIRECTORY:
            options = (("size", "0"), ("nr_inodes", "2"))
            fd = mount.new_mount("tmpfs", options, mount.MOUNT_ATTR_RDONLY | _RESTRICTED)
        else:
            fd = _null(state)
        mount.move_mount(fd, target)
        os.close(fd)
    finally:
        os.close(target)


def _null(state: Init) -> int:
    """A clone of /dev/null from the /dev that we made ourselves, checked: an image's own could be anything."""
    if state.null < 0:
        raise Failure("mask", errno.ENODEV, "/dev/null")
    fd = mount.open_tree(state.null, "null")
    status = os.fstat(fd)
    if status.st_mode & 0o170000 != 0o020000 or status.st_rdev != os.makedev(1, 3):
        raise Failure("mask", errno.ENODEV, "/dev/null")
    return fd


def protect(state: Init, *, path: str) -> None:
    """Make a path read-only, with all that is mounted below."""
    try:
        target = open_in_root(state.root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fd = mount.open_tree(target, recursive=True)
        mount.mount_setattr(fd, mount.MOUNT_ATTR_RDONLY | _RESTRICTED, recursive=True)
        mount.move_mount(fd, target)
        os.close(fd)
    finally:
        os.close(target)
