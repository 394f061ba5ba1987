"""POST /containers/{id}/update and /rename."""

from __future__ import annotations

import os

import msgspec

from berth import failpoint
from berth.engine.containers import resources, validation
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.errors import Conflict
from berth.wire.container import HostConfig

_CHANGEABLE = [
    "cpu_shares",
    "memory",
    "blkio_weight",
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "memory_reservation",
    "memory_swap",
    "pids_limit",
    "nano_cpus",
    "restart_policy",
]


class Updating:
    """Changes limits and names."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def update(self, container: Container, body: HostConfig) -> list[str]:
        """Zero and empty mean: leave as it is. Returns warnings."""
        changes = {n: getattr(body, n) for n in _CHANGEABLE if getattr(body, n) not in (None, 0, "", [])}
        if body.restart_policy is not None and not body.restart_policy.name:
            changes.pop("restart_policy", None)
        async with container.lock:
            if container.status in (Status.REMOVING, Status.DEAD):
                raise Conflict(f'Cannot update container {container.id}: Container is marked for removal and cannot be "update".')
            old = container.record.host_config
            merged = msgspec.structs.replace(old, **changes)
            if "nano_cpus" in changes:
                merged = msgspec.structs.replace(merged, cpu_period=None, cpu_quota=None)
            if "memory" in changes and "memory_swap" not in changes and 0 < (old.memory_swap or 0) < (merged.memory or 0):
                raise Conflict(
                    f"Cannot update container {container.id}: Memory limit should be smaller than already set memoryswap limit, "
                    "update the memoryswap at the same time"
                )
            warnings = validation.check_resources(merged, len(os.sched_getaffinity(0)))
            validation.check_restart_policy(merged.restart_policy, auto_remove=container.auto_remove)
            task = container.live_task()
            limits = resources.limits(merged)
            if task is not None and limits != resources.limits(old):
                await task.update(limits)
                failpoint.hit("container.update.after-limits")
            container.record.host_config = merged
            self._parts.catalog.save(container, durable=not container.auto_remove)
            failpoint.hit("container.update.after-row")
        self._parts.emit(container, "update")
        return warnings

    async def rename(self, container: Container, name: str) -> None:
        """Conflict when the name is taken."""
        async with container.lock:
            old = container.name
            self._parts.catalog.rename(container, name)
            failpoint.hit("container.rename.after-row")
            await self._parts.networks.renamed(container.id, container.name)
        self._parts.emit(container, "rename", {"oldName": "/" + old})
