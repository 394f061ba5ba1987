"""A service as the body of a container's creation.

`service:x` in namespace modes and in `volumes_from` stays as it is: only whoever executes the plan knows the id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.client.containers import CreateBody
from berth.compose.convert.endpoint import endpoint, links, ordered_networks
from berth.compose.convert.mount import Upload, convert_mounts
from berth.compose.convert.port import exposed_ports, port_bindings
from berth.compose.convert.resource import restart_policy, set_resources
from berth.compose.model import Healthcheck, Project, Service
from berth.compose.units import parse_duration, seconds
from berth.wire.container import HostConfig, HostConfigLogConfig
from berth.wire.health import HealthConfig
from berth.wire.network import NetworkingConfig


@dataclass(frozen=True)
class Blueprint:
    """Everything about a container that is to be created."""

    name: str
    body: CreateBody
    platform: str | None = None
    uploads: tuple[Upload, ...] = ()


@dataclass(frozen=True)
class Place:
    """Which container of a service it is. `inherited` maps mount targets to volumes of the one it replaces."""

    name: str
    image: str
    labels: Mapping[str, str]
    inherited: Mapping[str, str] = field(default_factory=dict)
    aliases: bool = True


def convert_container(project: Project, service: Service, place: Place) -> Blueprint:
    """The body: configuration, host configuration, and the first network (others are connected afterwards)."""
    mounts = convert_mounts(project, service, place.inherited)
    body = CreateBody(
        image=place.image,
        cmd=list(service.command) if service.command is not None else None,
        entrypoint=list(service.entrypoint) if service.entrypoint is not None else None,
        env=[f"{key}={value}" for key, value in service.environment.items() if value is not None] or None,
        labels=dict(place.labels),
        hostname=service.hostname,
        domainname=service.domainname,
        user=service.user,
        working_dir=service.working_dir,
        tty=service.tty or None,
        open_stdin=service.stdin_open or None,
        stop_signal=service.stop_signal,
        stop_timeout=seconds(service.stop_grace_period) if service.stop_grace_period else None,
        healthcheck=_health(service.healthcheck),
        exposed_ports=exposed_ports(service),
        mac_address=service.mac_address,
    )
    host = _host(project, service)
    host.binds = list(mounts.binds) or None
    host.mounts = list(mounts.mounts) or None
    _attach_first(project, service, place, body, host)
    body.host_config = host
    return Blueprint(place.name, body, service.platform, mounts.uploads)


def _attach_first(project: Project, service: Service, place: Place, body: CreateBody, host: HostConfig) -> None:
    if service.network_mode:
        host.network_mode = service.network_mode
        if service.network_mode in ("bridge", "default"):
            host.links = links(project, service) or None
        return
    keys = ordered_networks(service)
    if not keys:
        host.network_mode = "none"
        return
    first = project.networks[keys[0]].name
    host.network_mode = first
    settings = endpoint(project, service, keys[0], place.name, aliases=place.aliases)
    body.networking_config = NetworkingConfig(endpoints_config={first: settings})


def _host(project: Project, service: Service) -> HostConfig:
    host = HostConfig(
        port_bindings=port_bindings(service),
        restart_policy=restart_policy(service),
        cap_add=list(service.cap_add) or None,
        cap_drop=list(service.cap_drop) or None,
        cgroup_parent=service.cgroup_parent,
        cgroupns_mode=service.cgroup,
        device_cgroup_rules=list(service.device_cgroup_rules) or None,
        dns=list(service.dns) or None,
        dns_options=list(service.dns_opt) or None,
        dns_search=list(service.dns_search) or None,
        extra_hosts=[f"{name}:{address}" for name, addresses in service.extra_hosts.items() for address in addresses] or None,
        group_add=list(service.group_add) or None,
        init=service.init,
        ipc_mode=service.ipc,
        pid_mode=service.pid,
        uts_mode=service.uts,
        userns_mode=service.userns_mode,
        privileged=service.privileged or None,
        readonly_rootfs=service.read_only or None,
        runtime=service.runtime,
        security_opt=list(service.security_opt) or None,
        shm_size=service.shm_size,
        storage_opt=dict(service.storage_opt) or None,
        sysctls=dict(service.sysctls) or None,
        tmpfs=_tmpfs(service),
        volumes_from=[entry if entry.startswith("container:") else f"service:{entry}" for entry in service.volumes_from] or None,
        annotations=dict(service.annotations) or None,
    )
    if service.logging is not None:
        host.log_config = HostConfigLogConfig(type=service.logging.driver or "", config=dict(service.logging.options))
    set_resources(service, host)
    return host


def _tmpfs(service: Service) -> dict[str, str] | None:
    found = {}
    for entry in service.tmpfs:
        target, _, options = entry.partition(":")
        found[target] = options
    return found or None


def _health(check: Healthcheck | None) -> HealthConfig | None:
    if check is None:
        return None
    if check.disable:
        return HealthConfig(test=["NONE"])

    def nanoseconds(text: str | None) -> int | None:
        return parse_duration(text) if text is not None else None

    return HealthConfig(
        test=list(check.test) if check.test is not None else None,
        interval=nanoseconds(check.interval),
        timeout=nanoseconds(check.timeout),
        retries=check.retries,
        start_period=nanoseconds(check.start_period),
        start_interval=nanoseconds(check.start_interval),
    )
