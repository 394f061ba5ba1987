"""The configuration a container is created with: the image's, overlaid by the request's, and Docker's defaults."""

from __future__ import annotations

import msgspec

from berth.errors import InvalidArgument
from berth.wire.container import ContainerConfig, HostConfig, RestartPolicy
from berth.wire.health import HealthConfig

DEFAULT_SHM_SIZE = 64 * 1024 * 1024
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def words(value: str | list[str] | None) -> list[str]:
    """A command as a list: clients may send one string for a list of one."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def split_variable(entry: str) -> tuple[str, str | None]:
    """NAME=value, or NAME alone (None: the variable is to be unset)."""
    name, equals, value = entry.partition("=")
    return name, value if equals else None


def merge_env(own: list[str], inherited: list[str]) -> list[str]:
    """The request's variables, then those of the image that it does not set."""
    names = {split_variable(entry)[0] for entry in own}
    return own + [entry for entry in inherited if split_variable(entry)[0] not in names]


def replace_env(base: list[str], changes: list[str]) -> list[str]:
    """`base` with the changes applied in place; an entry without = takes its variable away."""
    variables: dict[str, str | None] = {}
    for entry in [*base, *changes]:
        name, value = split_variable(entry)
        variables[name] = value
    return [f"{name}={value}" for name, value in variables.items() if value is not None]


def _merge_health(own: HealthConfig | None, image: HealthConfig | None) -> HealthConfig | None:
    if own is None or image is None:
        return own or image
    merged = {f: getattr(own, f) or getattr(image, f) for f in HealthConfig.__struct_fields__}
    return HealthConfig(**merged)


def merge_image(config: ContainerConfig, image: ContainerConfig | None) -> ContainerConfig:
    """The request's configuration completed from the image's (Docker's rules: an entrypoint of one's own drops the
    image's command; an entrypoint of [""] takes the image's away)."""
    base = image or ContainerConfig()
    entrypoint: list[str] | None = None if config.entrypoint is None else words(config.entrypoint)
    command = words(config.cmd)
    if not entrypoint:
        command = command or words(base.cmd)
        if entrypoint is None:
            entrypoint = words(base.entrypoint)
    if entrypoint == [""]:
        entrypoint = []
        command = command or words(config.cmd)
    if not entrypoint and not command:
        raise InvalidArgument("no command specified")
    return msgspec.structs.replace(
        config,
        user=config.user or base.user or "",
        exposed_ports={**(base.exposed_ports or {}), **(config.exposed_ports or {})} or None,
        env=merge_env(list(config.env or []), list(base.env or [])),
        cmd=command or None,
        entrypoint=entrypoint or None,
        healthcheck=_merge_health(config.healthcheck, base.healthcheck),
        volumes={**(base.volumes or {}), **(config.volumes or {})} or None,
        working_dir=config.working_dir or base.working_dir or "",
        labels={**(base.labels or {}), **(config.labels or {})},
        stop_signal=config.stop_signal or base.stop_signal,
        shell=config.shell or base.shell,
        on_build=config.on_build or base.on_build,
    )


def complete_host_config(host: HostConfig, runtime: str = "berth") -> HostConfig:
    """Docker's defaults, as inspect shows them. `runtime` is the engine's own default."""
    privileged = bool(host.privileged)
    unconfined = privileged or "systempaths=unconfined" in (host.security_opt or [])
    network = host.network_mode or "default"
    return msgspec.structs.replace(
        host,
        network_mode="bridge" if network == "default" else network,
        ipc_mode=host.ipc_mode or "private",
        cgroupns_mode=host.cgroupns_mode or ("host" if privileged else "private"),
        shm_size=host.shm_size or DEFAULT_SHM_SIZE,
        # The docker CLI says -1 for "not given".
        memory_swappiness=None if host.memory_swappiness == -1 else host.memory_swappiness,
        restart_policy=host.restart_policy
        if host.restart_policy and host.restart_policy.name
        else RestartPolicy(name="no", maximum_retry_count=0),
        runtime=host.runtime or runtime,
        masked_paths=([] if unconfined else list(MASKED_PATHS)) if host.masked_paths is None else host.masked_paths,
        readonly_paths=([] if unconfined else list(READONLY_PATHS)) if host.readonly_paths is None else host.readonly_paths,
    )
