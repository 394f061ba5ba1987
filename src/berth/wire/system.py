"""System information, version, events, errors.

Field names on the wire are Docker's; attributes are their snake_case. Every field is optional, as a client may leave
out or null any of them; a field that is None is not written. Source: Engine API 1.55.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class SystemVersionPlatform(Struct, kw_only=True, omit_defaults=True):
    """SystemVersionPlatform."""

    name: str | None = field(name="Name", default=None)


class SystemVersionComponents(Struct, kw_only=True, omit_defaults=True):
    """SystemVersionComponents."""

    name: str | None = field(name="Name", default=None)
    version: str | None = field(name="Version", default=None)
    details: dict[str, Any] | None = field(name="Details", default=None)


class SystemVersion(Struct, kw_only=True, omit_defaults=True):
    """Response of Engine API: GET '/version'."""

    platform: SystemVersionPlatform | None = field(name="Platform", default=None)
    components: list[SystemVersionComponents] | None = field(name="Components", default=None)
    version: str | None = field(name="Version", default=None)
    api_version: str | None = field(name="ApiVersion", default=None)
    min_api_version: str | None = field(name="MinAPIVersion", default=None)
    git_commit: str | None = field(name="GitCommit", default=None)
    go_version: str | None = field(name="GoVersion", default=None)
    os: str | None = field(name="Os", default=None)
    arch: str | None = field(name="Arch", default=None)
    kernel_version: str | None = field(name="KernelVersion", default=None)
    experimental: bool | None = field(name="Experimental", default=None)
    build_time: str | None = field(name="BuildTime", default=None)


class PluginsInfo(Struct, kw_only=True, omit_defaults=True):
    """Available plugins per type."""

    volume: list[str] | None = field(name="Volume", default=None)
    network: list[str] | None = field(name="Network", default=None)
    authorization: list[str] | None = field(name="Authorization", default=None)
    log: list[str] | None = field(name="Log", default=None)


class IndexInfo(Struct, kw_only=True, omit_defaults=True):
    """IndexInfo contains information about a registry."""

    name: str | None = field(name="Name", default=None)
    mirrors: list[str] | None = field(name="Mirrors", default=None)
    secure: bool | None = field(name="Secure", default=None)
    official: bool | None = field(name="Official", default=None)


class RegistryServiceConfig(Struct, kw_only=True, omit_defaults=True):
    """RegistryServiceConfig stores daemon registry services configuration."""

    insecure_registry_cidrs: list[str] | None = field(name="InsecureRegistryCIDRs", default=None)
    index_configs: dict[str, IndexInfo] | None = field(name="IndexConfigs", default=None)
    mirrors: list[str] | None = field(name="Mirrors", default=None)


class Runtime(Struct, kw_only=True, omit_defaults=True):
    """Runtime describes an [OCI compliant](https://github.com/opencontainers/runtime-spec) runtime."""

    path: str | None = field(name="path", default=None)
    runtime_args: list[str] | None = field(name="runtimeArgs", default=None)
    status: dict[str, str] | None = field(name="status", default=None)


class SwarmInfo(Struct, kw_only=True, omit_defaults=True):
    """Represents generic information about swarm."""

    node_id: str | None = field(name="NodeID", default=None)
    node_addr: str | None = field(name="NodeAddr", default=None)
    local_node_state: str | None = field(name="LocalNodeState", default=None)
    control_available: bool | None = field(name="ControlAvailable", default=None)
    error: str | None = field(name="Error", default=None)
    remote_managers: list[dict[str, Any]] | None = field(name="RemoteManagers", default=None)
    nodes: int | None = field(name="Nodes", default=None)
    managers: int | None = field(name="Managers", default=None)
    cluster: dict[str, Any] | None = field(name="Cluster", default=None)


class Commit(Struct, kw_only=True, omit_defaults=True):
    """Commit holds the Git-commit (SHA1) that a binary was built from, as reported in the version-string of ext."""

    id: str | None = field(name="ID", default=None)


class SystemInfoDefaultAddressPools(Struct, kw_only=True, omit_defaults=True):
    """SystemInfoDefaultAddressPools."""

    base: str | None = field(name="Base", default=None)
    size: int | None = field(name="Size", default=None)


class FirewallInfo(Struct, kw_only=True, omit_defaults=True):
    """Information about the daemon's firewalling configuration."""

    driver: str | None = field(name="Driver", default=None)
    info: list[list[str]] | None = field(name="Info", default=None)


class ContainerdInfoNamespaces(Struct, kw_only=True, omit_defaults=True):
    """The namespaces that the daemon uses for running containers and plugins in containerd."""

    containers: str | None = field(name="Containers", default=None)
    plugins: str | None = field(name="Plugins", default=None)


class ContainerdInfo(Struct, kw_only=True, omit_defaults=True):
    """Information for connecting to the containerd instance that is used by the daemon. This is included for de."""

    address: str | None = field(name="Address", default=None)
    namespaces: ContainerdInfoNamespaces | None = field(name="Namespaces", default=None)


class SystemInfo(Struct, kw_only=True, omit_defaults=True):
    """SystemInfo."""

    id: str | None = field(name="ID", default=None)
    containers: int | None = field(name="Containers", default=None)
    containers_running: int | None = field(name="ContainersRunning", default=None)
    containers_paused: int | None = field(name="ContainersPaused", default=None)
    containers_stopped: int | None = field(name="ContainersStopped", default=None)
    images: int | None = field(name="Images", default=None)
    driver: str | None = field(name="Driver", default=None)
    driver_status: list[list[str]] | None = field(name="DriverStatus", default=None)
    docker_root_dir: str | None = field(name="DockerRootDir", default=None)
    plugins: PluginsInfo | None = field(name="Plugins", default=None)
    memory_limit: bool | None = field(name="MemoryLimit", default=None)
    swap_limit: bool | None = field(name="SwapLimit", default=None)
    cpu_cfs_period: bool | None = field(name="CpuCfsPeriod", default=None)
    cpu_cfs_quota: bool | None = field(name="CpuCfsQuota", default=None)
    cpu_shares: bool | None = field(name="CPUShares", default=None)
    cpu_set: bool | None = field(name="CPUSet", default=None)
    pids_limit: bool | None = field(name="PidsLimit", default=None)
    oom_kill_disable: bool | None = field(name="OomKillDisable", default=None)
    ipv4_forwarding: bool | None = field(name="IPv4Forwarding", default=None)
    bridge_nf_iptables: bool | None = field(name="BridgeNfIptables", default=None)
    bridge_nf_ip6tables: bool | None = field(name="BridgeNfIp6tables", default=None)
    debug: bool | None = field(name="Debug", default=None)
    n_fd: int | None = field(name="NFd", default=None)
    n_goroutines: int | None = field(name="NGoroutines", default=None)
    system_time: str | None = field(name="SystemTime", default=None)
    logging_driver: str | None = field(name="LoggingDriver", default=None)
    cgroup_driver: str | None = field(name="CgroupDriver", default=None)
    cgroup_version: str | None = field(name="CgroupVersion", default=None)
    n_events_listener: int | None = field(name="NEventsListener", default=None)
    kernel_version: str | None = field(name="KernelVersion", default=None)
    operating_system: str | None = field(name="OperatingSystem", default=None)
    os_version: str | None = field(name="OSVersion", default=None)
    os_type: str | None = field(name="OSType", default=None)
    architecture: str | None = field(name="Architecture", default=None)
    ncpu: int | None = field(name="NCPU", default=None)
    mem_total: int | None = field(name="MemTotal", default=None)
    index_server_address: str | None = field(name="IndexServerAddress", default=None)
    registry_config: RegistryServiceConfig | None = field(name="RegistryConfig", default=None)
    generic_resources: list[dict[str, Any]] | None = field(name="GenericResources", default=None)
    http_proxy: str | None = field(name="HttpProxy", default=None)
    https_proxy: str | None = field(name="HttpsProxy", default=None)
    no_proxy: str | None = field(name="NoProxy", default=None)
    name: str | None = field(name="Name", default=None)
    labels: list[str] | None = field(name="Labels", default=None)
    experimental_build: bool | None = field(name="ExperimentalBuild", default=None)
    server_version: str | None = field(name="ServerVersion", default=None)
    runtimes: dict[str, Runtime] | None = field(name="Runtimes", default=None)
    default_runtime: str | None = field(name="DefaultRuntime", default=None)
    swarm: SwarmInfo | None = field(name="Swarm", default=None)
    live_restore_enabled: bool | None = field(name="LiveRestoreEnabled", default=None)
    isolation: str | None = field(name="Isolation", default=None)
    init_binary: str | None = field(name="InitBinary", default=None)
    containerd_commit: Commit | None = field(name="ContainerdCommit", default=None)
    runc_commit: Commit | None = field(name="RuncCommit", default=None)
    init_commit: Commit | None = field(name="InitCommit", default=None)
    security_options: list[str] | None = field(name="SecurityOptions", default=None)
    product_license: str | None = field(name="ProductLicense", default=None)
    default_address_pools: list[SystemInfoDefaultAddressPools] | None = field(name="DefaultAddressPools", default=None)
    firewall_backend: FirewallInfo | None = field(name="FirewallBackend", default=None)
    discovered_devices: list[dict[str, Any]] | None = field(name="DiscoveredDevices", default=None)
    nri: dict[str, Any] | None = field(name="NRI", default=None)
    warnings: list[str] | None = field(name="Warnings", default=None)
    cdi_spec_dirs: list[str] | None = field(name="CDISpecDirs", default=None)
    containerd: ContainerdInfo | None = field(name="Containerd", default=None)


class EventActor(Struct, kw_only=True, omit_defaults=True):
    """Actor describes something that generates events, like a container, network, or a volume."""

    id: str | None = field(name="ID", default=None)
    attributes: dict[str, str] | None = field(name="Attributes", default=None)


class EventMessage(Struct, kw_only=True, omit_defaults=True):
    """EventMessage represents the information an event contains."""

    type: str | None = field(name="Type", default=None)
    action: str | None = field(name="Action", default=None)
    actor: EventActor | None = field(name="Actor", default=None)
    scope: str | None = field(name="scope", default=None)
    time: int | None = field(name="time", default=None)
    time_nano: int | None = field(name="timeNano", default=None)


class ErrorResponse(Struct, kw_only=True, omit_defaults=True):
    """Represents an error."""

    message: str | None = field(name="message", default=None)


class ImagesDiskUsage(Struct, kw_only=True, omit_defaults=True):
    """represents system data usage for image resources."""

    active_count: int | None = field(name="ActiveCount", default=None)
    total_count: int | None = field(name="TotalCount", default=None)
    reclaimable: int | None = field(name="Reclaimable", default=None)
    total_size: int | None = field(name="TotalSize", default=None)
    items: list[Any] | None = field(name="Items", default=None)


class ContainersDiskUsage(Struct, kw_only=True, omit_defaults=True):
    """represents system data usage information for container resources."""

    active_count: int | None = field(name="ActiveCount", default=None)
    total_count: int | None = field(name="TotalCount", default=None)
    reclaimable: int | None = field(name="Reclaimable", default=None)
    total_size: int | None = field(name="TotalSize", default=None)
    items: list[Any] | None = field(name="Items", default=None)


class VolumesDiskUsage(Struct, kw_only=True, omit_defaults=True):
    """represents system data usage for volume resources."""

    active_count: int | None = field(name="ActiveCount", default=None)
    total_count: int | None = field(name="TotalCount", default=None)
    reclaimable: int | None = field(name="Reclaimable", default=None)
    total_size: int | None = field(name="TotalSize", default=None)
    items: list[Any] | None = field(name="Items", default=None)


class BuildCacheDiskUsage(Struct, kw_only=True, omit_defaults=True):
    """represents system data usage for build cache resources."""

    active_count: int | None = field(name="ActiveCount", default=None)
    total_count: int | None = field(name="TotalCount", default=None)
    reclaimable: int | None = field(name="Reclaimable", default=None)
    total_size: int | None = field(name="TotalSize", default=None)
    items: list[Any] | None = field(name="Items", default=None)
