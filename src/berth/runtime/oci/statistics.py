"""What `events` prints: readings of a control group in runc's shape."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from berth.runtime import cgroup, cgroup_stats
from berth.runtime.oci import jsontext

if TYPE_CHECKING:
    from berth.runtime.oci.state import Container

_BLKIO = {"io_service_bytes_recursive": "ioServiceBytesRecursive", "io_serviced_recursive": "ioServicedRecursive"}
_CHECKS = 0.2


def line(container: Container) -> str:
    """A reading as one line of JSON."""
    return jsontext.encode({"type": "stats", "id": container.id, "data": data(container)})


def data(container: Container) -> dict[str, Any]:
    """A reading."""
    stats = cgroup_stats.read(container.run["cgroup"])
    usage = {
        "total": stats.cpu_total,
        "percpu": list(stats.percpu),
        "kernel": stats.cpu_system,
        "user": stats.cpu_user,
    }
    throttling = {
        "periods": stats.periods,
        "throttledPeriods": stats.throttled_periods,
        "throttledTime": stats.throttled_time,
    }
    memory = {
        "limit": stats.memory_limit or (1 << 63) - 1,
        "usage": stats.memory_usage,
        "max": stats.memory_max_usage,
        "failcnt": stats.memory_failcnt,
    }
    pids = {"current": stats.pids_current, **({"limit": stats.pids_limit} if stats.pids_limit else {})}
    blkio = {
        _BLKIO[key]: [{"major": major, "minor": minor, "op": op, "value": value} for major, minor, op, value in entries]
        for key, entries in stats.blkio.items()
        if key in _BLKIO and entries
    }
    return {
        "cpu": {"usage": usage, "throttling": {key: value for key, value in throttling.items() if value}},
        "memory": {"usage": memory, "raw": stats.memory_stats},
        "pids": pids,
        "blkio": blkio,
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def follow(container: Container, interval: float) -> None:
    """Print until the container ends: a reading every `interval` seconds, and a line when the kernel killed for memory.

    The end shows in a descriptor of init; out-of-memory kills are counted in between.
    """
    import os
    from select import POLLIN, poll
    from time import monotonic

    fd = os.pidfd_open(container.pid)
    waiter = poll()
    waiter.register(fd, POLLIN)
    kills = cgroup.oom_kills(container.run["cgroup"])
    due = monotonic() + interval
    try:
        while not waiter.poll(int(min(_CHECKS, max(0.0, due - monotonic())) * 1000)):
            kills = _tell_kills(container, kills)
            if monotonic() >= due:
                _print(line(container))
                due += interval
        _tell_kills(container, kills)
    finally:
        os.close(fd)


def _tell_kills(container: Container, before: int) -> int:
    now = cgroup.oom_kills(container.run["cgroup"])
    if now > before:
        _print(jsontext.encode({"type": "oom", "id": container.id}))
    return max(now, before)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
