"""Compiles a container's configuration into an OCI spec: pure, apart from looking at the host's devices.

Input is the record, the decision on namespaces, and what start has gathered (`Surroundings`). The result is a value:
tests compare it as data, `berth-runtime steps` prints what becomes of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from msgspec import Struct

from berth.engine.config import Ulimit
from berth.engine.containers import capability, confinement, device, resources
from berth.engine.containers.defaults import replace_env, words
from berth.engine.containers.isolation import Isolation
from berth.engine.containers.record import MountRecord
from berth.engine.containers.security import SecurityOptions
from berth.model import oci
from berth.model.mount_type import IMAGE_MOUNT
from berth.model.rootfs import Overlay
from berth.wire.container import ContainerConfig, HostConfig

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NUMERIC_USER = re.compile(r"(\d{1,10})?(?::(\d{1,10}))?\Z")


class Surroundings(Struct, frozen=True, kw_only=True):
    """What start knows besides the record. `id_map` is empty in the host's user namespace. `partner_pid` is init of the
    container whose namespaces are joined. `mounts` are the compiled user mounts; `seccomp` is None for unconfined. `linked`
    are the variables that tell of linked containers."""

    hostname: str
    cgroups_path: str
    id_map: list[oci.IdMapping]
    mounts: list[oci.Mount]
    seccomp: oci.Seccomp | None
    partner_pid: int = 0
    rootfs: str = "rootfs"
    new_network: bool = True
    linked: Sequence[str] = ()
    default_ulimits: tuple[Ulimit, ...] = ()


def process_env(config: ContainerConfig, hostname: str, linked: Sequence[str] = ()) -> list[str]:
    """PATH, HOSTNAME and, with a terminal, TERM, then of linked containers, then what image and user say. HOME is added
    inside, from passwd."""
    base = [DEFAULT_PATH, f"HOSTNAME={hostname}"]
    if config.tty:
        base.append("TERM=xterm")
    return replace_env([*base, *linked], list(config.env or []))


def command(config: ContainerConfig) -> list[str]:
    """Entrypoint and command."""
    return words(config.entrypoint) + words(config.cmd)


def numeric_user(text: str) -> oci.User:
    """uid and gid of a numeric user; 0 for names, which are looked up inside the container."""
    match = _NUMERIC_USER.match(text)
    return oci.User(uid=int(match[1] or 0), gid=int(match[2] or 0)) if match else oci.User(uid=0, gid=0)


def large_user_ids(user: str, groups: list[str]) -> list[int]:
    """The numeric ids that --user and --group-add name."""
    match = _NUMERIC_USER.match(user)
    found = [int(g) for g in (match.groups() if match else ()) if g]
    return found + [int(g) for g in groups if g.isdigit()]


def namespaces(isolation: Isolation, partner_pid: int, *, user: bool) -> list[oci.Namespace]:
    """Joined ones carry a path; those shared with the host are left out. A joined user namespace comes with its partner."""
    found = [oci.Namespace(type="mount")]
    for kind in ("pid", "network", "ipc", "uts", "cgroup"):
        if kind in isolation.host:
            continue
        name = {"network": "net"}.get(kind, kind)
        path = f"/proc/{partner_pid}/ns/{name}" if kind in isolation.joins else None
        found.append(oci.Namespace(type=kind, path=path))
    if user:
        found.append(oci.Namespace(type="user", path=f"/proc/{partner_pid}/ns/user" if isolation.joins else None))
    return found


def system_mounts(host: HostConfig, options: SecurityOptions, isolation: Isolation, partner_pid: int) -> list[oci.Mount]:
    """/proc, /dev, /sys and what belongs in them."""
    system = "rw" if host.privileged else "ro"
    groups = "rw" if host.privileged or options.writable_cgroups else "ro"
    return [
        oci.Mount(destination="/proc", type="proc", source="proc", options=["nosuid", "noexec", "nodev"]),
        oci.Mount(destination="/dev", type="tmpfs", source="tmpfs", options=["nosuid", "strictatime", "mode=755", "size=65536k"]),
        oci.Mount(
            destination="/dev/pts",
            type="devpts",
            source="devpts",
            options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", system]),
        oci.Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=[groups, "nosuid", "noexec", "nodev"]),
        *_ipc_mounts(host, isolation, partner_pid),
    ]


def _ipc_mounts(host: HostConfig, isolation: Isolation, partner_pid: int) -> list[oci.Mount]:
    if "ipc" in isolation.host:
        return [
            oci.Mount(destination=path, type="bind", source=path, options=["rbind", "rprivate"])
            for path in ("/dev/mqueue", "/dev/shm")
            if os.path.isdir(path)
        ]
    queue = oci.Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=["nosuid", "noexec", "nodev"])
    if host.ipc_mode == "none":
        return [queue]
    if "ipc" in isolation.joins:
        shared = f"/proc/{partner_pid}/root/dev/shm"
        return [queue, oci.Mount(destination="/dev/shm", type="bind", source=shared, options=["bind", "rprivate"])]
    options = ["nosuid", "noexec", "nodev", "mode=1777", f"size={host.shm_size or 67108864}"]
    return [queue, oci.Mount(destination="/dev/shm", type="tmpfs", source="shm", options=options)]


def bind_mount(record: MountRecord) -> oci.Mount:
    """A bind mount or a volume's data directory."""
    options = ["rbind" if record.recursive else "bind", record.propagation or "rprivate"]
    if record.read_only:
        options.append("rro" if record.recursive and record.read_only_recursive else "ro")
    return oci.Mount(destination=record.destination, type="bind", source=record.source, options=options)


def image_mount(record: MountRecord, view: Overlay) -> oci.Mount:
    """An image's filesystem, or a part of it, read-only. The layers are options, as there is nothing to bind."""
    options = [*(f"layer={layer}" for layer in view.layers), *([f"subpath={record.subpath}"] if record.subpath else [])]
    return oci.Mount(destination=record.destination, type=IMAGE_MOUNT, source=view.store, options=options)


def tmpfs_mount(record: MountRecord) -> oci.Mount:
    """A tmpfs of the user's."""
    options = list(record.options)
    if record.read_only and "ro" not in options:
        options.append("ro")
    return oci.Mount(destination=record.destination, type="tmpfs", source="tmpfs", options=options)


def rlimits(host: HostConfig, defaults: tuple[Ulimit, ...] = ()) -> list[oci.Rlimit]:
    """--ulimit, and the engine's defaults for what it does not name; -1 is unlimited."""
    unlimited = 2**64 - 1

    def value(number: int) -> int:
        return unlimited if number < 0 else number

    wanted = {limit.name: (limit.soft, limit.hard) for limit in defaults}
    wanted |= {limit.name or "": (limit.soft or 0, limit.hard or 0) for limit in host.ulimits or []}
    return [
        oci.Rlimit(type=f"RLIMIT_{name.upper()}", soft=value(soft), hard=value(hard)) for name, (soft, hard) in wanted.items()
    ]


def _sysctls(host: HostConfig, around: Surroundings) -> dict[str, str]:
    wanted: dict[str, str] = {}
    if around.new_network:
        wanted["net.ipv4.ping_group_range"] = "0 65535" if around.id_map else "0 2147483647"
        wanted["net.ipv4.ip_unprivileged_port_start"] = "0"
    return {**wanted, **(host.sysctls or {})}


def _devices(host: HostConfig) -> tuple[list[oci.Device], list[oci.DeviceRule]]:
    if host.privileged:
        return device.host_devices(), []
    nodes: list[oci.Device] = []
    rules: list[oci.DeviceRule] = []
    for mapping in host.devices or []:
        found, allowed = device.resolve(mapping)
        nodes += found
        rules += allowed
    return nodes, rules


def _process(config: ContainerConfig, host: HostConfig, options: SecurityOptions, around: Surroundings) -> oci.Process:
    chosen = list(
        capability.effective(
            host.cap_add or [], host.cap_drop or [], privileged=bool(host.privileged), host_user=not around.id_map
        )
    )
    size = host.console_size if host.console_size and len(host.console_size) == 2 and any(host.console_size) else None
    return oci.Process(
        terminal=bool(config.tty),
        console_size=oci.ConsoleSize(height=size[0], width=size[1]) if size and config.tty else None,
        user=numeric_user(config.user or ""),
        args=command(config),
        env=process_env(config, around.hostname, around.linked),
        cwd=config.working_dir or "/",
        capabilities=oci.Capabilities(bounding=chosen, effective=chosen, permitted=chosen),
        rlimits=rlimits(host, around.default_ulimits),
        no_new_privileges=options.no_new_privileges,
        apparmor_profile=confinement.apparmor_profile(options),
        oom_score_adj=host.oom_score_adj or 0,
    )


def compile_spec(
    config: ContainerConfig, host: HostConfig, isolation: Isolation, options: SecurityOptions, around: Surroundings
) -> oci.Spec:
    """The whole spec. User mounts take the place of system mounts with the same destination."""
    taken = {m.destination for m in around.mounts}
    system = [m for m in system_mounts(host, options, isolation, around.partner_pid) if m.destination not in taken]
    nodes, rules = _devices(host)
    has_user = bool(around.id_map)
    own_uts = "uts" not in isolation.host
    return oci.Spec(
        process=_process(config, host, options, around),
        root=oci.Root(path=around.rootfs, readonly=bool(host.readonly_rootfs)),
        hostname=around.hostname if own_uts else None,
        domainname=(config.domainname or None) if own_uts else None,
        mounts=[*system, *around.mounts],
        annotations=dict(host.annotations or {}),
        linux=oci.Linux(
            namespaces=namespaces(isolation, around.partner_pid, user=has_user),
            uid_mappings=around.id_map,
            gid_mappings=around.id_map,
            devices=nodes,
            cgroups_path=around.cgroups_path,
            resources=resources.limits(host, resources.device_rules(host, rules)),
            seccomp=around.seccomp,
            sysctl=_sysctls(host, around),
            masked_paths=list(host.masked_paths or []),
            readonly_paths=list(host.readonly_paths or []),
        ),
    )
