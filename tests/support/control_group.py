"""The control group of a container, as the kernel shows it: the same question on cgroup v1 and on cgroup2."""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.engine import EngineProcess


def pure_v2() -> bool:
    """Whether this host has cgroup2 and nothing else."""
    return " - cgroup " not in Path("/proc/self/mountinfo").read_text()


def mount_point(controller: str) -> str:
    """Where a controller's hierarchy is mounted, or cgroup2 for "" and on hosts without cgroup v1."""
    unified = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        where = left.split(" ")[4]
        if kind == "cgroup" and controller and controller in options.split(","):
            return where
        if kind == "cgroup2":
            unified = where
    return unified


def group_of(pid: int, controller: str) -> str:
    """The directory of the group that a process is in."""
    path = ""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, names, here = line.split(":", 2)
        if controller and controller in names.split(","):
            return mount_point(controller) + here
        if number == "0":
            path = here
    return mount_point("") + path


def remove_groups(path: str) -> None:
    """Remove empty control groups that a test made, in every hierarchy; the kernel may need a moment for what was in them."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.partition(" - ")[2].startswith("cgroup"):
            top = line.split(" ")[4] + path
            for where, _, _ in sorted(os.walk(top), reverse=True):
                deadline = time.monotonic() + 10
                while True:
                    try:
                        os.rmdir(where)
                        break
                    except OSError:
                        assert time.monotonic() < deadline, f"{where} is still in use"
                        time.sleep(0.02)


class Groups:
    """The groups of one running container."""

    def __init__(self, engine: EngineProcess, container: str) -> None:
        self.pid = int(engine.ok("inspect", "-f", "{{.State.Pid}}", container))

    def path(self, controller: str, one: str, two: str) -> str:
        """The file that says something: `one` on cgroup v1, `two` on cgroup2."""
        return f"{group_of(self.pid, controller)}/{two if pure_v2() else one}"

    def read(self, controller: str, one: str, two: str) -> str:
        """What it says."""
        return Path(self.path(controller, one, two)).read_text().strip()

    def offers(self, controller: str, one: str, two: str) -> bool:
        """Whether this kernel has the file."""
        return os.path.exists(self.path(controller, one, two))
