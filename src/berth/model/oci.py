"""The OCI runtime specification's config.json, the Linux part that berth uses (runtime-spec 1.2, config-linux.md).

Encoded with msgspec it validates against the specification's schema. Values are plain and frozen. Fields at their default
are left out; what the schema requires has its default from a factory, since msgspec always writes such a field.
"""

from __future__ import annotations

from msgspec import Struct, field


class _Camel(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    pass


class User(_Camel, frozen=True, kw_only=True):
    """Numeric ids in the container."""

    uid: int
    gid: int
    additional_gids: list[int] = field(default_factory=list)
    umask: int | None = None


class Rlimit(_Camel, frozen=True, kw_only=True):
    """`type` is RLIMIT_NOFILE and the like."""

    type: str
    soft: int
    hard: int


class Capabilities(_Camel, frozen=True, kw_only=True):
    """CAP_* names."""

    bounding: list[str] = field(default_factory=list)
    effective: list[str] = field(default_factory=list)
    permitted: list[str] = field(default_factory=list)
    inheritable: list[str] = field(default_factory=list)
    ambient: list[str] = field(default_factory=list)


class ConsoleSize(_Camel, frozen=True, kw_only=True):
    """In characters."""

    height: int
    width: int


class Scheduler(_Camel, frozen=True, kw_only=True):
    """sched_setattr(2); times in nanoseconds, for SCHED_DEADLINE."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = field(default_factory=list)
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IOPriority(_Camel, frozen=True, kw_only=True):
    """ioprio_set(2); `class_` is IOPRIO_CLASS_RT, _BE or _IDLE."""

    class_: str = field(name="class")
    priority: int = 0


class Process(_Camel, frozen=True, kw_only=True):
    """What is executed."""

    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User
    args: list[str]
    env: list[str] = field(default_factory=list)
    cwd: str = field(default_factory=lambda: "/")
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = field(default_factory=list)
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None


class IdMapping(_Camel, frozen=True, kw_only=True):
    """`size` ids from `container_id` on are the host's ids from `host_id` on."""

    container_id: int = field(name="containerID")
    host_id: int = field(name="hostID")
    size: int


class Mount(_Camel, frozen=True, kw_only=True):
    """`type` is bind, tmpfs, proc ...; options are those of mount(8), plus OCI's (rbind, rprivate, rro, idmap ...)."""

    destination: str
    type: str | None = None
    source: str | None = None
    options: list[str] = field(default_factory=list)
    uid_mappings: list[IdMapping] = field(default_factory=list)
    gid_mappings: list[IdMapping] = field(default_factory=list)


class Root(_Camel, frozen=True, kw_only=True):
    """The root filesystem."""

    path: str
    readonly: bool = False


class Namespace(_Camel, frozen=True, kw_only=True):
    """`type` is pid, network, mount, ipc, uts, user, cgroup or time. With a path it is joined, else made."""

    type: str
    path: str | None = None


class Device(_Camel, frozen=True, kw_only=True):
    """A device node: `type` is c, b, u or p."""

    path: str
    type: str
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(_Camel, frozen=True, kw_only=True):
    """An entry of the device cgroup. None stands for any number."""

    allow: bool
    type: str | None = None
    major: int | None = None
    minor: int | None = None
    access: str | None = None


class Memory(_Camel, frozen=True, kw_only=True):
    """In bytes; -1 is no limit."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = field(name="disableOOMKiller", default=None)


class Cpu(_Camel, frozen=True, kw_only=True):
    """Quota, period and burst in microseconds; `idle` 1 makes the whole group run when nothing else wants to."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    burst: int | None = None
    idle: int | None = None


class Pids(_Camel, frozen=True, kw_only=True):
    """-1 is no limit."""

    limit: int


class WeightDevice(_Camel, frozen=True, kw_only=True):
    """A block device's weight."""

    major: int
    minor: int
    weight: int | None = None


class ThrottleDevice(_Camel, frozen=True, kw_only=True):
    """A block device's limit, in bytes or operations per second."""

    major: int
    minor: int
    rate: int


class BlockIO(_Camel, frozen=True, kw_only=True):
    """Block I/O."""

    weight: int | None = None
    weight_device: list[WeightDevice] = field(default_factory=list)
    throttle_read_bps_device: list[ThrottleDevice] = field(default_factory=list)
    throttle_write_bps_device: list[ThrottleDevice] = field(default_factory=list)
    throttle_read_iops_device: list[ThrottleDevice] = field(name="throttleReadIOPSDevice", default_factory=list)
    throttle_write_iops_device: list[ThrottleDevice] = field(name="throttleWriteIOPSDevice", default_factory=list)


class HugepageLimit(_Camel, frozen=True, kw_only=True):
    """`page_size` is like 2MB or 1GB; the limit in bytes."""

    page_size: str
    limit: int


class Resources(_Camel, frozen=True, kw_only=True):
    """Control group limits. A field that is None is left as it is."""

    devices: list[DeviceRule] = field(default_factory=list)
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = field(name="blockIO", default=None)
    hugepage_limits: list[HugepageLimit] = field(default_factory=list)
    unified: dict[str, str] = field(default_factory=dict)


class SeccompArg(_Camel, frozen=True, kw_only=True):
    """A comparison of one argument of a system call."""

    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompRule(_Camel, frozen=True, kw_only=True):
    """System calls and what happens to them."""

    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SeccompArg] = field(default_factory=list)


class Seccomp(_Camel, frozen=True, kw_only=True):
    """A filter, after Docker's conditions (capabilities, architectures, kernel) have been resolved."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: list[SeccompRule] = field(default_factory=list)


class Personality(_Camel, frozen=True, kw_only=True):
    """`domain` is LINUX or LINUX32."""

    domain: str
    flags: list[str] = field(default_factory=list)


class TimeOffset(_Camel, frozen=True, kw_only=True):
    """What a clock of a time namespace is ahead of the host's."""

    secs: int = 0
    nanosecs: int = 0


class Linux(_Camel, frozen=True, kw_only=True):
    """The Linux part."""

    namespaces: list[Namespace] = field(default_factory=list)
    uid_mappings: list[IdMapping] = field(default_factory=list)
    gid_mappings: list[IdMapping] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    cgroups_path: str | None = None
    resources: Resources | None = None
    rootfs_propagation: str | None = None
    seccomp: Seccomp | None = None
    sysctl: dict[str, str] = field(default_factory=dict)
    masked_paths: list[str] = field(default_factory=list)
    readonly_paths: list[str] = field(default_factory=list)
    mount_label: str | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = field(default_factory=dict)


class Spec(_Camel, frozen=True, kw_only=True):
    """A container's config.json."""

    oci_version: str = field(default_factory=lambda: "1.2.0")
    process: Process
    root: Root
    hostname: str | None = None
    domainname: str | None = None
    mounts: list[Mount] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    linux: Linux
