"""The kernel's table of project quotas, in memory: stands for the module `berth.kernel.quota`."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from berth.kernel.quota import Quota


@dataclass
class Kernel:
    """A file system with project quotas. A directory that has a project takes a page and an inode of it while it is there."""

    there: bool = True
    flags: tuple[bool, bool] = (True, True)
    limits: dict[int, int] = field(default_factory=dict)
    projects: dict[int, tuple[int, str]] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    refuses: bool = False

    def exists(self) -> bool:
        return self.there

    def state(self, fd: int) -> tuple[bool, bool]:
        return self.flags

    def _inodes(self, project: int) -> int:
        self.projects = {inode: (number, path) for inode, (number, path) in self.projects.items() if os.path.exists(path)}
        return sum(number == project for number, _ in self.projects.values())

    def get_quota(self, fd: int, project: int) -> Quota:
        inodes = self._inodes(project)
        return Quota(project, self.limits.get(project, 0), inodes * 4096 + self.written.get(project, 0), inodes, 0)

    def next_quota(self, fd: int, project: int) -> Quota | None:
        known = sorted(number for number in {*self.limits, *(n for n, _ in self.projects.values())} if number >= project)
        return self.get_quota(fd, known[0]) if known else None

    def set_limit(self, fd: int, project: int, limit: int) -> None:
        if limit:
            self.limits[project] = limit
        else:
            self.limits.pop(project, None)

    def get_project(self, fd: int) -> int:
        return self.projects.get(os.fstat(fd).st_ino, (0, ""))[0]

    def set_project(self, fd: int, project: int) -> None:
        if self.refuses:
            raise OSError(errno.EPERM, "not permitted")
        self.projects[os.fstat(fd).st_ino] = (project, os.readlink(f"/proc/self/fd/{fd}"))
