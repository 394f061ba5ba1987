"""What an engine does at its start with the control groups that `cgroup_layout` finds: make room, see what can be limited.

<mount>/system.slice/berthd.service     delegated with a subgroup, or the root of a cgroup namespace
    engine/                             all processes that were in it: cgroup2 lets no group both hold processes
    berth/<id>/                         and hand controllers down
"""

from __future__ import annotations

import os

from msgspec import structs

from berth.contract.runtime import Abilities
from berth.errors import Internal
from berth.kernel.file import read_text, write_text
from berth.runtime import cgroup
from berth.runtime.cgroup_layout import Layout, delegated, layout, own_group, usual

LEAF = "engine"
_SYSTEMD = "/run/systemd/system"
_ROUNDS = 20
_UNUSED = (
    "The unit that this engine is in has Delegate=yes without DelegateSubgroup=: that is not used, since systemd could not start "
    f"the unit again while containers run. Add DelegateSubgroup={LEAF} (systemd 254 and later), or leave Delegate= out."
)


def settle(found: Layout) -> bool:
    """Make room at the top of our subtree: whatever process is in it goes to a leaf of its own. Whether there was any.

    To be called before anything is forked that shall be there too. The root of the whole hierarchy may hold processes.
    """
    if found.roots or found.v2 is None or not os.path.exists(found.v2 + "/cgroup.type"):
        return False
    leaf = f"{found.v2}/{LEAF}"
    for turn in range(_ROUNDS):
        # 0 is a process that this pid namespace does not show.
        pids = [pid for pid in read_text(found.v2 + "/cgroup.procs").split() if pid != "0"]
        if not pids:
            return turn > 0
        os.makedirs(leaf, 0o755, exist_ok=True)
        for pid in pids:
            try:
                write_text(leaf + "/cgroup.procs", pid)
            except ProcessLookupError:
                continue
    raise Internal(f"the processes in {found.v2} cannot be moved to {leaf}: new ones come as fast; start the engine elsewhere")


def take(name: str) -> tuple[Layout, Abilities]:
    """At engine start: settle, make the parent `name` of our containers' groups, and see what can be limited there."""
    found = layout()
    settle(found)
    group: cgroup.Group = {"path": "/" + name, "roots": found.roots, "v2": found.v2, "enabled": usual(found.controllers)}
    try:
        cgroup.create(group)
    except OSError as error:
        refusal = f"Control groups cannot be made ({error.filename}: {error.strerror}): containers run without limits."
        return Layout({}, None, []), _nothing(refusal)
    if not found.roots and found.v2 is None:
        return found, _nothing("No control group hierarchy is mounted that may be written: containers run without limits.")
    able = abilities(group)
    if found.v2 is not None and not found.roots and delegated(found.v2 + own_group("/")):
        able = structs.replace(able, notes=(*able.notes, _UNUSED))
    return found, able


def _nothing(note: str) -> Abilities:
    return Abilities(
        version=0, memory=False, swap=False, reservation=False, swappiness=False, oom_kill_disable=False, cpu_shares=False,
        cpu_quota=False, cpu_realtime=False, cpuset=False, pids=False, io_weight=False, io_weight_device=False,
        io_throttle=False, freezer=False, notes=(note,),
    )  # fmt: skip


def abilities(group: cgroup.Group) -> Abilities:
    """What can be limited in a group that exists (not the root of a hierarchy, which lacks most files)."""

    def has(controller: str, one: str, two: str) -> bool:
        name = one if controller in group["roots"] else two
        if controller not in group["roots"] and not group["v2"]:
            return False
        return bool(name) and os.path.exists(f"{cgroup.directory(group, controller)}/{name}")

    cpuset = has("cpuset", "cpuset.cpus", "cpuset.cpus.effective")
    found = {
        "memory": has("memory", "memory.limit_in_bytes", "memory.max"),
        "cpu_quota": has("cpu", "cpu.cfs_quota_us", "cpu.max"),
        "cpuset": cpuset,
        "pids": has("pids", "pids.max", "pids.max"),
        "io_throttle": has("blkio", "blkio.throttle.read_bps_device", "io.max"),
    }
    freezer = has("freezer", "freezer.state", "cgroup.freeze") or bool(group["v2"])
    missing = sorted({"memory": "memory", "cpu_quota": "cpu", "cpuset": "cpuset", "pids": "pids", "io_throttle": "io"}[key]
                     for key, there in found.items() if not there)  # fmt: skip
    notes = (f"This host has no {', '.join(missing)} control group: such limits are discarded.",) if missing else ()
    systemd = os.path.isdir(_SYSTEMD) and (bool(group["roots"]) or not os.path.exists(f"{group['v2']}/cgroup.type"))
    return Abilities(
        version=1 if group["roots"] else 2,
        swap=has("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
        reservation=has("memory", "memory.soft_limit_in_bytes", "memory.low"),
        swappiness=has("memory", "memory.swappiness", ""),
        oom_kill_disable=has("memory", "memory.oom_control", ""),
        cpu_shares=has("cpu", "cpu.shares", "cpu.weight"),
        cpu_realtime=has("cpu", "cpu.rt_runtime_us", ""),
        cpus=_chosen_from(group, "cpus") if cpuset else "",
        mems=_chosen_from(group, "mems") if cpuset else "",
        io_weight=has("blkio", "blkio.weight", "io.weight") or has("blkio", "blkio.bfq.weight", "io.bfq.weight"),
        io_weight_device=has("blkio", "blkio.weight_device", "io.weight")
        or has("blkio", "blkio.bfq.weight_device", "io.bfq.weight"),
        freezer=freezer,
        slices=_slices(group) if systemd else "",
        notes=notes,
        **found,
    )


def _chosen_from(group: cgroup.Group, what: str) -> str:
    path = cgroup.directory(group, "cpuset")
    name = f"cpuset.{what}" if "cpuset" in group["roots"] else f"cpuset.{what}.effective"
    return read_text(f"{path}/{name}").strip()


def _slices(group: cgroup.Group) -> str:
    return str(group["v2"] or next(iter(group["roots"].values())))
