"""Sizes of directories by project quotas: a container's upper and work directory are one project, a volume's data is another.

A project is a number on each inode; what is made in such a directory gets it, too. Nothing records the numbers but the inodes
and the file system's own table: a number is free when nothing has it and no limit is set for it. Each data root takes its own
out of a range, so that what a crash has left is known as such. A limit is set before the number is given out, and goes after the
last file.

Other engines, other roots and tools of the administrator share the table. Where the data root itself belongs to a project, sizes
are refused: what is in one project cannot be in another.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from berth.errors import InvalidArgument, ResourceExhausted
from berth.kernel import quota
from berth.kernel.fs import remove_tree
from berth.storage.mounted import Mounted, find_mounted
from berth.storage.space import translated

log = logging.getLogger("berth.storage")
# Far from what administrators choose, and room for a range of many data roots.
_LOWEST = 1 << 30
_RANGES = 1 << 14
_RANGE = 1 << 16
_ROOM = 1 << 20
# xfs gives back in the background what files took that are gone.
_DELAYS = tuple(0.005 * 2**step for step in range(9))
MOST_BYTES = 1 << 60
"""Limits are counted in KiB, and in signed 64 bits at that."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Why directories cannot have a size: what is so, and what changes it."""

    what: str
    change: str

    def __str__(self) -> str:
        return f"{self.what}: {self.change}"


def lack(directory: str) -> Lack | None:
    """None where the file system holds limits of projects. OSError when there is no such directory."""
    if not quota.exists():
        return Lack("this kernel has no quotas", "use one with CONFIG_QUOTA, or leave the size out")
    with _opened(directory) as fd:
        counted, held = quota.state(fd)
        project = quota.get_project(fd)
    if held and not project:
        return None
    if project:
        return Lack(
            f"{directory} belongs to project {project} of another quota, and what is in one project cannot be in another",
            "put the data root elsewhere (berthd --root DIR), or take it out of that project (chattr -R -P -p 0)",
        )
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounted = find_mounted(file.read(), os.path.realpath(directory))
    return advice(mounted, counted=counted)


def advice(mounted: Mounted, *, counted: bool) -> Lack:
    """How a file system comes to hold limits that does not; `counted`: it counts already. Pure."""
    place = f"the {mounted.kind} at {mounted.where}"
    if counted:
        return Lack(f"{place} counts what projects take up, but holds no limits", f"quotaon -P {mounted.where}")
    if mounted.kind == "xfs":
        return Lack(
            f"{place} has its project quota off",
            f"add the option pquota to its line in /etc/fstab, then unmount and mount {mounted.where} (a remount does not turn "
            "it on; the root file system needs rootflags=pquota on the kernel's command line)",
        )
    if mounted.kind == "ext4":
        return Lack(
            f"{place} has no project quota",
            f"unmount it, run `tune2fs -O project,quota -Q prjquota {mounted.source}`, and mount it with the option prjquota "
            "(in /etc/fstab; the kernel needs CONFIG_QFMT_V2)",
        )
    return Lack(
        f"{mounted.where} is {mounted.kind or 'a file system'} without project quotas",
        "put the data root on xfs that is mounted with pquota, or on ext4 with prjquota (berthd --root DIR)",
    )


class Quotas:
    """The sizes of what lies below one data root."""

    def __init__(self, root: str) -> None:
        self._root = root
        digest = hashlib.sha256(os.fsencode(os.path.realpath(root))).digest()
        self._first = _LOWEST + int.from_bytes(digest[:2], "big") % _RANGES * _RANGE
        self._next = self._first
        self._on: bool | None = None

    def check(self, what: str) -> None:
        """InvalidArgument, with `what` before the reason and what to do, where sizes cannot be held."""
        with translated(f"{what}: looking for project quotas"):
            found = lack(self._root)
        self._on = found is None
        if found is not None:
            raise InvalidArgument(f"{what}: {found}")

    def limit(self, size: int, *directories: str) -> None:
        """Let empty directories have so many bytes together. OSError leaves nothing set. Flushed with the directories."""
        with _opened(self._root) as root:
            project = self._take(root)
            quota.set_limit(root, project, size)
            try:
                for directory in directories:
                    _assign(directory, project)
            except BaseException:
                quota.set_limit(root, project, 0)
                raise
        self._on = True

    def _take(self, root: int) -> int:
        """A number that nothing has. Nobody else of this root may come between this and the limit: callers do not await."""
        for _ in range(_RANGE):
            number = self._next
            self._next = self._first + (number + 1 - self._first) % _RANGE
            found = quota.get_quota(root, number)
            if not (found.limit or found.inode_limit or found.space or found.inodes):
                return number
        raise ResourceExhausted(
            f"{_RANGE} containers and volumes of {self._root} have a size, and there are no more: remove some"
        )

    def keep(self, size: int, what: str, *directories: str) -> None:
        """Before directories that have a size are used again: the limit is there, or a warning says why not.

        It is lost when the file system is mounted without quotas, when its table is made anew, and when a data root is copied.
        """
        try:
            missing = lack(self._root)
            if missing is not None:
                log.warning("the size of %s is not held any more: %s", what, missing)
                return
            with _opened(self._root) as root:
                projects = [_project(directory) for directory in directories]
                if not projects[0]:
                    log.warning("%s had lost its project: what it has stored until now does not count against its size", what)
                    self.limit(size, *directories)
                    return
                for directory, project in zip(directories, projects, strict=True):
                    if project != projects[0]:
                        _assign(directory, projects[0])
                if quota.get_quota(root, projects[0]).limit != -(-size // 1024) * 1024:
                    quota.set_limit(root, projects[0], size)
        except OSError as error:
            log.warning("the size of %s cannot be set again: %s", what, error)

    @contextmanager
    def with_room(self, size: int, directory: str) -> Iterator[None]:
        """While an overlay is mounted that has used up its size, let it have a little more.

        Overlayfs makes a directory in its work directory first, for which xfs wants blocks of the quota at hand; without them the
        kernel mounts it read-only, and nobody in the container could remove anything any more.
        """
        lifted = self._set_limit(size, directory, room=True)
        try:
            yield
        finally:
            if lifted:
                self._set_limit(size, directory, room=False)

    def _set_limit(self, size: int, directory: str, *, room: bool) -> bool:
        try:
            project = _project(directory)
            if not project:
                return False
            with _opened(self._root) as root:
                space = quota.get_quota(root, project).space
                if room and space + _ROOM <= size:
                    return False
                quota.set_limit(root, project, space + _ROOM if room else size)
        except OSError as error:
            log.warning("the limit of project %s is not changed: %s", directory, error)
            return False
        return True

    def remove_tree(self, path: str) -> None:
        """Remove a tree and, with its last file, the limit of its project. As kernel.fs.remove_tree otherwise."""
        projects = self._projects_of(path) if self._is_on() else set()
        remove_tree(path)
        for project in projects:
            self._release(project)

    def _is_on(self) -> bool:
        if self._on is None:
            with suppress(OSError):
                self._on = lack(self._root) is None
        return bool(self._on)

    def _projects_of(self, path: str) -> set[int]:
        """Of our own, on a tree that was a container's, a part of one, or a volume's."""
        found = set()
        for place in (path, f"{path}/upper", f"{path}/work", f"{path}/_data"):
            with suppress(OSError):
                found.add(_project(place))
        return {project for project in found if project >= _LOWEST}

    def _release(self, project: int) -> None:
        try:
            with _opened(self._root) as root:
                for delay in _DELAYS:
                    found = quota.get_quota(root, project)
                    if not (found.space or found.inodes):
                        break
                    time.sleep(delay)
                else:
                    # Of a tree that another part is left of: whoever removes that comes here, or the next start does.
                    return
                if found.limit:
                    quota.set_limit(root, project, 0)
        except OSError as error:
            log.warning("the limit of project %d stays until the next start: %s", project, error)

    def sweep(self) -> int:
        """At engine start: take off limits that no file is left for. Returns how many."""
        swept = 0
        if not self._is_on():
            return swept
        with suppress(OSError), _opened(self._root) as root:
            found = quota.next_quota(root, self._first)
            while found is not None and found.project < self._first + _RANGE:
                if found.limit and not (found.space or found.inodes):
                    quota.set_limit(root, found.project, 0)
                    swept += 1
                found = quota.next_quota(root, found.project + 1)
        return swept


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _project(directory: str) -> int:
    # In a tree that is being removed the name may be a container's own.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return quota.get_project(fd)
    finally:
        os.close(fd)


def _assign(directory: str, project: int) -> None:
    with _opened(directory) as fd:
        quota.set_project(fd, project)
