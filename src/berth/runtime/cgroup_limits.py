"""What limits mean in control group files, for both cgroup versions. Values in, (controller, file, value) out.

Docker counts memory and swap together (`memory.swap` of the OCI specification); cgroup v2 counts swap alone.
"""

from __future__ import annotations

from berth.errors import InvalidArgument
from berth.kernel.file import read_text
from berth.runtime.cgroup import directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from berth.model.oci import BlockIO, Cpu, DeviceRule, Memory, Resources, ThrottleDevice
    from berth.runtime.cgroup import Group

Write = tuple[str, str, str, bool]
"""(controller, file, value, optional): an optional write is of a file that the kernel may not have."""

DEFAULT_DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
)
"""Allowed in every container: making any node, and null, zero, full, random, urandom, tty, console, ptmx, pts."""

_THROTTLES = (
    ("throttle_read_bps_device", "blkio.throttle.read_bps_device", "rbps"),
    ("throttle_write_bps_device", "blkio.throttle.write_bps_device", "wbps"),
    ("throttle_read_iops_device", "blkio.throttle.read_iops_device", "riops"),
    ("throttle_write_iops_device", "blkio.throttle.write_iops_device", "wiops"),
)


def writes(resources: Resources, v1: Iterable[str], v2: Iterable[str]) -> list[Write]:
    """The files to write on a host with these controllers. InvalidArgument when there is none for a limit asked for."""
    old, new = frozenset(v1), frozenset(v2)
    result: list[Write] = []
    if resources.memory is not None:
        result += _choose("memory", old, new, memory_v1(resources.memory), memory_v2(resources.memory))
    if resources.cpu is not None:
        result += _cpu(resources.cpu, old, new)
    if resources.pids is not None and resources.pids.limit != 0:
        value = "max" if resources.pids.limit < 0 else str(resources.pids.limit)
        one: list[Write] = [("pids", "pids.max", value, value == "max")]
        result += _choose("pids", old, new, one, one)
    if resources.block_io is not None:
        has_io = new | {"blkio"} if "io" in new else new
        result += _choose("blkio", old, has_io, block_v1(resources.block_io), block_v2(resources.block_io))
    for page in resources.hugepage_limits:
        one = [("hugetlb", f"hugetlb.{page.page_size}.limit_in_bytes", str(page.limit), False)]
        two = [("hugetlb", f"hugetlb.{page.page_size}.max", str(page.limit), False)]
        result += _choose("hugetlb", old, new, one, two)
    return result + _unified(resources.unified, new)


def _unified(values: dict[str, str], new: frozenset[str]) -> list[Write]:
    for name in values:
        controller = name.partition(".")[0]
        if "/" in name or (controller != "cgroup" and controller not in new):
            raise InvalidArgument(
                f"{name} cannot be set: cgroup2 does not have the controller {controller} on this host "
                "(`unified` names files of cgroup2; use the specification's own fields on cgroup v1)"
            )
    return [(name.partition(".")[0], name, value, False) for name, value in values.items()]


def ordered(group: Group, resources: Resources) -> list[Write]:
    """`writes` for a group that exists, in an order that the kernel accepts.

    On cgroup v1 memory may never exceed memory with swap: when both rise, the larger one goes first.
    """
    limits = writes(resources, group["roots"], group["enabled"])
    names = [name for _, name, _, _ in limits]
    plain, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    if plain not in names or both not in names:
        return limits
    new = int(limits[names.index(plain)][2])
    rises = new < 0 or new > int(read_text(f"{directory(group, 'memory')}/{plain}"))
    first = both if rises else plain
    return sorted(limits, key=lambda write: write[1] != first)


def _choose(controller: str, old: frozenset[str], new: frozenset[str], one: list[Write], two: list[Write]) -> list[Write]:
    if controller in old:
        return one
    if controller in new:
        return two
    if all(optional for _, _, _, optional in one):
        return []
    limit = one[0][1]
    raise InvalidArgument(
        f"this host has no {controller} control group, so {limit} cannot be set: run without the limit, or enable the controller"
    )


def memory_v1(memory: Memory) -> list[Write]:
    """Limit before limit-with-swap: the kernel wants limit <= memsw at every moment, and a new group has no limits."""
    result: list[Write] = []
    if memory.limit is not None and memory.limit != 0:
        result.append(("memory", "memory.limit_in_bytes", str(memory.limit), False))
    if memory.swap is not None and memory.swap != 0:
        result.append(("memory", "memory.memsw.limit_in_bytes", str(memory.swap), True))
    if memory.reservation:
        result.append(("memory", "memory.soft_limit_in_bytes", str(memory.reservation), False))
    if memory.swappiness is not None and memory.swappiness >= 0:
        result.append(("memory", "memory.swappiness", str(memory.swappiness), False))
    if memory.disable_oom_killer:
        result.append(("memory", "memory.oom_control", "1", False))
    return result


def memory_v2(memory: Memory) -> list[Write]:
    """swap.max is what may be swapped; a swap total of -1 is no limit."""
    result: list[Write] = []
    if memory.limit is not None and memory.limit != 0:
        result.append(("memory", "memory.max", "max" if memory.limit < 0 else str(memory.limit), False))
    if memory.swap is not None and memory.swap != 0:
        if memory.swap < 0:
            result.append(("memory", "memory.swap.max", "max", True))
        else:
            limit = max(memory.limit or 0, 0)
            result.append(("memory", "memory.swap.max", str(max(memory.swap - limit, 0)), True))
    if memory.reservation:
        result.append(("memory", "memory.low", str(memory.reservation), False))
    return result


def shares_to_weight(shares: int) -> int:
    """cpu.shares (2 to 262144) as cpu.weight (1 to 10000), linear as in the OCI runtimes; 0 is the default of 100."""
    if shares == 0:
        return 100
    shares = min(max(shares, 2), 262144)
    return 1 + ((shares - 2) * 9999) // 262142


def blkio_to_io_weight(weight: int) -> int:
    """blkio.weight (10 to 1000) as io.weight (1 to 10000)."""
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def _cpu(cpu: Cpu, old: frozenset[str], new: frozenset[str]) -> list[Write]:
    one: list[Write] = []
    two: list[Write] = []
    if cpu.shares:
        one.append(("cpu", "cpu.shares", str(cpu.shares), False))
        two.append(("cpu", "cpu.weight", str(shares_to_weight(cpu.shares)), False))
    if cpu.period:
        one.append(("cpu", "cpu.cfs_period_us", str(cpu.period), False))
    if cpu.quota:
        one.append(("cpu", "cpu.cfs_quota_us", str(cpu.quota), False))
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        two.append(("cpu", "cpu.max", f"{quota} {cpu.period or 100000}", False))
    if cpu.burst:
        one.append(("cpu", "cpu.cfs_burst_us", str(cpu.burst), False))
        two.append(("cpu", "cpu.max.burst", str(cpu.burst), False))
    if cpu.idle is not None:
        one.append(("cpu", "cpu.idle", str(cpu.idle), False))
        two.append(("cpu", "cpu.idle", str(cpu.idle), False))
    if cpu.realtime_period:
        one.append(("cpu", "cpu.rt_period_us", str(cpu.realtime_period), False))
    if cpu.realtime_runtime:
        one.append(("cpu", "cpu.rt_runtime_us", str(cpu.realtime_runtime), False))
    if "cpu" not in old and "cpu" in new and (cpu.realtime_period or cpu.realtime_runtime):
        raise InvalidArgument("cgroup2 has no limit for real-time scheduling: run without it, or on a host with cgroup v1")
    result = _choose("cpu", old, new, one, two) if one else []
    sets: list[Write] = []
    if cpu.cpus:
        sets.append(("cpuset", "cpuset.cpus", cpu.cpus, False))
    if cpu.mems:
        sets.append(("cpuset", "cpuset.mems", cpu.mems, False))
    return result + (_choose("cpuset", old, new, sets, sets) if sets else [])


def block_v1(block: BlockIO) -> list[Write]:
    """Throttling always; weights only with a scheduler that knows them."""
    result: list[Write] = []
    if block.weight:
        result += [("blkio", "blkio.weight", str(block.weight), True), ("blkio", "blkio.bfq.weight", str(block.weight), True)]
    for device in block.weight_device:
        value = f"{device.major}:{device.minor} {device.weight}"
        result += [("blkio", "blkio.weight_device", value, True), ("blkio", "blkio.bfq.weight_device", value, True)]
    for attribute, name, _ in _THROTTLES:
        result += [("blkio", name, f"{d.major}:{d.minor} {d.rate}", False) for d in _devices(block, attribute)]
    return result


def block_v2(block: BlockIO) -> list[Write]:
    """One io.max line per device and kind."""
    result: list[Write] = []
    if block.weight:
        weight = blkio_to_io_weight(block.weight)
        result += [("io", "io.weight", f"default {weight}", True), ("io", "io.bfq.weight", str(block.weight), True)]
    for device in block.weight_device:
        value = f"{device.major}:{device.minor} {blkio_to_io_weight(device.weight or 10)}"
        result.append(("io", "io.weight", value, True))
    for attribute, _, key in _THROTTLES:
        result += [("io", "io.max", f"{d.major}:{d.minor} {key}={d.rate}", False) for d in _devices(block, attribute)]
    return result


def _devices(block: BlockIO, attribute: str) -> list[ThrottleDevice]:
    devices: list[ThrottleDevice] = getattr(block, attribute)
    return devices


def device_rules(rules: Iterable[DeviceRule]) -> list[tuple[bool, str, int | None, int | None, str]]:
    """The rules in order as (allow, type, major, minor, access), with the default devices after a rule that denies all.

    Empty when everything is allowed: then nothing has to be written or loaded.
    """
    result: list[tuple[bool, str, int | None, int | None, str]] = []
    for rule in rules:
        entry = (rule.allow, rule.type or "a", _wild(rule.major), _wild(rule.minor), rule.access or "rwm")
        if entry[1:4] == ("a", None, None):
            result = [] if rule.allow else [entry, *(parse_device(text) for text in DEFAULT_DEVICES)]
        else:
            result.append(entry)
    return result


def _wild(value: int | None) -> int | None:
    return None if value is None or value < 0 else value


def parse_device(text: str) -> tuple[bool, str, int | None, int | None, str]:
    """ "c 1:3 rwm" as an allowing rule."""
    kind, numbers, access = text.split()
    major, minor = (None if part == "*" else int(part) for part in numbers.split(":"))
    return True, kind, major, minor, access


def device_writes(rules: Iterable[tuple[bool, str, int | None, int | None, str]]) -> list[Write]:
    """The v1 files for rules."""
    result: list[Write] = []
    for allow, kind, major, minor, access in rules:
        name = "devices.allow" if allow else "devices.deny"
        value = "a" if kind == "a" else f"{kind} {_star(major)}:{_star(minor)} {access}"
        result.append(("devices", name, value, False))
    return result


def _star(value: int | None) -> str:
    return "*" if value is None else str(value)
