"""Limits, devices and restart policy of a service as the API wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from berth.compose.model import Service
from berth.errors import InvalidArgument
from berth.wire.container import (
    DeviceMapping,
    HostConfig,
    HostConfigBlkioWeightDevice,
    HostConfigUlimits,
    RestartPolicy,
    ThrottleDevice,
)


def set_resources(service: Service, host: HostConfig) -> None:
    """Fill in limits of memory, processors, processes, block devices and files."""
    limits, reservations = service.deploy.resources.limits, service.deploy.resources.reservations
    host.memory = limits.memory if limits.memory is not None else service.mem_limit
    host.memory_reservation = reservations.memory if reservations.memory is not None else service.mem_reservation
    host.memory_swap = service.memswap_limit
    host.memory_swappiness = service.mem_swappiness
    cpus = limits.cpus if limits.cpus is not None else service.cpus
    host.nano_cpus = int(cpus * 1_000_000_000) if cpus else None
    host.pids_limit = limits.pids if limits.pids is not None else service.pids_limit
    host.cpu_shares = service.cpu_shares
    host.cpu_period = service.cpu_period
    host.cpu_quota = service.cpu_quota
    host.cpu_realtime_period = service.cpu_rt_period
    host.cpu_realtime_runtime = service.cpu_rt_runtime
    host.cpuset_cpus = service.cpuset
    host.oom_kill_disable = service.oom_kill_disable
    host.oom_score_adj = service.oom_score_adj
    host.ulimits = [HostConfigUlimits(name=name, soft=u.soft, hard=u.hard) for name, u in service.ulimits.items()] or None
    host.devices = [
        DeviceMapping(path_on_host=d.source, path_in_container=d.target, cgroup_permissions=d.permissions)
        for d in service.devices
    ] or None
    if service.blkio_config:
        _set_block_io(service.blkio_config, host)


def _set_block_io(block: Mapping[str, Any], host: HostConfig) -> None:
    def rates(key: str) -> list[ThrottleDevice] | None:
        return [ThrottleDevice(path=entry["path"], rate=entry["rate"]) for entry in block.get(key, [])] or None

    host.blkio_weight = block.get("weight")
    weights = [
        HostConfigBlkioWeightDevice(path=entry["path"], weight=entry["weight"]) for entry in block.get("weight_device", [])
    ]
    host.blkio_weight_device = weights or None
    host.blkio_device_read_bps = rates("device_read_bps")
    host.blkio_device_write_bps = rates("device_write_bps")
    host.blkio_device_read_iops = rates("device_read_iops")
    host.blkio_device_write_iops = rates("device_write_iops")


def restart_policy(service: Service) -> RestartPolicy:
    """`restart`, else what deploy.restart_policy comes to on one node."""
    if service.restart is not None:
        name, _, count = service.restart.partition(":")
        if name not in ("no", "always", "on-failure", "unless-stopped", "") or (
            count and (name != "on-failure" or not count.isdigit())
        ):
            known = "no, always, unless-stopped, on-failure[:count]"
            raise InvalidArgument(f"service {service.name!r}: invalid restart policy {service.restart!r}: known are {known}")
        return RestartPolicy(name=name or "no", maximum_retry_count=int(count) if count else 0)
    policy = service.deploy.restart_policy
    if policy is None:
        return RestartPolicy(name="no", maximum_retry_count=0)
    known_names = {"none": "no", "on-failure": "on-failure", "any": "always"}
    name = known_names.get(policy.condition or "any", "no")
    return RestartPolicy(name=name, maximum_retry_count=policy.max_attempts or 0 if name == "on-failure" else 0)
