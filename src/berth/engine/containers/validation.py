"""Checks of a create or update request, in Docker's words. Pure: what depends on the host is passed in."""

from __future__ import annotations

import re

from berth.engine.containers.capability import parse_capabilities
from berth.engine.containers.logdriver import check_log_config
from berth.engine.containers.signals import parse_signal
from berth.errors import Conflict, InvalidArgument, NotImplementedKind, ResourceExhausted
from berth.model.identifier import NAME
from berth.wire.container import ContainerConfig, HostConfig, Resources, RestartPolicy

_MINIMUM_MEMORY = 6 * 1024 * 1024
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?\Z")
_POLICIES = ("no", "always", "on-failure", "unless-stopped")
_RUNTIMES = frozenset({"", "runc", "berth", "io.containerd.runc.v2"})
_CPUSET = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\Z")
AnyResources = HostConfig | Resources


def check_config(config: ContainerConfig) -> None:
    """The portable half."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    for entry in config.env or []:
        if not entry or entry.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {entry}")
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for port in config.exposed_ports or {}:
        _check_port(port)
    _check_health(config)


def _check_port(port: str) -> None:
    match = _PORT.match(port)
    if match is None or not 0 < int(match[1]) < 65536 or (match[2] and not int(match[1]) <= int(match[2]) < 65536):
        raise InvalidArgument(f"invalid port specification: {port!r}")


def _check_health(config: ContainerConfig) -> None:
    health = config.healthcheck
    if health is None:
        return
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < 1_000_000:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if (health.retries or 0) < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    if health.test and health.test[0] not in ("", "NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"Unknown healthcheck type '{health.test[0]}' (expected 'CMD')")


def check_host_config(host: HostConfig, config: ContainerConfig, processors: int) -> list[str]:
    """The half that depends on the host. Returns warnings."""
    warnings = check_resources(host, processors)
    check_restart_policy(host.restart_policy, auto_remove=bool(host.auto_remove))
    if host.log_config is not None:
        check_log_config(host.log_config)
    if (host.shm_size or 0) < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if not -1000 <= (host.oom_score_adj or 0) <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if (host.runtime or "") not in _RUNTIMES:
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    if host.isolation not in (None, "", "default"):
        raise InvalidArgument(f"Invalid isolation: {host.isolation!r}: only 'default' is possible on Linux")
    parse_capabilities(host.cap_add or [], "CapAdd")
    parse_capabilities(host.cap_drop or [], "CapDrop")
    for port, bindings in (host.port_bindings or {}).items():
        _check_port(port)
        for binding in bindings or []:
            if binding.host_port and not _PORT.match(binding.host_port):
                raise InvalidArgument(f"invalid port specification: {binding.host_port!r}")
    _check_modes(host, config)
    _check_entries(host)
    return warnings


def _check_modes(host: HostConfig, config: ContainerConfig) -> None:
    network = host.network_mode or ""
    if network.startswith("container:"):
        if host.port_bindings:
            raise InvalidArgument("conflicting options: port publishing and the container type network mode")
        if host.links:
            raise InvalidArgument("conflicting options: container type network can't be used with links")
        if host.dns:
            raise InvalidArgument("conflicting options: dns and the network mode")
        if host.extra_hosts:
            raise InvalidArgument("conflicting options: custom host-to-IP mapping and the network mode")
        if config.hostname:
            raise InvalidArgument("conflicting options: hostname and the network mode")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if host.uts_mode not in (None, "", "host"):
        raise InvalidArgument("invalid UTS mode: " + str(host.uts_mode))
    if host.userns_mode not in (None, "", "host"):
        raise InvalidArgument("invalid USER mode: " + str(host.userns_mode))
    if host.cgroupns_mode not in (None, "", "host", "private"):
        raise InvalidArgument("invalid cgroup namespace mode: " + str(host.cgroupns_mode))
    if not re.match(r"(|none|private|shareable|host|container:.+)\Z", host.ipc_mode or ""):
        raise InvalidArgument("invalid IPC mode: " + str(host.ipc_mode))
    if not re.match(r"(|host|container:.+)\Z", host.pid_mode or ""):
        raise InvalidArgument("invalid PID mode: " + str(host.pid_mode))


def _check_entries(host: HostConfig) -> None:
    for entry in host.extra_hosts or []:
        name, colon, address = entry.replace("=", ":", 1).partition(":")
        if not (name and colon and address):
            raise InvalidArgument(f"bad format for add-host: {entry!r}")
    for link in host.links or []:
        if not link or link.startswith(":"):
            raise InvalidArgument(f"invalid link format: {link}")
    if host.device_requests:
        request = host.device_requests[0]
        raise ResourceExhausted(
            f'could not select device driver "{request.driver or ""}" with capabilities: {_go_list(request.capabilities)}'
        )
    if host.storage_opt:
        raise NotImplementedKind("--storage-opt is not supported by this engine's overlay storage: leave it out")
    for limit in host.ulimits or []:
        if not limit.name or (limit.soft or 0) > (limit.hard or 0) >= 0:
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}")


def _go_list(value: list[list[str]] | None) -> str:
    return "[" + " ".join("[" + " ".join(inner) + "]" for inner in value or []) + "]"


def check_restart_policy(policy: RestartPolicy | None, *, auto_remove: bool) -> None:
    """InvalidArgument for an unknown policy, or one that makes no sense."""
    name = (policy.name if policy else None) or "no"
    retries = (policy.maximum_retry_count if policy else None) or 0
    if name not in _POLICIES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if retries < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if retries and name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if auto_remove and name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def check_resources(res: AnyResources, processors: int) -> list[str]:
    """Limits: each in its range, and fitting together. Returns warnings."""
    _check_memory(res)
    _check_cpu(res, processors)
    if (res.blkio_weight or 0) and not 10 <= (res.blkio_weight or 0) <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for weight in res.blkio_weight_device or []:
        if not 10 <= (weight.weight or 0) <= 1000:
            raise InvalidArgument(f"Range of blkio weight is from 10 to 1000, but {weight.path} has {weight.weight}")
    for field in ("cpuset_cpus", "cpuset_mems"):
        value = getattr(res, field)
        if value and not _CPUSET.match(value):
            raise InvalidArgument(f"Invalid value {value} for {field.replace('_', ' ')}")
    warnings = []
    if res.oom_kill_disable and not res.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    return warnings


def _check_memory(res: AnyResources) -> None:
    memory, swap, reservation = res.memory or 0, res.memory_swap or 0, res.memory_reservation or 0
    if 0 < memory < _MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory and swap > 0 and swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if memory and reservation > memory:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if 0 < reservation < _MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if res.memory_swappiness is not None and not -1 <= res.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {res.memory_swappiness}, valid memory swappiness range is 0-100")


def _check_cpu(res: AnyResources, processors: int) -> None:
    nano = res.nano_cpus or 0
    if nano and res.cpu_period:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano and res.cpu_quota:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if nano < 0 or nano > processors * 10**9:
        raise InvalidArgument(f"range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available")
    if res.cpu_period and not 1000 <= res.cpu_period <= 1000000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < (res.cpu_quota or 0) < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")


def check_volume_name(name: str) -> None:
    """A volume's name where the user may have meant a path."""
    if not NAME.match(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )


def refuse_running(identifier: str, running: bool, what: str) -> None:
    """Conflict while it runs."""
    if running:
        raise Conflict(f"cannot {what} container {identifier}: container is running")
