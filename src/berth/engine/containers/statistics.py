"""GET /containers/{id}/stats: readings of the control group and of the network devices, once or each second."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from berth.contract.runtime import Stats
from berth.engine.containers.record import Container
from berth.errors import BerthError
from berth.model.instant import ZERO, rfc3339
from berth.wire.container import (
    ContainerBlkioStatEntry,
    ContainerBlkioStats,
    ContainerCPUStats,
    ContainerCPUUsage,
    ContainerMemoryStats,
    ContainerNetworkStats,
    ContainerPidsStats,
    ContainerStatsResponse,
    ContainerStorageStats,
    ContainerThrottlingData,
)

_TICKS = os.sysconf("SC_CLK_TCK")
_BLKIO = [
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
]


def host_cpu() -> int:
    """Nanoseconds of processor time of the whole host, idle time included."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = file.readline().split()[1:8]
    return sum(int(f) for f in fields) * 10**9 // _TICKS


def network_counters(pid: int) -> dict[str, ContainerNetworkStats]:
    """The devices in the network namespace of the process, without the loopback."""
    found = {}
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return {}
    for line in lines:
        name, _, rest = line.strip().partition(":")
        n = [int(f) for f in rest.split()]
        if name != "lo" and len(n) >= 16:
            found[name] = ContainerNetworkStats(
                rx_bytes=n[0], rx_packets=n[1], rx_errors=n[2], rx_dropped=n[3],
                tx_bytes=n[8], tx_packets=n[9], tx_errors=n[10], tx_dropped=n[11],
            )  # fmt: skip
    return found


def cpu_stats(stats: Stats, system: int, processors: int) -> ContainerCPUStats:
    """Processor usage."""
    return ContainerCPUStats(
        cpu_usage=ContainerCPUUsage(
            total_usage=stats.cpu_total,
            percpu_usage=list(stats.percpu) or None,
            usage_in_kernelmode=stats.cpu_system,
            usage_in_usermode=stats.cpu_user,
        ),
        system_cpu_usage=system,
        online_cpus=processors,
        throttling_data=ContainerThrottlingData(
            periods=stats.periods, throttled_periods=stats.throttled_periods, throttled_time=stats.throttled_time
        ),
    )


def _empty_cpu() -> ContainerCPUStats:
    usage = ContainerCPUUsage(total_usage=0, usage_in_kernelmode=0, usage_in_usermode=0)
    return ContainerCPUStats(
        cpu_usage=usage, throttling_data=ContainerThrottlingData(periods=0, throttled_periods=0, throttled_time=0)
    )


def _memory(stats: Stats) -> ContainerMemoryStats:
    limit = stats.memory_limit
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return ContainerMemoryStats(
        usage=stats.memory_usage,
        max_usage=stats.memory_max_usage or None,
        stats=dict(stats.memory_stats),
        failcnt=stats.memory_failcnt or None,
        limit=limit if 0 < limit < total else total,
    )


def _blkio(stats: Stats) -> ContainerBlkioStats:
    entries = {
        name: [ContainerBlkioStatEntry(major=a, minor=b, op=op, value=v) for a, b, op, v in stats.blkio.get(name, ())]
        for name in _BLKIO
    }
    return ContainerBlkioStats(**entries)


class Sampler:
    """Readings of one container, each with the one before."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._before: ContainerCPUStats | None = None
        self._before_at = ZERO
        self._processors = len(os.sched_getaffinity(0))

    async def read(self) -> ContainerStatsResponse:
        """One reading; an empty one when the container does not run."""
        container, task = self._container, self._container.live_task()
        stats = None
        if task is not None:
            try:
                stats = await task.stats()
            except BerthError:
                stats = None
        if stats is None or task is None:
            return self._empty()
        now = rfc3339(time.time())
        cpu = cpu_stats(stats, host_cpu(), self._processors)
        answer = ContainerStatsResponse(
            id=container.id,
            name="/" + container.name,
            os_type="linux",
            read=now,
            preread=self._before_at,
            cpu_stats=cpu,
            precpu_stats=self._before or _empty_cpu(),
            memory_stats=_memory(stats),
            networks=network_counters(task.pid) or None,
            pids_stats=ContainerPidsStats(current=stats.pids_current, limit=stats.pids_limit or None),
            blkio_stats=_blkio(stats),
            num_procs=0,
            storage_stats=ContainerStorageStats(),
        )
        self._before, self._before_at = cpu, now
        return answer

    def _empty(self) -> ContainerStatsResponse:
        return ContainerStatsResponse(
            id=self._container.id,
            name="/" + self._container.name,
            os_type="linux",
            read=ZERO,
            preread=ZERO,
            cpu_stats=_empty_cpu(),
            precpu_stats=_empty_cpu(),
            memory_stats=ContainerMemoryStats(),
            pids_stats=ContainerPidsStats(),
            blkio_stats=ContainerBlkioStats(),
            num_procs=0,
            storage_stats=ContainerStorageStats(),
        )


async def stream(container: Container, *, follow: bool, one_shot: bool) -> AsyncIterator[ContainerStatsResponse]:
    """Each second; or once, with a reading a second before unless `one_shot`."""
    sampler = Sampler(container)
    if not follow:
        first = await sampler.read()
        if one_shot or first.read == ZERO:
            yield first
            return
        await asyncio.sleep(1)
        yield await sampler.read()
        return
    while not container.deleting:
        yield await sampler.read()
        await asyncio.sleep(1)
