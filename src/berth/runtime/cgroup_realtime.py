"""Time for real-time scheduling on cgroup v1: a group may only hand out what its parent has. For the engine.

A new group has none, so before a container gets some, every group above it is given what its children have together,
plus that. The root of the hierarchy has what the kernel allows in all (0.95 s of each second).
"""

from __future__ import annotations

import os

from berth.errors import InvalidArgument
from berth.kernel.file import read_text, write_text
from berth.runtime import cgroup

_PERIOD = 1_000_000


def grant(group: cgroup.Group, runtime: int, period: int) -> None:
    """Let the groups above have `runtime` of each `period` (microseconds, 0 is the kernel's second) more for this one.

    They are made if they are not there. InvalidArgument when the host has not that much left.
    """
    parent = os.path.dirname(group["path"])
    cgroup.create({**group, "path": parent})
    root, path = group["roots"]["cpu"], group["path"]
    share = runtime * _PERIOD // (period or _PERIOD)
    shares: list[tuple[str, int]] = []
    while (above := os.path.dirname(path)) != "/":
        others = sum(_share(entry.path) for entry in os.scandir(root + above) if entry.is_dir() and entry.path != root + path)
        share = max(_share(root + above), share + others)
        shares.append((root + above, share))
        path = above
    for directory, value in reversed(shares):
        if value > _share(directory):
            _set(directory, value)


def _share(path: str) -> int:
    """Microseconds of each second."""
    try:
        return int(read_text(path + "/cpu.rt_runtime_us")) * _PERIOD // int(read_text(path + "/cpu.rt_period_us"))
    except FileNotFoundError:
        return 0


def _set(path: str, runtime: int) -> None:
    try:
        write_text(path + "/cpu.rt_period_us", str(_PERIOD))
        write_text(path + "/cpu.rt_runtime_us", str(runtime))
    except OSError as error:
        raise InvalidArgument(
            f"cpu.rt_runtime_us: {runtime} of each {_PERIOD} microseconds are more than this host has left for real-time "
            f"scheduling ({error.strerror}): ask for less, or end containers that have some"
        ) from error
