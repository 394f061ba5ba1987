"""Containers: configuration, host configuration, state, statistics.

Field names on the wire are Docker's; attributes are their snake_case. Every field is optional, as a client may leave
out or null any of them; a field that is None is not written. Source: Engine API 1.55.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from berth.wire.health import Health, HealthConfig
from berth.wire.image import DriverData, OCIDescriptor
from berth.wire.mount import Mount, MountPoint
from berth.wire.network import NetworkSettings, PortBinding, PortSummary


class ContainerConfig(Struct, kw_only=True, omit_defaults=True):
    """Configuration for a container that is portable between hosts."""

    hostname: str | None = field(name="Hostname", default=None)
    domainname: str | None = field(name="Domainname", default=None)
    user: str | None = field(name="User", default=None)
    attach_stdin: bool | None = field(name="AttachStdin", default=None)
    attach_stdout: bool | None = field(name="AttachStdout", default=None)
    attach_stderr: bool | None = field(name="AttachStderr", default=None)
    exposed_ports: dict[str, Any] | None = field(name="ExposedPorts", default=None)
    tty: bool | None = field(name="Tty", default=None)
    open_stdin: bool | None = field(name="OpenStdin", default=None)
    stdin_once: bool | None = field(name="StdinOnce", default=None)
    env: list[str] | None = field(name="Env", default=None)
    cmd: str | list[str] | None = field(name="Cmd", default=None)
    healthcheck: HealthConfig | None = field(name="Healthcheck", default=None)
    args_escaped: bool | None = field(name="ArgsEscaped", default=None)
    image: str | None = field(name="Image", default=None)
    volumes: dict[str, Any] | None = field(name="Volumes", default=None)
    working_dir: str | None = field(name="WorkingDir", default=None)
    entrypoint: str | list[str] | None = field(name="Entrypoint", default=None)
    network_disabled: bool | None = field(name="NetworkDisabled", default=None)
    on_build: list[str] | None = field(name="OnBuild", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    stop_signal: str | None = field(name="StopSignal", default=None)
    stop_timeout: int | None = field(name="StopTimeout", default=None)
    shell: list[str] | None = field(name="Shell", default=None)


class HostConfigBlkioWeightDevice(Struct, kw_only=True, omit_defaults=True):
    """HostConfigBlkioWeightDevice."""

    path: str | None = field(name="Path", default=None)
    weight: int | None = field(name="Weight", default=None)


class ThrottleDevice(Struct, kw_only=True, omit_defaults=True):
    """ThrottleDevice."""

    path: str | None = field(name="Path", default=None)
    rate: int | None = field(name="Rate", default=None)


class DeviceMapping(Struct, kw_only=True, omit_defaults=True):
    """A device mapping between the host and container."""

    path_on_host: str | None = field(name="PathOnHost", default=None)
    path_in_container: str | None = field(name="PathInContainer", default=None)
    cgroup_permissions: str | None = field(name="CgroupPermissions", default=None)


class DeviceRequest(Struct, kw_only=True, omit_defaults=True):
    """A request for devices to be sent to device drivers."""

    driver: str | None = field(name="Driver", default=None)
    count: int | None = field(name="Count", default=None)
    device_ids: list[str] | None = field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = field(name="Capabilities", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)


class HostConfigUlimits(Struct, kw_only=True, omit_defaults=True):
    """HostConfigUlimits."""

    name: str | None = field(name="Name", default=None)
    soft: int | None = field(name="Soft", default=None)
    hard: int | None = field(name="Hard", default=None)


class HostConfigLogConfig(Struct, kw_only=True, omit_defaults=True):
    """The logging configuration for this container."""

    type: str | None = field(name="Type", default=None)
    config: dict[str, str] | None = field(name="Config", default=None)


class RestartPolicy(Struct, kw_only=True, omit_defaults=True):
    """The behavior to apply when the container exits."""

    name: str | None = field(name="Name", default=None)
    maximum_retry_count: int | None = field(name="MaximumRetryCount", default=None)


class Resources(Struct, kw_only=True, omit_defaults=True):
    """A container's resources (cgroups config, ulimits, etc)."""

    cpu_shares: int | None = field(name="CpuShares", default=None)
    memory: int | None = field(name="Memory", default=None)
    cgroup_parent: str | None = field(name="CgroupParent", default=None)
    blkio_weight: int | None = field(name="BlkioWeight", default=None)
    blkio_weight_device: list[HostConfigBlkioWeightDevice] | None = field(name="BlkioWeightDevice", default=None)
    blkio_device_read_bps: list[ThrottleDevice] | None = field(name="BlkioDeviceReadBps", default=None)
    blkio_device_write_bps: list[ThrottleDevice] | None = field(name="BlkioDeviceWriteBps", default=None)
    blkio_device_read_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int | None = field(name="CpuPeriod", default=None)
    cpu_quota: int | None = field(name="CpuQuota", default=None)
    cpu_realtime_period: int | None = field(name="CpuRealtimePeriod", default=None)
    cpu_realtime_runtime: int | None = field(name="CpuRealtimeRuntime", default=None)
    cpuset_cpus: str | None = field(name="CpusetCpus", default=None)
    cpuset_mems: str | None = field(name="CpusetMems", default=None)
    devices: list[DeviceMapping] | None = field(name="Devices", default=None)
    device_cgroup_rules: list[str] | None = field(name="DeviceCgroupRules", default=None)
    device_requests: list[DeviceRequest] | None = field(name="DeviceRequests", default=None)
    memory_reservation: int | None = field(name="MemoryReservation", default=None)
    memory_swap: int | None = field(name="MemorySwap", default=None)
    memory_swappiness: int | None = field(name="MemorySwappiness", default=None)
    nano_cpus: int | None = field(name="NanoCpus", default=None)
    oom_kill_disable: bool | None = field(name="OomKillDisable", default=None)
    init: bool | None = field(name="Init", default=None)
    pids_limit: int | None = field(name="PidsLimit", default=None)
    ulimits: list[HostConfigUlimits] | None = field(name="Ulimits", default=None)
    cpu_count: int | None = field(name="CpuCount", default=None)
    cpu_percent: int | None = field(name="CpuPercent", default=None)
    io_maximum_iops: int | None = field(name="IOMaximumIOps", default=None)
    io_maximum_bandwidth: int | None = field(name="IOMaximumBandwidth", default=None)
    # Up to API 1.41; read in order to be refused.
    kernel_memory: int | None = field(name="KernelMemory", default=None)
    kernel_memory_tcp: int | None = field(name="KernelMemoryTCP", default=None)


class HostConfig(Resources, kw_only=True, omit_defaults=True):
    """Container configuration that depends on the host we are running on: its resources, and all the rest."""

    binds: list[str] | None = field(name="Binds", default=None)
    container_id_file: str | None = field(name="ContainerIDFile", default=None)
    log_config: HostConfigLogConfig | None = field(name="LogConfig", default=None)
    network_mode: str | None = field(name="NetworkMode", default=None)
    port_bindings: dict[str, list[PortBinding] | None] | None = field(name="PortBindings", default=None)
    restart_policy: RestartPolicy | None = field(name="RestartPolicy", default=None)
    auto_remove: bool | None = field(name="AutoRemove", default=None)
    volume_driver: str | None = field(name="VolumeDriver", default=None)
    volumes_from: list[str] | None = field(name="VolumesFrom", default=None)
    mounts: list[Mount] | None = field(name="Mounts", default=None)
    console_size: list[int] | None = field(name="ConsoleSize", default=None)
    annotations: dict[str, str] | None = field(name="Annotations", default=None)
    cap_add: list[str] | None = field(name="CapAdd", default=None)
    cap_drop: list[str] | None = field(name="CapDrop", default=None)
    cgroupns_mode: str | None = field(name="CgroupnsMode", default=None)
    dns: list[str] | None = field(name="Dns", default=None)
    dns_options: list[str] | None = field(name="DnsOptions", default=None)
    dns_search: list[str] | None = field(name="DnsSearch", default=None)
    extra_hosts: list[str] | None = field(name="ExtraHosts", default=None)
    group_add: list[str] | None = field(name="GroupAdd", default=None)
    ipc_mode: str | None = field(name="IpcMode", default=None)
    cgroup: str | None = field(name="Cgroup", default=None)
    links: list[str] | None = field(name="Links", default=None)
    oom_score_adj: int | None = field(name="OomScoreAdj", default=None)
    pid_mode: str | None = field(name="PidMode", default=None)
    privileged: bool | None = field(name="Privileged", default=None)
    publish_all_ports: bool | None = field(name="PublishAllPorts", default=None)
    readonly_rootfs: bool | None = field(name="ReadonlyRootfs", default=None)
    security_opt: list[str] | None = field(name="SecurityOpt", default=None)
    storage_opt: dict[str, str] | None = field(name="StorageOpt", default=None)
    tmpfs: dict[str, str] | None = field(name="Tmpfs", default=None)
    uts_mode: str | None = field(name="UTSMode", default=None)
    userns_mode: str | None = field(name="UsernsMode", default=None)
    shm_size: int | None = field(name="ShmSize", default=None)
    sysctls: dict[str, str] | None = field(name="Sysctls", default=None)
    runtime: str | None = field(name="Runtime", default=None)
    isolation: str | None = field(name="Isolation", default=None)
    masked_paths: list[str] | None = field(name="MaskedPaths", default=None)
    readonly_paths: list[str] | None = field(name="ReadonlyPaths", default=None)
    # In API 1.40 only; read in order to be refused.
    capabilities: list[str] | None = field(name="Capabilities", default=None)


class ContainerState(Struct, kw_only=True, omit_defaults=True):
    """ContainerState stores container's running state."""

    status: str | None = field(name="Status", default=None)
    running: bool | None = field(name="Running", default=None)
    paused: bool | None = field(name="Paused", default=None)
    restarting: bool | None = field(name="Restarting", default=None)
    oom_killed: bool | None = field(name="OOMKilled", default=None)
    dead: bool | None = field(name="Dead", default=None)
    pid: int | None = field(name="Pid", default=None)
    exit_code: int | None = field(name="ExitCode", default=None)
    error: str | None = field(name="Error", default=None)
    started_at: str | None = field(name="StartedAt", default=None)
    finished_at: str | None = field(name="FinishedAt", default=None)
    health: Health | None = field(name="Health", default=None)


class ContainerInspectResponse(Struct, kw_only=True, omit_defaults=True):
    """ContainerInspectResponse."""

    id: str | None = field(name="Id", default=None)
    created: str | None = field(name="Created", default=None)
    path: str | None = field(name="Path", default=None)
    args: list[str] | None = field(name="Args", default=None)
    state: ContainerState | None = field(name="State", default=None)
    image: str | None = field(name="Image", default=None)
    resolv_conf_path: str | None = field(name="ResolvConfPath", default=None)
    hostname_path: str | None = field(name="HostnamePath", default=None)
    hosts_path: str | None = field(name="HostsPath", default=None)
    log_path: str | None = field(name="LogPath", default=None)
    name: str | None = field(name="Name", default=None)
    restart_count: int | None = field(name="RestartCount", default=None)
    driver: str | None = field(name="Driver", default=None)
    platform: str | None = field(name="Platform", default=None)
    image_manifest_descriptor: OCIDescriptor | None = field(name="ImageManifestDescriptor", default=None)
    mount_label: str | None = field(name="MountLabel", default=None)
    process_label: str | None = field(name="ProcessLabel", default=None)
    app_armor_profile: str | None = field(name="AppArmorProfile", default=None)
    exec_ids: list[str] | None = field(name="ExecIDs", default=None)
    host_config: HostConfig | None = field(name="HostConfig", default=None)
    graph_driver: DriverData | None = field(name="GraphDriver", default=None)
    storage: dict[str, Any] | None = field(name="Storage", default=None)
    size_rw: int | None = field(name="SizeRw", default=None)
    size_root_fs: int | None = field(name="SizeRootFs", default=None)
    mounts: list[MountPoint] | None = field(name="Mounts", default=None)
    config: ContainerConfig | None = field(name="Config", default=None)
    network_settings: NetworkSettings | None = field(name="NetworkSettings", default=None)


class ContainerSummaryHostConfig(Struct, kw_only=True, omit_defaults=True):
    """Summary of host-specific runtime information of the container."""

    network_mode: str | None = field(name="NetworkMode", default=None)
    annotations: dict[str, str] | None = field(name="Annotations", default=None)


class ContainerSummaryNetworkSettings(Struct, kw_only=True, omit_defaults=True):
    """Summary of the container's network settings."""

    networks: dict[str, dict[str, Any]] | None = field(name="Networks", default=None)


class ContainerSummaryHealth(Struct, kw_only=True, omit_defaults=True):
    """Summary of health status."""

    status: str | None = field(name="Status", default=None)
    failing_streak: int | None = field(name="FailingStreak", default=None)


class ContainerSummary(Struct, kw_only=True, omit_defaults=True):
    """ContainerSummary."""

    id: str | None = field(name="Id", default=None)
    names: list[str] | None = field(name="Names", default=None)
    image: str | None = field(name="Image", default=None)
    image_id: str | None = field(name="ImageID", default=None)
    image_manifest_descriptor: OCIDescriptor | None = field(name="ImageManifestDescriptor", default=None)
    command: str | None = field(name="Command", default=None)
    created: int | None = field(name="Created", default=None)
    ports: list[PortSummary] | None = field(name="Ports", default=None)
    size_rw: int | None = field(name="SizeRw", default=None)
    size_root_fs: int | None = field(name="SizeRootFs", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    state: str | None = field(name="State", default=None)
    status: str | None = field(name="Status", default=None)
    host_config: ContainerSummaryHostConfig | None = field(name="HostConfig", default=None)
    network_settings: ContainerSummaryNetworkSettings | None = field(name="NetworkSettings", default=None)
    mounts: list[MountPoint] | None = field(name="Mounts", default=None)
    health: ContainerSummaryHealth | None = field(name="Health", default=None)


class ContainerCreateResponse(Struct, kw_only=True, omit_defaults=True):
    """OK response to ContainerCreate operation."""

    id: str | None = field(name="Id", default=None)
    warnings: list[str] | None = field(name="Warnings", default=None)


class ContainerUpdateResponse(Struct, kw_only=True, omit_defaults=True):
    """Response for a successful container-update."""

    warnings: list[str] | None = field(name="Warnings", default=None)


class ContainerTopResponse(Struct, kw_only=True, omit_defaults=True):
    """Container 'top' response."""

    titles: list[str] | None = field(name="Titles", default=None)
    processes: list[list[str]] | None = field(name="Processes", default=None)


class ContainerWaitExitError(Struct, kw_only=True, omit_defaults=True):
    """container waiting error, if any."""

    message: str | None = field(name="Message", default=None)


class ContainerWaitResponse(Struct, kw_only=True, omit_defaults=True):
    """OK response to ContainerWait operation."""

    status_code: int | None = field(name="StatusCode", default=None)
    error: ContainerWaitExitError | None = field(name="Error", default=None)


class FilesystemChange(Struct, kw_only=True, omit_defaults=True):
    """Change in the container's filesystem."""

    path: str | None = field(name="Path", default=None)
    kind: int | None = field(name="Kind", default=None)


class ContainerCPUUsage(Struct, kw_only=True, omit_defaults=True):
    """All CPU stats aggregated since container inception."""

    total_usage: int | None = field(name="total_usage", default=None)
    percpu_usage: list[int] | None = field(name="percpu_usage", default=None)
    usage_in_kernelmode: int | None = field(name="usage_in_kernelmode", default=None)
    usage_in_usermode: int | None = field(name="usage_in_usermode", default=None)


class ContainerThrottlingData(Struct, kw_only=True, omit_defaults=True):
    """CPU throttling stats of the container."""

    periods: int | None = field(name="periods", default=None)
    throttled_periods: int | None = field(name="throttled_periods", default=None)
    throttled_time: int | None = field(name="throttled_time", default=None)


class ContainerCPUStats(Struct, kw_only=True, omit_defaults=True):
    """CPU related info of the container."""

    cpu_usage: ContainerCPUUsage | None = field(name="cpu_usage", default=None)
    system_cpu_usage: int | None = field(name="system_cpu_usage", default=None)
    online_cpus: int | None = field(name="online_cpus", default=None)
    throttling_data: ContainerThrottlingData | None = field(name="throttling_data", default=None)


class ContainerMemoryStats(Struct, kw_only=True, omit_defaults=True):
    """Aggregates all memory stats since container inception on Linux. Windows returns stats for commit and priv."""

    usage: int | None = field(name="usage", default=None)
    max_usage: int | None = field(name="max_usage", default=None)
    stats: dict[str, int | None] | None = field(name="stats", default=None)
    failcnt: int | None = field(name="failcnt", default=None)
    limit: int | None = field(name="limit", default=None)
    commitbytes: int | None = field(name="commitbytes", default=None)
    commitpeakbytes: int | None = field(name="commitpeakbytes", default=None)
    privateworkingset: int | None = field(name="privateworkingset", default=None)


class ContainerPidsStats(Struct, kw_only=True, omit_defaults=True):
    """PidsStats contains Linux-specific stats of a container's process-IDs (PIDs)."""

    current: int | None = field(name="current", default=None)
    limit: int | None = field(name="limit", default=None)


class ContainerBlkioStatEntry(Struct, kw_only=True, omit_defaults=True):
    """Blkio stats entry."""

    major: int | None = field(name="major", default=None)
    minor: int | None = field(name="minor", default=None)
    op: str | None = field(name="op", default=None)
    value: int | None = field(name="value", default=None)


class ContainerBlkioStats(Struct, kw_only=True, omit_defaults=True):
    """BlkioStats stores all IO service stats for data read and write."""

    io_service_bytes_recursive: list[ContainerBlkioStatEntry] | None = field(name="io_service_bytes_recursive", default=None)
    io_serviced_recursive: list[ContainerBlkioStatEntry] | None = field(name="io_serviced_recursive", default=None)
    io_queue_recursive: list[ContainerBlkioStatEntry] | None = field(name="io_queue_recursive", default=None)
    io_service_time_recursive: list[ContainerBlkioStatEntry] | None = field(name="io_service_time_recursive", default=None)
    io_wait_time_recursive: list[ContainerBlkioStatEntry] | None = field(name="io_wait_time_recursive", default=None)
    io_merged_recursive: list[ContainerBlkioStatEntry] | None = field(name="io_merged_recursive", default=None)
    io_time_recursive: list[ContainerBlkioStatEntry] | None = field(name="io_time_recursive", default=None)
    sectors_recursive: list[ContainerBlkioStatEntry] | None = field(name="sectors_recursive", default=None)


class ContainerStorageStats(Struct, kw_only=True, omit_defaults=True):
    """StorageStats is the disk I/O stats for read/write on Windows."""

    read_count_normalized: int | None = field(name="read_count_normalized", default=None)
    read_size_bytes: int | None = field(name="read_size_bytes", default=None)
    write_count_normalized: int | None = field(name="write_count_normalized", default=None)
    write_size_bytes: int | None = field(name="write_size_bytes", default=None)


class ContainerStatsResponse(Struct, kw_only=True, omit_defaults=True):
    """Statistics sample for a container."""

    id: str | None = field(name="id", default=None)
    name: str | None = field(name="name", default=None)
    os_type: str | None = field(name="os_type", default=None)
    read: str | None = field(name="read", default=None)
    cpu_stats: ContainerCPUStats | None = field(name="cpu_stats", default=None)
    memory_stats: ContainerMemoryStats | None = field(name="memory_stats", default=None)
    networks: Any | None = field(name="networks", default=None)
    pids_stats: ContainerPidsStats | None = field(name="pids_stats", default=None)
    blkio_stats: ContainerBlkioStats | None = field(name="blkio_stats", default=None)
    num_procs: int | None = field(name="num_procs", default=None)
    storage_stats: ContainerStorageStats | None = field(name="storage_stats", default=None)
    preread: str | None = field(name="preread", default=None)
    precpu_stats: ContainerCPUStats | None = field(name="precpu_stats", default=None)


class ContainerNetworkStats(Struct, kw_only=True, omit_defaults=True):
    """Aggregates the network stats of one container."""

    rx_bytes: int | None = field(name="rx_bytes", default=None)
    rx_packets: int | None = field(name="rx_packets", default=None)
    rx_errors: int | None = field(name="rx_errors", default=None)
    rx_dropped: int | None = field(name="rx_dropped", default=None)
    tx_bytes: int | None = field(name="tx_bytes", default=None)
    tx_packets: int | None = field(name="tx_packets", default=None)
    tx_errors: int | None = field(name="tx_errors", default=None)
    tx_dropped: int | None = field(name="tx_dropped", default=None)
    endpoint_id: str | None = field(name="endpoint_id", default=None)
    instance_id: str | None = field(name="instance_id", default=None)


class ProcessConfig(Struct, kw_only=True, omit_defaults=True):
    """ProcessConfig."""

    privileged: bool | None = field(name="privileged", default=None)
    user: str | None = field(name="user", default=None)
    tty: bool | None = field(name="tty", default=None)
    entrypoint: str | None = field(name="entrypoint", default=None)
    arguments: list[str] | None = field(name="arguments", default=None)


class IDResponse(Struct, kw_only=True, omit_defaults=True):
    """Response to an API call that returns just an Id."""

    id: str | None = field(name="Id", default=None)
