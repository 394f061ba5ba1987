"""From the flags of `run` and `create` to the three parts of POST /containers/create."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import msgspec

from berth.cli.run.mount import absolute_bind, parse_mount, parse_tmpfs
from berth.cli.run.port import Bindings, merge, parse_expose, parse_publish
from berth.errors import InvalidArgument
from berth.model.extension import EXTENSIONS, PREFIX
from berth.model.units import parse_duration, parse_size
from berth.wire.container import (
    ContainerConfig,
    DeviceMapping,
    HostConfig,
    HostConfigBlkioWeightDevice,
    HostConfigLogConfig,
    HostConfigUlimits,
    RestartPolicy,
    ThrottleDevice,
)
from berth.wire.health import HealthConfig
from berth.wire.network import EndpointIPAMConfig, EndpointSettings, NetworkingConfig

Options = dict[str, Any]


def number(text: str, flag: str) -> int:
    """A whole number that a flag's value holds."""
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f'invalid argument "{text}" for "{flag}" flag: {text!r} is not a whole number') from None


def cpus(text: str) -> int:
    """`--cpus 1.5` in billionths of a CPU."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise InvalidArgument(f'invalid argument "{text}" for "--cpus" flag: give a number, such as 1.5') from None
    return int(value * 10**9)


def read_lines(path: str, what: str) -> list[str]:
    """The lines of an env or label file without comments and blanks."""
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip("\r\n").lstrip() for line in file if line.strip() and not line.lstrip().startswith("#")]
    except OSError as error:
        raise InvalidArgument(f"open {path}: {os.strerror(error.errno or 0).lower()} (the {what} file)") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{what} file {path} is not UTF-8 text: {error.reason}") from error


def environment(options: Options) -> list[str]:
    """--env-file, then --env. A name alone takes its value from the caller's environment, if it is there."""
    entries = [line for path in options["env_file"] for line in read_lines(path, "environment")] + list(options["env"])
    result = []
    for entry in entries:
        if "=" in entry:
            result.append(entry)
        elif entry in os.environ:
            result.append(f"{entry}={os.environ[entry]}")
        elif not entry or " " in entry:
            raise InvalidArgument(f"invalid environment variable: {entry!r}")
    return result


def pairs(entries: list[str] | tuple[str, ...]) -> dict[str, str]:
    """key=value entries as a map; a key alone has an empty value."""
    return dict(entry.partition("=")[::2] for entry in entries)


def _labels(options: Options) -> dict[str, str]:
    lines = [line for path in options["label_file"] for line in read_lines(path, "label")]
    extensions = {PREFIX + e.name: options[e.field] for e in EXTENSIONS if options.get(e.field) is not None}
    return pairs([*lines, *options["label"]]) | extensions


def _health(options: Options) -> HealthConfig | None:
    command = options["health_cmd"]
    durations = {
        field: parse_duration(options[f"health_{field}"]) if options[f"health_{field}"] else None
        for field in ("interval", "timeout", "start_period", "start_interval")
    }
    retries = options["health_retries"]
    if options["no_healthcheck"]:
        if command or retries or any(durations.values()):
            raise InvalidArgument("--no-healthcheck conflicts with --health-* options")
        return HealthConfig(test=["NONE"])
    if command is None and retries is None and not any(durations.values()):
        return None
    return HealthConfig(test=["CMD-SHELL", command] if command else None, retries=retries, **durations)


def config(options: Options, image: str, command: list[str]) -> ContainerConfig:
    """The portable half."""
    attach = [name.lower() for name in options["attach"]]
    for name in attach:
        if name not in ("stdin", "stdout", "stderr"):
            raise InvalidArgument(f"valid streams are STDIN, STDOUT and STDERR, not {name}")
    interactive = options["interactive"]
    foreground = not options.get("detach", False)
    exposed = [port for text in options["expose"] for port in parse_expose(text)]
    ports: dict[str, Any] = {port: {} for port in [*exposed, *_bindings(options)]}
    return ContainerConfig(
        hostname=options["hostname"] or "",
        domainname=options["domainname"] or "",
        user=options["user"] or "",
        attach_stdin=(interactive and foreground) if not attach else "stdin" in attach,
        attach_stdout=foreground if not attach else "stdout" in attach,
        attach_stderr=foreground if not attach else "stderr" in attach,
        exposed_ports=ports or None,
        tty=options["tty"],
        open_stdin=interactive,
        stdin_once=interactive and foreground,
        env=environment(options),
        cmd=command or None,
        image=image,
        volumes={v: {} for v in options["volume"] if ":" not in v} or None,
        working_dir=options["workdir"] or "",
        entrypoint=None if options["entrypoint"] is None else ([options["entrypoint"]] if options["entrypoint"] else [""]),
        labels=_labels(options),
        healthcheck=_health(options),
        stop_signal=options["stop_signal"],
        stop_timeout=options["stop_timeout"],
    )


def _bindings(options: Options) -> Bindings:
    result: Bindings = {}
    for text in options["publish"]:
        merge(result, parse_publish(text))
    return result


def parse_ulimit(text: str) -> HostConfigUlimits:
    """`nofile=1024:2048`."""
    name, _, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        return HostConfigUlimits(name=name, soft=int(soft), hard=int(hard) if colon else int(soft))
    except ValueError:
        raise InvalidArgument(f"invalid ulimit argument: {text}: give type=soft[:hard], such as nofile=1024:2048") from None


def parse_device(text: str) -> DeviceMapping:
    """`/dev/a[:/dev/b][:rwm]`."""
    parts = text.split(":")
    source, target, permissions = parts[0], parts[0], "rwm"
    if len(parts) == 2 and set(parts[1]) <= set("rwm") and parts[1]:
        permissions = parts[1]
    elif len(parts) >= 2:
        target = parts[1]
        permissions = parts[2] if len(parts) > 2 else permissions
    return DeviceMapping(path_on_host=source, path_in_container=target, cgroup_permissions=permissions)


def _throttle(entries: tuple[str, ...], bytes_: bool) -> list[ThrottleDevice] | None:
    result = []
    for entry in entries:
        path, colon, rate = entry.rpartition(":")
        if not colon or not path.startswith("/dev/"):
            raise InvalidArgument(f"bad format for path: {entry}: give /dev/name:rate")
        result.append(ThrottleDevice(path=path, rate=parse_size(rate) if bytes_ else number(rate, "--device-iops")))
    return result or None


def parse_restart(text: str | None) -> RestartPolicy:
    """`no`, `always`, `unless-stopped`, `on-failure[:n]`."""
    name, colon, count = (text or "no").partition(":")
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise InvalidArgument(f"invalid restart policy '{text}': use no, always, unless-stopped or on-failure[:times]")
    try:
        return RestartPolicy(name=name, maximum_retry_count=int(count) if colon else 0)
    except ValueError:
        raise InvalidArgument(f"invalid restart policy '{text}': the maximum retry count must be a number") from None


def memory_swap(text: str | None) -> int | None:
    """Bytes, -1 for no limit, None when the flag is not given."""
    if text is None:
        return None
    return -1 if text == "-1" else parse_size(text)


def _security(entries: tuple[str, ...]) -> list[str] | None:
    """A seccomp profile is sent as its content."""
    result = []
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not separator:
            key, separator, value = entry.partition(":")
        if key == "seccomp" and value not in ("unconfined", "builtin", ""):
            try:
                with open(value, encoding="utf-8") as file:
                    entry = "seccomp=" + msgspec.json.encode(msgspec.json.decode(file.read())).decode()
            except OSError as error:
                raise InvalidArgument(
                    f"opening seccomp profile ({value}) failed: {os.strerror(error.errno or 0).lower()}"
                ) from error
            except msgspec.MsgspecError as error:
                raise InvalidArgument(f"seccomp profile {value} is not JSON: {error}") from error
        result.append(entry)
    return result or None


def _resources(options: Options, target: HostConfig) -> None:
    target.memory = parse_size(options["memory"]) if options["memory"] else None
    target.memory_reservation = parse_size(options["memory_reservation"]) if options["memory_reservation"] else None
    target.memory_swap = memory_swap(options["memory_swap"])
    target.memory_swappiness = options["memory_swappiness"]
    target.oom_kill_disable = options["oom_kill_disable"] or None
    target.oom_score_adj = options["oom_score_adj"]
    target.nano_cpus = cpus(options["cpus"]) if options["cpus"] else None
    target.cpu_shares, target.cpu_period, target.cpu_quota = options["cpu_shares"], options["cpu_period"], options["cpu_quota"]
    target.cpu_realtime_period, target.cpu_realtime_runtime = options["cpu_rt_period"], options["cpu_rt_runtime"]
    target.cpuset_cpus, target.cpuset_mems = options["cpuset_cpus"], options["cpuset_mems"]
    target.pids_limit = options["pids_limit"]
    target.blkio_weight = options["blkio_weight"]
    weights = [e.rpartition(":") for e in options["blkio_weight_device"]]
    target.blkio_weight_device = [
        HostConfigBlkioWeightDevice(path=p, weight=number(w, "--blkio-weight-device")) for p, _, w in weights
    ] or None
    target.blkio_device_read_bps = _throttle(options["device_read_bps"], True)
    target.blkio_device_write_bps = _throttle(options["device_write_bps"], True)
    target.blkio_device_read_iops = _throttle(options["device_read_iops"], False)
    target.blkio_device_write_iops = _throttle(options["device_write_iops"], False)
    target.ulimits = [parse_ulimit(text) for text in options["ulimit"]] or None


def host_config(options: Options) -> HostConfig:
    """The half that depends on the host."""
    network = options["network"][0].split(",")[0].removeprefix("name=") if options["network"] else "default"
    target = HostConfig(
        binds=[absolute_bind(v) for v in options["volume"] if ":" in v] or None,
        network_mode=network,
        port_bindings=_bindings(options) or None,
        restart_policy=parse_restart(options["restart"]),
        auto_remove=options["rm"] or None,
        volume_driver=options["volume_driver"],
        volumes_from=list(options["volumes_from"]) or None,
        mounts=[parse_mount(text) for text in options["mount"]] or None,
        tmpfs=dict(parse_tmpfs(text) for text in options["tmpfs"]) or None,
        annotations=pairs(options["annotation"]) or None,
        cap_add=list(options["cap_add"]) or None,
        cap_drop=list(options["cap_drop"]) or None,
        cgroupns_mode=options["cgroupns"],
        dns=list(options["dns"]) or None,
        dns_options=list(options["dns_option"]) or None,
        dns_search=list(options["dns_search"]) or None,
        extra_hosts=list(options["add_host"]) or None,
        group_add=list(options["group_add"]) or None,
        ipc_mode=options["ipc"],
        links=list(options["link"]) or None,
        pid_mode=options["pid"],
        privileged=options["privileged"] or None,
        publish_all_ports=options["publish_all"] or None,
        readonly_rootfs=options["read_only"] or None,
        security_opt=_security(options["security_opt"]),
        storage_opt=pairs(options["storage_opt"]) or None,
        uts_mode=options["uts"],
        userns_mode=options["userns"],
        shm_size=parse_size(options["shm_size"]) if options["shm_size"] else None,
        sysctls=pairs(options["sysctl"]) or None,
        runtime=options["runtime"],
        isolation=options["isolation"],
        init=options["init"] or None,
        cgroup_parent=options["cgroup_parent"],
        devices=[parse_device(text) for text in options["device"]] or None,
        device_cgroup_rules=list(options["device_cgroup_rule"]) or None,
    )
    if options["log_driver"] or options["log_opt"]:
        target.log_config = HostConfigLogConfig(type=options["log_driver"] or "", config=pairs(options["log_opt"]))
    if options["rm"] and (target.restart_policy and target.restart_policy.name not in ("no", None)):
        raise InvalidArgument("conflicting options: cannot specify both --restart and --rm")
    _resources(options, target)
    return target


def _endpoint(spec: str, options: Options, first: bool) -> tuple[str, EndpointSettings]:
    fields = spec.split(",")
    name, settings, ipam, aliases = fields[0].removeprefix("name="), EndpointSettings(), EndpointIPAMConfig(), []
    for part in fields[1:]:
        key, _, value = part.partition("=")
        match key:
            case "alias":
                aliases.append(value)
            case "ip":
                ipam.ipv4_address = value
            case "ip6":
                ipam.ipv6_address = value
            case "mac-address":
                settings.mac_address = value
            case "gw-priority":
                settings.gw_priority = number(value, "--network gw-priority")
            case "driver-opt":
                settings.driver_opts = (settings.driver_opts or {}) | pairs([value])
            case _:
                raise InvalidArgument(f"invalid field key {key} for --network")
    if first:
        aliases += options["network_alias"]
        ipam.ipv4_address = options["ip"] or ipam.ipv4_address
        ipam.ipv6_address = options["ip6"] or ipam.ipv6_address
        ipam.link_local_ips = list(options["link_local_ip"]) or None
        settings.mac_address = options["mac_address"] or settings.mac_address
    settings.aliases = aliases or None
    settings.ipam_config = ipam if ipam != EndpointIPAMConfig() else None
    return name, settings


def networking_config(options: Options) -> NetworkingConfig:
    """Endpoint settings by network name."""
    specs = list(options["network"]) or ["default"]
    endpoints = dict(_endpoint(spec, options, index == 0) for index, spec in enumerate(specs))
    plain = {name: e for name, e in endpoints.items() if len(specs) > 1 or e != EndpointSettings()}
    return NetworkingConfig(endpoints_config=plain or None)


def create_body(options: Options, image: str, command: list[str]) -> dict[str, Any]:
    """The whole body."""
    body: dict[str, Any] = msgspec.to_builtins(config(options, image, command))
    body["HostConfig"] = msgspec.to_builtins(host_config(options))
    body["NetworkingConfig"] = msgspec.to_builtins(networking_config(options))
    return body
