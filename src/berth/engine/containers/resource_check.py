"""Limits of a create or update request: each in its range, fitting together, and possible on this host. Pure.

What the host cannot limit is taken out with a warning, in Docker's words; what makes no sense is InvalidArgument, also in
Docker's words and in Docker's order.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec import structs

from berth.contract.runtime import Abilities
from berth.errors import InvalidArgument
from berth.wire.container import Resources

_MINIMUM_MEMORY = 6 * 1024 * 1024
_NOT_MOUNTED = "capabilities or the cgroup is not mounted."
R = TypeVar("R", bound=Resources)

_THROTTLES = (
    ("blkio_device_read_bps", "BPS Block I/O read limit", "Block I/O BPS read limit"),
    ("blkio_device_write_bps", "BPS Block I/O write limit", "Block I/O BPS write limit"),
    ("blkio_device_read_iops", "IOPS Block read limit", "Block I/O IOPS read limit"),
    ("blkio_device_write_iops", "IOPS Block write limit", "Block I/O IOPS write limit"),
)


def check(resources: R, host: Abilities, processors: int, *, update: bool = False) -> tuple[R, list[str]]:
    """The limits that are left, and warnings. An update need not name the limit that another one goes with."""
    kept, warnings = _possible(resources, host)
    _check_memory(kept, update=update)
    _check_cpu(kept, host, processors)
    _check_io(kept)
    if kept.oom_kill_disable and not kept.memory and not update:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    return kept, warnings


def with_default_swap(resources: R) -> R:
    """Twice the memory is memory and swap together, unless the request says how much that is."""
    if (resources.memory or 0) > 0 and not resources.memory_swap:
        return structs.replace(resources, memory_swap=2 * (resources.memory or 0))
    return resources


def _possible(res: R, host: Abilities) -> tuple[R, list[str]]:
    """Without what the host lacks."""
    changes: dict[str, object] = {}
    warnings: list[str] = []

    def discard(warning: str, **values: object) -> None:
        warnings.append(warning)
        changes.update(values)

    memory = res.memory or 0
    if memory > 0 and not host.memory:
        discard(f"Your kernel does not support memory limit {_NOT_MOUNTED} Limitation discarded.", memory=0, memory_swap=-1)
    elif memory > 0 and res.memory_swap != -1 and not host.swap:
        discard(f"Your kernel does not support swap limit {_NOT_MOUNTED} Memory limited without swap.", memory_swap=-1)
    if res.memory_swappiness not in (None, -1) and not host.swappiness:
        discard(
            f"Your kernel does not support memory swappiness {_NOT_MOUNTED} Memory swappiness discarded.", memory_swappiness=None
        )
    if res.memory_reservation and not host.reservation:
        discard(f"Your kernel does not support memory soft limit {_NOT_MOUNTED} Limitation discarded.", memory_reservation=0)
    if res.oom_kill_disable and not host.oom_kill_disable:
        discard("Your kernel does not support OomKillDisable. OomKillDisable discarded.", oom_kill_disable=None)
    if (res.pids_limit or 0) > 0 and not host.pids:
        discard(f"Your kernel does not support PIDs limit {_NOT_MOUNTED} PIDs limit discarded.", pids_limit=None)
    if res.cpu_shares and not host.cpu_shares:
        discard("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.", cpu_shares=0)
    if (res.cpu_period or res.cpu_quota) and not host.cpu_quota:
        discard("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.", cpu_period=0, cpu_quota=0)
    if res.cpu_percent:
        discard("linux does not support CPU percent. Percent discarded.", cpu_percent=0)
    if res.cpu_count:
        discard("linux does not support CPU count. Count discarded.", cpu_count=0)
    if (res.cpuset_cpus or res.cpuset_mems) and not host.cpuset:
        discard(
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.", cpuset_cpus="", cpuset_mems=""
        )
    if res.blkio_weight and not host.io_weight:
        discard("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.", blkio_weight=0)
    if res.blkio_weight_device and not host.io_weight_device:
        discard(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
            blkio_weight_device=[],
        )
    for field, what, short in _THROTTLES:
        if getattr(res, field) and not host.io_throttle:
            discard(f"Your kernel does not support {what} or the cgroup is not mounted. {short} discarded.", **{field: []})
    return structs.replace(res, **changes), warnings


def _check_memory(res: Resources, *, update: bool) -> None:
    memory, swap, reservation = res.memory or 0, res.memory_swap or 0, res.memory_reservation or 0
    if res.kernel_memory or res.kernel_memory_tcp:
        raise InvalidArgument("KernelMemory and KernelMemoryTCP are not supported: Linux counts it in Memory, use that")
    if memory and memory < _MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory and swap > 0 and swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0 and not update:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if res.memory_swappiness is not None and not -1 <= res.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {res.memory_swappiness}, valid memory swappiness range is 0-100")
    if reservation and reservation < _MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if memory and reservation > memory:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(res: Resources, host: Abilities, processors: int) -> None:
    nano = res.nano_cpus or 0
    if nano and res.cpu_period:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano and res.cpu_quota:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if nano and not host.cpu_quota:
        raise InvalidArgument(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
        )
    if nano < 0 or nano > processors * 10**9:
        raise InvalidArgument(f"range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available")
    if res.cpu_period and not 1000 <= res.cpu_period <= 1000000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < (res.cpu_quota or 0) < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (res.cpu_realtime_period or res.cpu_realtime_runtime) and not host.cpu_realtime:
        raise InvalidArgument("kernel does not support CPU real-time scheduler")
    if res.cpu_realtime_period and (res.cpu_realtime_runtime or 0) > res.cpu_realtime_period:
        raise InvalidArgument("cpu real-time runtime cannot be higher than cpu real-time period")
    _check_set(res.cpuset_cpus, host.cpus, "cpuset cpus", "CPUs")
    _check_set(res.cpuset_mems, host.mems, "cpuset mems", "memory nodes")


def _check_set(asked: str | None, available: str, field: str, what: str) -> None:
    if not asked:
        return
    try:
        wanted = numbers(asked)
    except ValueError:
        raise InvalidArgument(f"Invalid value {asked} for {field}: invalid format: {asked}") from None
    if available and not wanted <= numbers(available):
        raise InvalidArgument(f"Requested {what} are not available - requested {asked}, available: {available}")


def numbers(text: str) -> set[int]:
    """What a list like "0-2,5" means. ValueError when it is none."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 20:
            raise ValueError(text)
        low, high = int(first), int(last or first)
        if high < low or high > 8192:
            raise ValueError(text)
        found.update(range(low, high + 1))
    return found


def _check_io(res: Resources) -> None:
    if res.blkio_weight and not 10 <= res.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for weight in res.blkio_weight_device or []:
        if not 10 <= (weight.weight or 0) <= 1000:
            raise InvalidArgument(f"Range of blkio weight is from 10 to 1000, but {weight.path} has {weight.weight}")
    for field, what, _ in _THROTTLES:
        for throttle in getattr(res, field) or []:
            if (throttle.rate or 0) < 0:
                raise InvalidArgument(f"Invalid {what} {throttle.rate} for {throttle.path}: a rate is 0 (no limit) or more")
    if res.io_maximum_bandwidth or res.io_maximum_iops:
        raise InvalidArgument("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
