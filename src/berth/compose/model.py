"""A loaded project: immutable, in long forms, with absolute paths. Attribute names are those of the Compose Specification.

Sizes are bytes, durations texts as written ("1m30s"), file modes integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import NODEFAULT, Struct, field
from msgspec.structs import fields

from berth.compose.problem import Mark, Path


class _Value(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What all values here have: frozen, and nothing in them that is not declared."""


class FileReference(_Value, frozen=True, kw_only=True):
    """A secret or config of a service."""

    source: str
    target: str | None = None
    uid: str | None = None
    gid: str | None = None
    mode: int | None = None


class Ulimit(_Value, frozen=True, kw_only=True):
    """Soft and hard limit."""

    soft: int
    hard: int


class Build(_Value, frozen=True, kw_only=True):
    """How to build the image. `context` is an absolute path or an address."""

    context: str
    dockerfile: str | None = None
    dockerfile_inline: str | None = None
    args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    network: str = ""
    no_cache: bool = False
    pull: bool = False
    shm_size: int = 0
    tags: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    extra_hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    additional_contexts: Mapping[str, str] = field(default_factory=dict)
    entitlements: tuple[str, ...] = ()
    isolation: str = ""
    privileged: bool = False
    provenance: str | bool | None = None
    sbom: str | bool | None = None
    secrets: tuple[FileReference, ...] = ()
    ssh: Mapping[str, str | None] = field(default_factory=dict)
    ulimits: Mapping[str, Ulimit] = field(default_factory=dict)


class Port(_Value, frozen=True, kw_only=True):
    """A published port. `published` may be a range, or None for one that the engine picks."""

    target: int
    published: str | None = None
    host_ip: str | None = None
    protocol: str = "tcp"
    mode: str = "ingress"
    name: str | None = None
    app_protocol: str | None = None


class BindOptions(_Value, frozen=True, kw_only=True):
    """Options of a bind mount."""

    create_host_path: bool = False
    propagation: str | None = None
    selinux: str | None = None
    recursive: str | None = None


class VolumeOptions(_Value, frozen=True, kw_only=True):
    """Options of a mounted volume."""

    nocopy: bool = False
    subpath: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class TmpfsOptions(_Value, frozen=True, kw_only=True):
    """Options of a tmpfs mount: bytes and mode."""

    size: int = 0
    mode: int = 0


class ImageOptions(_Value, frozen=True, kw_only=True):
    """Options of a mounted image."""

    subpath: str | None = None


class ServiceMount(_Value, frozen=True, kw_only=True):
    """A mount. The source of a bind is absolute, that of a volume its key in the project, None for an anonymous one."""

    type: str
    target: str
    source: str | None = None
    read_only: bool = False
    consistency: str | None = None
    bind: BindOptions | None = None
    volume: VolumeOptions | None = None
    tmpfs: TmpfsOptions | None = None
    image: ImageOptions | None = None


class ServiceNetwork(_Value, frozen=True, kw_only=True):
    """How a service is attached to a network."""

    aliases: tuple[str, ...] = ()
    ipv4_address: str | None = None
    ipv6_address: str | None = None
    interface_name: str | None = None
    link_local_ips: tuple[str, ...] = ()
    mac_address: str | None = None
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    priority: float = 0
    gw_priority: float = 0


class Dependency(_Value, frozen=True, kw_only=True):
    """What a service waits for."""

    condition: str = "service_started"
    required: bool = True
    restart: bool = False


class Healthcheck(_Value, frozen=True, kw_only=True):
    """How to find out whether a container is well."""

    test: tuple[str, ...] | None = None
    disable: bool = False
    interval: str | None = None
    timeout: str | None = None
    retries: int | None = None
    start_period: str | None = None
    start_interval: str | None = None


class Logging(_Value, frozen=True, kw_only=True):
    """Log driver."""

    driver: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


class Device(_Value, frozen=True, kw_only=True):
    """A device of the host."""

    source: str
    target: str
    permissions: str = "rwm"


class EnvFile(_Value, frozen=True, kw_only=True):
    """A file with variables."""

    path: str
    required: bool = True
    format: str | None = None


class ResourceLimits(_Value, frozen=True, kw_only=True):
    """Limits or reservations."""

    cpus: float | None = None
    memory: int | None = None
    pids: int | None = None
    devices: Any = None
    generic_resources: Any = None


class Resources(_Value, frozen=True, kw_only=True):
    """deploy.resources."""

    limits: ResourceLimits = field(default_factory=ResourceLimits)
    reservations: ResourceLimits = field(default_factory=ResourceLimits)


class RestartCondition(_Value, frozen=True, kw_only=True):
    """deploy.restart_policy."""

    condition: str | None = None
    delay: str | None = None
    max_attempts: int | None = None
    window: str | None = None


class Deploy(_Value, frozen=True, kw_only=True):
    """How many containers, and within which limits."""

    mode: str | None = None
    replicas: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    restart_policy: RestartCondition | None = None
    endpoint_mode: str | None = None
    placement: Any = None
    update_config: Any = None
    rollback_config: Any = None


class Hook(_Value, frozen=True, kw_only=True):
    """A command that runs in a container after its start or before its stop."""

    command: tuple[str, ...]
    user: str | None = None
    privileged: bool = False
    working_dir: str | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)


class Service(_Value, frozen=True, kw_only=True):
    """One service."""

    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    attach: bool = True
    blkio_config: Mapping[str, Any] | None = None
    build: Build | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cgroup: str | None = None
    cgroup_parent: str | None = None
    command: tuple[str, ...] | None = None
    configs: tuple[FileReference, ...] = ()
    container_name: str | None = None
    cpu_count: int | None = None
    cpu_percent: float | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpu_rt_period: int | None = None
    cpu_rt_runtime: int | None = None
    cpu_shares: int | None = None
    cpus: float | None = None
    cpuset: str | None = None
    credential_spec: Any = None
    depends_on: Mapping[str, Dependency] = field(default_factory=dict)
    deploy: Deploy = field(default_factory=Deploy)
    develop: Any = None
    device_cgroup_rules: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    dns: tuple[str, ...] = ()
    dns_opt: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    domainname: str | None = None
    entrypoint: tuple[str, ...] | None = None
    env_file: tuple[EnvFile, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    expose: tuple[str, ...] = ()
    external_links: tuple[str, ...] = ()
    extra_hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gpus: Any = None
    group_add: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    hostname: str | None = None
    image: str | None = None
    init: bool | None = None
    ipc: str | None = None
    isolation: str | None = None
    label_file: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    logging: Logging | None = None
    mac_address: str | None = None
    mem_limit: int | None = None
    mem_reservation: int | None = None
    mem_swappiness: int | None = None
    memswap_limit: int | None = None
    models: Any = None
    network_mode: str | None = None
    networks: Mapping[str, ServiceNetwork] = field(default_factory=dict)
    oom_kill_disable: bool | None = None
    oom_score_adj: int | None = None
    pid: str | None = None
    pids_limit: int | None = None
    platform: str | None = None
    ports: tuple[Port, ...] = ()
    post_start: tuple[Hook, ...] = ()
    pre_stop: tuple[Hook, ...] = ()
    privileged: bool = False
    profiles: tuple[str, ...] = ()
    provider: Any = None
    pull_policy: str | None = None
    pull_refresh_after: str | None = None
    read_only: bool = False
    restart: str | None = None
    runtime: str | None = None
    scale: int | None = None
    secrets: tuple[FileReference, ...] = ()
    security_opt: tuple[str, ...] = ()
    shm_size: int | None = None
    stdin_open: bool = False
    stop_grace_period: str | None = None
    stop_signal: str | None = None
    storage_opt: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    tmpfs: tuple[str, ...] = ()
    tty: bool = False
    ulimits: Mapping[str, Ulimit] = field(default_factory=dict)
    use_api_socket: bool = False
    user: str | None = None
    userns_mode: str | None = None
    uts: str | None = None
    volumes: tuple[ServiceMount, ...] = ()
    volumes_from: tuple[str, ...] = ()
    working_dir: str | None = None

    @property
    def replicas(self) -> int:
        """How many containers the file asks for."""
        if self.scale is not None:
            return self.scale
        return 1 if self.deploy.replicas is None else self.deploy.replicas

    @property
    def joined_services(self) -> tuple[str, ...]:
        """Services whose namespaces or volumes this one uses: it is bound to their containers' ids."""
        modes = [mode for mode in (self.network_mode, self.ipc, self.pid) if mode is not None]
        found = [mode.removeprefix("service:") for mode in modes if mode.startswith("service:")]
        found += [entry.split(":")[0] for entry in self.volumes_from if not entry.startswith("container:")]
        return tuple(dict.fromkeys(found))

    @property
    def dependencies(self) -> Mapping[str, Dependency]:
        """What has to be there first: depends_on, and what links and joined namespaces imply."""
        found = dict(self.depends_on)
        for name in (*(link.split(":")[0] for link in self.links), *self.joined_services):
            found.setdefault(name, Dependency())
        return found


class Pool(_Value, frozen=True, kw_only=True):
    """An address pool of a network."""

    subnet: str | None = None
    ip_range: str | None = None
    gateway: str | None = None
    aux_addresses: Mapping[str, str] = field(default_factory=dict)


class Ipam(_Value, frozen=True, kw_only=True):
    """Address management of a network."""

    driver: str | None = None
    config: tuple[Pool, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


class Network(_Value, frozen=True, kw_only=True):
    """A network; `name` is its name in the engine."""

    name: str
    driver: str | None = None
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    ipam: Ipam | None = None
    external: bool = False
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Volume(_Value, frozen=True, kw_only=True):
    """A volume; `name` is its name in the engine."""

    name: str
    driver: str | None = None
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    external: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


class FileSource(_Value, frozen=True, kw_only=True):
    """Where a secret's or config's content comes from: one of file, environment, content."""

    name: str
    file: str | None = None
    environment: str | None = None
    content: str | None = None
    external: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    driver: str | None = None
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    template_driver: str | None = None


class Project(_Value, frozen=True, kw_only=True):
    """A project. `services` holds the active ones; `disabled` those whose profile is not asked for."""

    name: str
    services: Mapping[str, Service]
    disabled: Mapping[str, Service] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    secrets: Mapping[str, FileSource] = field(default_factory=dict)
    configs: Mapping[str, FileSource] = field(default_factory=dict)
    working_dir: str = "."
    files: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[Path, Mark] = field(default_factory=dict)

    def image_name(self, service: Service) -> str:
        """The image of a service: what it names, else <project>-<service>."""
        return service.image or f"{self.name}-{service.name}"


def plain(value: Any) -> Any:
    """A value of the model as plain mappings and lists, without what equals its default.

    Not `msgspec.to_builtins`: that leaves defaults out when they are the same object, so that equal values could differ.
    """
    if isinstance(value, Struct):
        found = {}
        for item in fields(value):
            default = item.default_factory() if item.default_factory is not NODEFAULT else item.default
            mine = getattr(value, item.name)
            if mine != default:
                found[item.encode_name] = plain(mine)
        return found
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value
