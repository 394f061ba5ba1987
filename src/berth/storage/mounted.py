"""Which file system holds a path, by the text of /proc/PID/mountinfo."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mounted:
    """What holds a path: `options` are those of the file system, not of the mount."""

    where: str = ""
    kind: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


def find_mounted(mountinfo: str, path: str) -> Mounted:
    """The mount that an absolute path leads to. Of two on one place, the later one is seen."""
    found = Mounted()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        where = left.split(" ")[4].replace("\\040", " ")
        inside = path == where or path.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(found.where):
            kind, source, options = right.split(" ", 2)
            found = Mounted(where, kind, source, tuple(options.split(",")))
    return found
