"""POST /containers/{id}/update and /rename."""

from __future__ import annotations

import os

import msgspec

from berth import failpoint
from berth.engine.containers import resource_check, resources, validation
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.errors import BerthError, Conflict, Internal, InvalidArgument
from berth.wire.container import HostConfig, Resources

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
        processors = len(os.sched_getaffinity(0))
        body, warnings = resource_check.check(body, self._parts.abilities, processors, update=True)
        changes = {n: getattr(body, n) for n in _CHANGEABLE if getattr(body, n) not in (None, 0, "", [])}
        if body.restart_policy is not None and not body.restart_policy.name:
            changes.pop("restart_policy", None)
        async with container.changing():
            if container.status in (Status.REMOVING, Status.DEAD):
                raise _refusal(container, 'Container is marked for removal and cannot be "update".')
            old = container.record.host_config
            conflict = _conflict(body, old)
            if conflict:
                raise _refusal(container, conflict)
            merged = msgspec.structs.replace(old, **changes)
            if container.auto_remove and "restart_policy" in changes and merged.restart_policy != old.restart_policy:
                raise _refusal(container, "Restart policy cannot be updated because AutoRemove is enabled for the container")
            resource_check.check(merged, self._parts.abilities, processors, update=True)
            validation.check_restart_policy(merged.restart_policy, auto_remove=container.auto_remove)
            await _apply(container, old, merged)
            container.record.host_config = merged
            try:
                self._parts.catalog.save(container, durable=not container.auto_remove)
            except BerthError:
                container.record.host_config = old
                raise
        self._parts.emit(container, "update")
        return warnings

    async def rename(self, container: Container, name: str) -> None:
        """Conflict when the name is taken."""
        async with container.changing():
            old = container.name
            try:
                # Docker tells a name that cannot be one with the slash that all names have inside.
                self._parts.catalog.rename(container, name if name.startswith("/") else f"/{name}")
            except (Conflict, InvalidArgument) as error:
                if name.removeprefix("/") == old:
                    raise
                raise type(error)(f"Error when allocating new name: {error.message}") from error
            failpoint.hit("container.rename.after-row")
            await self._parts.networks.renamed(container.id, container.name)
        self._parts.emit(container, "rename", {"oldName": "/" + old})


def _refusal(container: Container, reason: str) -> Conflict:
    return Conflict(f"Cannot update container {container.id}: {reason}")


def _conflict(new: Resources, old: Resources) -> str:
    """Why the new limits do not go with those that stay, in Docker's words; "" when they do."""
    if new.nano_cpus and old.cpu_period:
        return "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"
    if new.nano_cpus and old.cpu_quota:
        return "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set"
    if new.cpu_period and old.nano_cpus:
        return "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set"
    if new.cpu_quota and old.nano_cpus:
        return "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
    if new.memory and not new.memory_swap and 0 < (old.memory_swap or 0) < new.memory:
        return "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
    return ""


async def _apply(container: Container, old: HostConfig, new: HostConfig) -> None:
    """Change what runs. A kernel that refuses one of the limits keeps all of the old ones."""
    task, limits = container.live_task(), resources.limits(new)
    if task is None or limits == resources.limits(old):
        return
    try:
        await task.update(limits)
    except BerthError as error:
        try:
            await task.update(resources.limits(old))
        except BerthError:
            # It refuses these too, or the container has just ended; what was wrong first is what is told.
            pass
        kind = type(error) if isinstance(error, InvalidArgument | Conflict) else Internal
        raise kind(f"Cannot update container {container.id}: {error.message}") from error
