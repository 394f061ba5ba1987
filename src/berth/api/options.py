"""The options of `berthd`, and the configuration that they come to."""

from __future__ import annotations

import argparse
import os
import resource
from ipaddress import IPv4Address
from typing import Any

from berth.api.config_file import DEFAULT_FILE, from_file
from berth.api.host import check_exposure, parse_host
from berth.engine.config import DEFAULT_ROOT, DEFAULT_SLOTS, DEFAULT_SOCKET, MOST_SLOTS, EngineConfig, TlsSettings, Ulimit
from berth.engine.containers.logdriver import check_log_config
from berth.engine.runtimes import parse_additions
from berth.engine.storage_options import default_size
from berth.errors import InvalidArgument
from berth.model.extension import EXTENSIONS, PREFIX
from berth.model.extension import read as read_extensions
from berth.model.units import parse_size
from berth.model.version import VERSION
from berth.network.ipam import parse_base
from berth.registry.endpoint import split_mirror
from berth.wire.container import HostConfigLogConfig


def parse_switch(text: str) -> bool:
    """true, false and their short forms. ArgumentTypeError."""
    if text.lower() not in ("true", "1", "t", "false", "0", "f"):
        raise argparse.ArgumentTypeError(f"{text}: give true or false")
    return text.lower() in ("true", "1", "t")


# --tls, --tls=true, --tls=false; None when it is not given.
_SWITCH: dict[str, Any] = {"nargs": "?", "const": True, "default": None, "type": parse_switch, "metavar": "true|false"}


def parse_ulimit(text: str) -> Ulimit:
    """nofile=1024:4096; -1 is unlimited. ArgumentTypeError when it is not of that form."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        limit = Ulimit(name, int(soft), int(hard or soft))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: give it as name=soft or name=soft:hard, for example nofile=1024:4096"
        ) from None
    if not hasattr(resource, "RLIMIT_" + name.upper()):
        raise argparse.ArgumentTypeError(f"{text}: there is no ulimit {name}")
    if limit.hard >= 0 and not 0 <= limit.soft <= limit.hard:
        raise argparse.ArgumentTypeError(f"{text}: the soft limit must be less than or equal to the hard limit")
    return limit


def parse_limit(text: str) -> int:
    """512m, 20g; 0 is none. ArgumentTypeError when it is not of that form."""
    try:
        return parse_size(text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(error.message) from None


def parse_mirror(text: str) -> str:
    """https://mirror, or registry.example.com=https://mirror. ArgumentTypeError when it is not of that form."""
    try:
        split_mirror(text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(error.message) from None
    return text


def parse_group(text: str) -> str:
    """A path in the control groups, /groups/berth. ArgumentTypeError when it leads out of them."""
    if {"..", "."} & set(text.split("/")):
        raise argparse.ArgumentTypeError(f"{text}: give a path like /groups/berth, without . and ..")
    return text


def _add_general(parser: argparse.ArgumentParser) -> None:
    """Where the engine lives, and what it says."""
    parser.add_argument("--root", default=DEFAULT_ROOT, help="directory of images, containers and volumes (%(default)s)")
    parser.add_argument("--socket", default=DEFAULT_SOCKET, help="unix socket of the API (%(default)s)")
    parser.add_argument(
        "-H", "--host", action="append", default=[], metavar="HOST", help="listen there too: unix:///path, tcp://address:port"
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help=f"options, as JSON ({DEFAULT_FILE}, if it is there)")
    parser.add_argument("--group", default="", metavar="GROUP", help="group of the unix sockets (berth, if there is one)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=f"berthd {VERSION}")


def _add_tls(parser: argparse.ArgumentParser) -> None:
    """Certificates of the API on TCP; the names and places are dockerd's."""
    folder = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    parser.add_argument("--tls", **_SWITCH, help="use TLS on tcp:// hosts")
    parser.add_argument("--tlsverify", **_SWITCH, help="use TLS, and answer only clients with a certificate of the CA")
    for name, file in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
        parser.add_argument(f"--{name}", default=f"{folder}/{file}", metavar="FILE", help="%(default)s")


def _listening(options: argparse.Namespace) -> dict[str, Any]:
    """hosts, tls and group of the configuration. InvalidArgument for hosts that anybody could use."""
    wanted = bool(options.tls or options.tlsverify)
    hosts = tuple(dict.fromkeys(parse_host(text, tls=wanted) for text in options.host))
    check_exposure(hosts, tls=options.tls, verify=options.tlsverify)
    files = (os.path.abspath(path) for path in (options.tlscacert, options.tlscert, options.tlskey))
    ca, certificate, key = files
    tls = TlsSettings(ca=ca, certificate=certificate, key=key, verify=bool(options.tlsverify)) if wanted else None
    return {"hosts": hosts, "tls": tls, "group": options.group}


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Registries, builds, archives."""
    parser.add_argument(
        "--registry-mirror",
        action="append",
        default=[],
        type=parse_mirror,
        metavar="[REGISTRY=]URL",
        help="ask this mirror before the registry (Docker Hub)",
    )
    parser.add_argument(
        "--insecure-registry", action="append", default=[], metavar="HOST", help="speak plain HTTP to this registry"
    )
    parser.add_argument(
        "--build-host-network-settings",
        choices=("auto", "on", "off"),
        default="on" if os.environ.get("BERTH_BUILD_HOST_NETWORK_SETTINGS") == "1" else "auto",
        help="let RUN steps of builds use this host's CA bundle and package mirrors (%(default)s)",
    )
    parser.add_argument(
        "--expansion-limit",
        type=parse_limit,
        default=0,
        metavar="SIZE",
        help="the most that one compressed archive may expand to; 0: any size",
    )
    parser.add_argument(
        "--expansion-ratio",
        type=int,
        default=4096,
        metavar="N",
        help="refuse archives that expand to more than 4 GiB and to N times their size (%(default)s); 0: never",
    )


def parse_pool(text: str) -> tuple[str, int]:
    """base=10.1.0.0/16,size=24. ArgumentTypeError when it is not of that form."""
    try:
        return parse_base(text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _add_networks(parser: argparse.ArgumentParser) -> None:
    """Addresses of networks that name none."""
    parser.add_argument("--ipv6", action="store_true", help="give the default network an IPv6 subnet too")
    parser.add_argument(
        "--default-address-pool",
        action="append",
        default=[],
        type=parse_pool,
        metavar="base=CIDR,size=N",
        help="take the subnets of networks from there, instead of from the private ranges that are free",
    )


def _add_containers(parser: argparse.ArgumentParser) -> None:
    """What containers get that do not ask for something else."""
    parser.add_argument(
        "--userns-fallback",
        choices=("warn", "refuse"),
        default="warn",
        help="what to do when an option needs the host's user namespace (%(default)s)",
    )
    parser.add_argument(
        "--cgroup-parent",
        default="",
        type=parse_group,
        metavar="PATH",
        help="control group that the containers' groups are made in (default: the top)",
    )
    parser.add_argument(
        "--storage-opt",
        action="append",
        default=[],
        metavar="size=SIZE",
        help="what the writable layer of a container may take up that names no size (needs project quotas; default: any size)",
    )
    parser.add_argument(
        "--default-ulimit",
        action="append",
        default=[],
        type=parse_ulimit,
        metavar="NAME=SOFT[:HARD]",
        help="resource limit of containers that do not set it themselves",
    )


def _add_logs(parser: argparse.ArgumentParser) -> None:
    """What becomes of containers' output."""
    parser.add_argument(
        "--log-driver",
        choices=("json-file", "local", "none"),
        default="json-file",
        help="of containers that name none (%(default)s)",
    )
    parser.add_argument(
        "--log-opt",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for containers with that driver: max-size (10m), max-file (3), compress (false) ...",
    )
    parser.add_argument(
        "--log-cap",
        type=parse_limit,
        default=0,
        metavar="SIZE",
        help="the most that all logs together may take: the oldest rotated files of the largest go first; 0: no cap",
    )


def parse_log_options(driver: str, entries: list[str]) -> dict[str, str]:
    """InvalidArgument for what no container could be created with."""
    options = dict(entry.partition("=")[::2] for entry in entries)
    try:
        check_log_config(HostConfigLogConfig(type=driver, config=options))
    except InvalidArgument as error:
        raise InvalidArgument(f"--log-opt: {error.message}") from None
    return options


def parse_address(text: str) -> str:
    """An IPv4 address. ArgumentTypeError."""
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: give an IPv4 address, for example 127.0.0.1") from None


def _add_exposure(parser: argparse.ArgumentParser) -> None:
    """Whom published ports are open to."""
    parser.add_argument(
        "--publish-address",
        "--ip",
        type=parse_address,
        metavar="ADDRESS",
        help="where ports are published that name no address, such as 127.0.0.1 (default: all addresses)",
    )
    parser.add_argument(
        "--respect-host-firewall",
        action="store_true",
        help="accept connections to published ports on the host, where its own firewall (ufw, firewalld, INPUT) decides; "
        "containers then see the host as their client",
    )
    parser.add_argument(
        "--warn-exposure", action="store_true", help="warn at `run` and `create` of ports that others than this host reach"
    )


def _add_extensions(parser: argparse.ArgumentParser) -> None:
    """What berth does beyond Docker, for containers without a label of their own."""
    for extension in EXTENSIONS:
        parser.add_argument(
            f"--{extension.name}",
            default=None,
            metavar=extension.metavar,
            help=f"{extension.help}; for containers without the label {PREFIX}{extension.name}",
        )


def _extensions(options: argparse.Namespace) -> dict[str, str]:
    given = {e.name: getattr(options, e.field) for e in EXTENSIONS}
    found = {name: text for name, text in given.items() if text is not None}
    read_extensions(found, "--")
    return found


def _add_launches(parser: argparse.ArgumentParser) -> None:
    """What runs containers, and how fast."""
    parser.add_argument(
        "--add-runtime", action="append", default=[], metavar="NAME=PATH", help="another OCI runtime's binary, for --runtime NAME"
    )
    parser.add_argument("--default-runtime", default="berth", metavar="NAME", help="of containers that name none (%(default)s)")
    parser.add_argument("--no-new-privileges", action="store_true", help="set no-new-privileges for all new containers")
    parser.add_argument(
        "--pool-size",
        type=int,
        choices=range(MOST_SLOTS + 1),
        default=DEFAULT_SLOTS,
        metavar="N",
        help=f"how many containers to keep prepared, 0 to {MOST_SLOTS} (%(default)s)",
    )
    parser.add_argument("--trace", default="", metavar="FILE", help="append the phases of every launch to a file, as JSON lines")


def parse_options(arguments: list[str]) -> tuple[EngineConfig, str]:
    """The configuration and the log level."""
    parser = argparse.ArgumentParser(
        prog="berthd", description="The berth engine: serves the Docker Engine API on a unix socket, and on TCP."
    )
    groups = (_add_general, _add_tls, _add_images, _add_networks, _add_containers)
    for add in (*groups, _add_logs, _add_exposure, _add_extensions, _add_launches):
        add(parser)
    path = parser.parse_known_args(arguments)[0].config_file
    known = {name for action in parser._actions for name in action.option_strings}
    options = parser.parse_args([*from_file(path or DEFAULT_FILE, known, required=bool(path)), *arguments])
    config = EngineConfig(
        root=os.path.abspath(options.root),
        socket=os.path.abspath(options.socket),
        **_listening(options),
        registry_mirrors=tuple(options.registry_mirror),
        insecure_registries=tuple(options.insecure_registry),
        build_host_network_settings=options.build_host_network_settings,
        userns_fallback=options.userns_fallback,
        cgroup_parent=options.cgroup_parent,
        storage_size=default_size(options.storage_opt),
        default_ulimits=tuple(options.default_ulimit),
        ipv6=options.ipv6,
        address_pools=tuple(options.default_address_pool),
        expansion_limit=options.expansion_limit,
        expansion_ratio=options.expansion_ratio,
        runtimes=parse_additions(options.add_runtime),
        default_runtime=options.default_runtime,
        no_new_privileges=options.no_new_privileges,
        extensions=_extensions(options),
        publish_address=options.publish_address or "",
        warn_exposure=options.warn_exposure,
        respect_host_firewall=options.respect_host_firewall,
        log_driver=options.log_driver,
        log_options=parse_log_options(options.log_driver, options.log_opt),
        log_cap=options.log_cap,
        pool_size=options.pool_size,
        trace=os.path.abspath(options.trace) if options.trace else "",
    )
    return config, options.log_level
