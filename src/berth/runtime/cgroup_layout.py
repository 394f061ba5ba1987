"""What control groups this host gives us: hierarchies, and the subtree that is ours.

v1         every hierarchy that is mounted and may be written
cgroup2    its mount point; on pure cgroup2 the subtree that was delegated to us, if there is one (see `cgroup_host`)

Standard library only, without `typing`: `berth-runtime` looks for itself at every launch.
"""

from __future__ import annotations

import os

from berth.kernel.file import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "hugetlb")
V2_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")
# systemd marks what it delegates; the second is what it sets for units of user managers.
_MARKS = ("trusted.delegate", "user.delegate")


class Hierarchy:
    """One mount. `root` is what of the hierarchy is mounted ("/" is all that this namespace shows)."""

    def __init__(self, where: str, version: int, controllers: tuple[str, ...], root: str) -> None:
        self.where = where
        self.version = version
        self.controllers = controllers
        self.root = root


class Layout:
    """v1 mount points by controller, our part of cgroup2 or None, and those of our controllers that it offers."""

    def __init__(self, roots: dict[str, str], v2: str | None, controllers: list[str]) -> None:
        self.roots = roots
        self.v2 = v2
        self.controllers = controllers

    def parts(self) -> tuple[dict[str, str], str | None, list[str]]:
        """The three, to be taken apart."""
        return self.roots, self.v2, self.controllers


def hierarchies(mountinfo: str) -> list[Hierarchy]:
    """The mounts of a mountinfo file that are control groups."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, where = left.split(" ")[3:5]
        if kind == "cgroup":
            names = tuple(option for option in options.split(",") if option in V1_CONTROLLERS)
            found.append(Hierarchy(where, 1, names, root))
        elif kind == "cgroup2":
            found.append(Hierarchy(where, 2, (), root))
    return found


def chosen(found: list[Hierarchy]) -> tuple[dict[str, str], Hierarchy | None]:
    """(v1 mount points by controller, the cgroup2 hierarchy): of several mounts of the same the first, or the usual one."""
    roots: dict[str, str] = {}
    for hierarchy in found:
        for controller in hierarchy.controllers:
            roots.setdefault(controller, hierarchy.where)
    unified = sorted((one for one in found if one.version == 2), key=lambda one: one.where != "/sys/fs/cgroup")
    return roots, unified[0] if unified else None


def layout() -> Layout:
    """What of this host we may use. Hierarchies that are mounted read-only, or are not ours to write, are left out."""
    usable = [found for found in hierarchies(read_text("/proc/self/mountinfo")) if os.access(found.where, os.W_OK)]
    roots, unified = chosen(usable)
    if unified is None:
        return Layout(roots, None, [])
    v2 = unified.where
    if not roots:
        v2 += subtree(v2, own_group(unified.root))
    offered = read_text(v2 + "/cgroup.controllers").split()
    return Layout(roots, v2, [name for name in offered if name in V2_CONTROLLERS and name not in roots])


def own_group(root: str) -> str:
    """The cgroup2 group that this process is in, below a mount of `root`: "/" when it is the mount's top."""
    for line in read_text("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            path = line[3:]
            below = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
            return below or "/"
    return "/"


def subtree(v2: str, own: str) -> str:
    """What of cgroup2 was delegated to the unit that we are in a subgroup of, below the mount point; "" is all of it.

    A unit that is delegated and holds processes itself is of no use: with groups below it that have controllers, systemd could
    not put a process into it again (EBUSY).
    """
    path = os.path.dirname(own)
    return path if path != "/" and delegated(v2 + path) else ""


def delegated(path: str) -> bool:
    """Whether systemd has marked a group as handed over to who is in it."""
    for name in _MARKS:
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            # Not marked, or a kernel without such attributes here.
            continue
    return False


def usual(controllers: Iterable[str]) -> list[str]:
    """Of the controllers that cgroup2 offers, those that every container gets. Counting huge pages is for who limits them."""
    return [name for name in controllers if name != "hugetlb"]
