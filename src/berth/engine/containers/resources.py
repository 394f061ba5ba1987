"""Limits: Docker's resource fields as OCI resources."""

from __future__ import annotations

import os

from berth.engine.containers import device
from berth.errors import InvalidArgument
from berth.model.oci import BlockIO, Cpu, DeviceRule, Memory, Pids, Resources, ThrottleDevice, WeightDevice
from berth.wire.container import HostConfig
from berth.wire.container import Resources as Asked
from berth.wire.container import ThrottleDevice as WireThrottle

_PERIOD = 100_000


def _memory(res: Asked) -> Memory | None:
    limit = res.memory or None
    swap = res.memory_swap or None
    if limit and not swap:
        swap = 2 * limit
    swappiness = res.memory_swappiness if res.memory_swappiness not in (None, -1) else None
    if not any((limit, swap, res.memory_reservation, res.oom_kill_disable)) and swappiness is None:
        return None
    return Memory(
        limit=limit,
        swap=swap,
        reservation=res.memory_reservation or None,
        swappiness=swappiness,
        disable_oom_killer=True if res.oom_kill_disable else None,
    )


def _cpu(res: Asked) -> Cpu | None:
    quota, period = res.cpu_quota or None, res.cpu_period or None
    if res.nano_cpus:
        period = _PERIOD
        quota = res.nano_cpus * _PERIOD // 10**9
    values = (res.cpu_shares, quota, period, res.cpu_realtime_period, res.cpu_realtime_runtime, res.cpuset_cpus, res.cpuset_mems)
    if not any(values):
        return None
    return Cpu(
        shares=res.cpu_shares or None,
        quota=quota,
        period=period,
        realtime_period=res.cpu_realtime_period or None,
        realtime_runtime=res.cpu_realtime_runtime or None,
        cpus=res.cpuset_cpus or None,
        mems=res.cpuset_mems or None,
    )


def _number(path: str | None) -> tuple[int, int]:
    try:
        number = os.stat(path or "").st_rdev
    except OSError as error:
        raise InvalidArgument(f"cannot use block device {path}: {(error.strerror or '').lower()}") from error
    if not number:
        raise InvalidArgument(f"cannot use block device {path}: it is no device")
    return os.major(number), os.minor(number)


def _throttles(devices: list[WireThrottle] | None) -> list[ThrottleDevice]:
    found = []
    for entry in devices or []:
        major, minor = _number(entry.path)
        found.append(ThrottleDevice(major=major, minor=minor, rate=entry.rate or 0))
    return found


def _block_io(res: Asked) -> BlockIO | None:
    weights = []
    for entry in res.blkio_weight_device or []:
        major, minor = _number(entry.path)
        weights.append(WeightDevice(major=major, minor=minor, weight=entry.weight))
    block = BlockIO(
        weight=res.blkio_weight or None,
        weight_device=weights,
        throttle_read_bps_device=_throttles(res.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(res.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(res.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(res.blkio_device_write_iops),
    )
    return None if block == BlockIO() else block


def _pids(res: Asked) -> Pids | None:
    return Pids(limit=res.pids_limit if res.pids_limit > 0 else -1) if res.pids_limit else None


def limits(res: Asked, devices: list[DeviceRule] | None = None) -> Resources:
    """Everything but devices, which are given."""
    return Resources(devices=devices or [], memory=_memory(res), cpu=_cpu(res), pids=_pids(res), block_io=_block_io(res))


def device_rules(host: HostConfig, extra: list[DeviceRule]) -> list[DeviceRule]:
    """The device control group of a container: all for --privileged, else the usual ones and what was asked for."""
    if host.privileged:
        return [DeviceRule(allow=True, access="rwm")]
    return [*device.default_rules(), *extra, *(device.parse_rule(r) for r in host.device_cgroup_rules or [])]
