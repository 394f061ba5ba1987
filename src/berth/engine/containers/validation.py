"""Checks of a create or update request, in Docker's words. Pure: what depends on the host is passed in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from berth.engine.containers.capability import parse_capabilities
from berth.engine.containers.logdriver import check_log_config
from berth.engine.containers.signals import parse_signal
from berth.errors import Conflict, InvalidArgument
from berth.model.identifier import NAME
from berth.wire.container import ContainerConfig, HostConfig, RestartPolicy
from berth.wire.network import PortBinding

_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?\Z")
_DOMAIN_BYTES = 64
_POLICIES = ("no", "always", "on-failure", "unless-stopped")


def check_config(config: ContainerConfig) -> None:
    """The portable half."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    if len((config.domainname or "").encode()) > _DOMAIN_BYTES:
        raise InvalidArgument(f"invalid domain name {config.domainname!r}: the kernel takes at most {_DOMAIN_BYTES} bytes")
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


def check_host_config(host: HostConfig, config: ContainerConfig) -> None:
    """The half that depends on the host, without its limits (see resource_check)."""
    check_restart_policy(host.restart_policy, auto_remove=bool(host.auto_remove))
    if host.log_config is not None:
        check_log_config(host.log_config)
    if (host.shm_size or 0) < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if not -1000 <= (host.oom_score_adj or 0) <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.isolation not in (None, "", "default"):
        raise InvalidArgument(f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    parse_capabilities(host.cap_add or [], "CapAdd")
    parse_capabilities(host.cap_drop or [], "CapDrop")
    check_port_bindings(host.port_bindings or {})
    console_size(host.console_size)
    _check_modes(host, config)
    _check_entries(host)


def check_port_bindings(port_bindings: Mapping[str, list[PortBinding] | None]) -> None:
    """InvalidArgument for what is no port or no range of ports."""
    for port, bindings in port_bindings.items():
        _check_port(port)
        for binding in bindings or []:
            if binding.host_port and not _PORT.match(binding.host_port):
                raise InvalidArgument(f"invalid port specification: {binding.host_port!r}")


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


def check_joined(asked: ContainerConfig, host: HostConfig | None, *, has_mac: bool) -> None:
    """What a container with the network of another cannot ask for itself. What its image exposes does not matter."""
    if not (host and (host.network_mode or "").startswith("container:")):
        return
    if has_mac:
        raise InvalidArgument("conflicting options: mac-address and the network mode")
    if asked.exposed_ports and not host.port_bindings:
        raise InvalidArgument("conflicting options: port exposing and the container type network mode")


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
        raise InvalidArgument(
            f'could not select device driver "{request.driver or ""}" with capabilities: {_go_list(request.capabilities)}'
        )
    if host.capabilities is not None:
        raise InvalidArgument("invalid option: Capabilities is not supported, use CapAdd and CapDrop")
    for limit in host.ulimits or []:
        if not limit.name or (limit.soft or 0) > (limit.hard or 0) >= 0:
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}")


def _go_list(value: list[list[str]] | None) -> str:
    return "[" + " ".join("[" + " ".join(inner) + "]" for inner in value or []) + "]"


def check_terminal_size(height: int, width: int) -> None:
    """InvalidArgument for what no terminal can have."""
    if not (0 <= height < 65536 and 0 <= width < 65536):
        raise InvalidArgument(f"invalid terminal size: {height} rows and {width} columns: both are numbers from 0 to 65535")


def console_size(asked: list[int] | None) -> tuple[int, int]:
    """Rows and columns of a ConsoleSize, 0 and 0 without one. InvalidArgument."""
    if not asked:
        return 0, 0
    if len(asked) != 2:
        raise InvalidArgument("invalid ConsoleSize: it is a list of two numbers, rows and columns")
    check_terminal_size(*asked)
    return asked[0], asked[1]


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
