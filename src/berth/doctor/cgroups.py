"""Control groups: which hierarchy, which controllers, and which limits therefore count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from berth.doctor.check import Scene, listed, note, ok, problem, warning
from berth.runtime.cgroup_layout import V1_CONTROLLERS, V2_CONTROLLERS, chosen, usual
from berth.runtime.cgroup_layout import hierarchies as mounted
from berth.wire.doctor import Finding

_FLAGS = {
    "memory": "--memory",
    "cpu": "--cpus, --cpu-shares",
    "cpuset": "--cpuset-cpus",
    "pids": "--pids-limit",
    "io": "--device-read-bps and its kin",
    "blkio": "--device-read-bps and its kin",
    "devices": "the list of allowed devices",
    "freezer": "pause",
}


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Mount points: by controller for version 1, one for version 2 with the controllers that it offers."""

    v1: dict[str, str]
    v2: str
    offered: tuple[str, ...]

    @property
    def mode(self) -> str:
        """v1, v2 or hybrid; empty without any."""
        if self.v1:
            return "hybrid" if self.v2 else "v1"
        return "v2" if self.v2 else ""


def hierarchies(scene: Scene) -> Hierarchies:
    """As they are mounted."""
    v1, unified = chosen(mounted(scene.host.text("/proc/self/mountinfo") or ""))
    v2 = unified.where if unified is not None else ""
    offered = (scene.host.text(f"{v2}/cgroup.controllers") or "").split() if v2 else []
    return Hierarchies(v1, v2, tuple(offered))


def mode(scene: Scene) -> Iterator[Finding]:
    """Version 1, version 2, or both."""
    found = hierarchies(scene)
    facts = {"mode": found.mode, "v1": found.v1, "v2": found.v2, "v2_controllers": list(found.offered)}
    if not found.mode:
        yield problem(
            "no control groups are mounted",
            why="Limits, statistics, pause and the certain end of a container need them.",
            change="mount -t cgroup2 none /sys/fs/cgroup",
            facts=facts,
        )
    elif found.mode == "v2":
        yield ok(f"control groups version 2 at {found.v2}", facts=facts)
    else:
        both = " and version 2 without its limits" if found.mode == "hybrid" else ""
        yield ok(
            f"control groups version 1{both}",
            why="Everything works. Version 2 makes starts a little faster and lets memory limits count swap better.",
            facts=facts,
        )


def controllers(scene: Scene) -> Iterator[Finding]:
    """What can be limited."""
    found = hierarchies(scene)
    if not found.mode:
        return
    wanted = usual(V2_CONTROLLERS if found.mode == "v2" else V1_CONTROLLERS)
    missing = [name for name in wanted if name not in found.v1 and name not in found.offered]
    facts = {"available": sorted({*found.v1, *found.offered}), "missing": missing}
    if missing:
        flags = listed(f"{name} ({_FLAGS[name]})" if name in _FLAGS else name for name in missing)
        yield warning(
            f"these controllers are missing: {flags}",
            why="Limits of that kind are left out with a warning, or refused.",
            change=_how_to_enable(missing, found.mode),
            facts=facts,
        )
    else:
        yield ok(f"all controllers are there: {', '.join(wanted)}", facts=facts)


def _how_to_enable(missing: list[str], mode: str) -> str:
    if "memory" in missing:
        return "add cgroup_enable=memory to the kernel's command line and reboot (GRUB_CMDLINE_LINUX in /etc/default/grub)"
    if mode == "v2":
        return f"echo '{' '.join('+' + name for name in missing)}' > /sys/fs/cgroup/cgroup.subtree_control"
    return f"mount -t cgroup -o {missing[0]} cgroup /sys/fs/cgroup/{missing[0]}"


def writable(scene: Scene) -> Iterator[Finding]:
    """Whether groups can be made."""
    scene.need_root("whether control groups can be made")
    found = hierarchies(scene)
    places = sorted({*found.v1.values(), *([found.v2] if found.v2 else [])})
    closed = [place for place in places if not os.access(scene.host.path(place), os.W_OK)]
    if closed:
        yield problem(
            f"control groups cannot be made in {listed(closed)}",
            why="Each container has one. They are read-only inside most containers.",
            change="run berth on the host, or in a container with a writable /sys/fs/cgroup (--privileged)",
            facts={"closed": closed},
        )
    elif places:
        yield ok("control groups can be made in every hierarchy", facts={"places": places})


def swap(scene: Scene) -> Iterator[Finding]:
    """Whether swap is counted."""
    found = hierarchies(scene)
    if "memory" in found.v1:
        counted = scene.host.exists(f"{found.v1['memory']}/memory.memsw.limit_in_bytes")
    elif "memory" in found.offered:
        # The root group has no file of its own for it; any group below does.
        groups = [name for name in scene.host.names(found.v2) if scene.host.exists(f"{found.v2}/{name}/cgroup.procs")]
        counted = not groups or any(scene.host.exists(f"{found.v2}/{name}/memory.swap.max") for name in groups)
    else:
        return
    total = next(
        (line.split()[1] for line in (scene.host.text("/proc/meminfo") or "").splitlines() if line.startswith("SwapTotal")), "0"
    )
    has_swap = total != "0"
    facts = {"accounting": counted, "host_has_swap": has_swap}
    if counted:
        yield ok("swap is counted: --memory-swap works", facts=facts)
    elif has_swap:
        yield warning(
            "swap is not counted",
            why="A container with --memory may use swap beyond its limit; --memory-swap has no effect.",
            change="add swapaccount=1 to the kernel's command line and reboot, or switch swap off (swapoff -a)",
            facts=facts,
        )
    else:
        yield note("swap is not counted, and this host has none: --memory-swap has no effect", facts=facts)
