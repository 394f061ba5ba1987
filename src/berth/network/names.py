"""The contents of a container's /etc/hosts and /etc/resolv.conf, and the names that DNS answers for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from berth.errors import InvalidArgument
from berth.model.identifier import short_id
from berth.network.host import is_address
from berth.network.record import ENDPOINT_NAME, ENDPOINT_SYSCTLS, NetworkRecord
from berth.wire.network import EndpointSettings

_INTERFACE = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,14}\Z")
RESOLVER_ADDRESS = "127.0.0.11"
HOST_GATEWAY = "host-gateway"


def dns_names(name: str, container_id: str, hostname: str, wish: EndpointSettings) -> tuple[str, ...]:
    """What a container is called in a user-defined network: name, aliases, short id, host name; each once, in this order."""
    found = [name, *(wish.aliases or []), short_id(container_id), *([hostname] if hostname else [])]
    return tuple(dict.fromkeys(n for n in found if n))


def parse_links(links: Iterable[str] | None) -> list[tuple[str, str]]:
    """`name`, `name:alias` or Docker's stored form `/name:/container/alias`, as (name or id, alias)."""
    found = []
    for link in links or []:
        target, _, alias = link.partition(":")
        target = target.removeprefix("/")
        alias = alias.rpartition("/")[2] or target
        if not target:
            raise InvalidArgument(f"bad format for links: {link}")
        found.append((target, alias))
    return found


def parse_extra_hosts(entries: Iterable[str] | None, gateway: str) -> list[tuple[str, str]]:
    """`name:address` or `name=address` as (address, name); host-gateway is the address at which containers reach the host."""
    found = []
    for entry in entries or []:
        separator = "=" if "=" in entry and ("=" not in entry.partition(":")[2] or ":" not in entry) else ":"
        name, _, address = entry.partition(separator)
        address = address.strip("[]")
        if address == HOST_GATEWAY:
            if not gateway:
                raise InvalidArgument(f"invalid extra host {entry!r}: there is no gateway to reach the host by")
            address = gateway
        if not name or not is_address(address):
            raise InvalidArgument(f"bad format for add-host: {entry!r}: write it as name:address")
        found.append((address, name))
    return found


def hosts_file(extra: Sequence[tuple[str, str]], own: Sequence[tuple[str, str]], *, ipv6: bool) -> str:
    """/etc/hosts: the loopback, what the user added, then the container's own names. Pairs are (address, names)."""
    lines = ["127.0.0.1\tlocalhost"]
    if ipv6:
        lines += ["::1\tlocalhost ip6-localhost ip6-loopback", "fe00::\tip6-localnet", "ff00::\tip6-mcastprefix"]
        lines += ["ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters"]
    lines += [f"{address}\t{names}" for address, names in [*extra, *own]]
    return "\n".join(lines) + "\n"


def own_names(hostname: str, domainname: str) -> str:
    """How a container calls itself in /etc/hosts."""
    if domainname:
        return f"{hostname}.{domainname} {hostname}"
    if "." in hostname:
        return f"{hostname} {hostname.partition('.')[0]}"
    return hostname


def resolv_conf(servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> str:
    """/etc/resolv.conf."""
    lines = [f"nameserver {server}" for server in servers]
    wanted = [domain for domain in search if domain not in (".", "")]
    if wanted:
        lines.append("search " + " ".join(wanted))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def embedded_options(host: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """The options beside 127.0.0.11: those asked for instead of the host's, with ndots:0 unless ndots was asked for, so
    that a container's bare name is tried as it is."""
    chosen = list(asked) if asked else [o for o in host if not o.startswith("ndots:")]
    return chosen if any(o.startswith("ndots:") for o in chosen) else [*chosen, "ndots:0"]


def interface_name(wish: EndpointSettings) -> str:
    """The interface name that an endpoint asks for, "" for the usual ethN."""
    name = (wish.driver_opts or {}).get(ENDPOINT_NAME, "")
    if name and not _INTERFACE.match(name):
        raise InvalidArgument(
            f"invalid interface name {name!r} in {ENDPOINT_NAME}: 1 to 15 letters, digits, dashes and underscores"
        )
    return name


def interface_sysctls(wish: EndpointSettings, interface: str) -> dict[str, str]:
    """The sysctls that an endpoint asks for, `net.ipv4.conf.IFNAME.log_martians=1,...`, with the name put in."""
    found: dict[str, str] = {}
    for entry in (wish.driver_opts or {}).get(ENDPOINT_SYSCTLS, "").split(","):
        if not entry:
            continue
        key, equals, value = entry.partition("=")
        parts = key.split(".")
        if (
            not equals
            or len(parts) != 5
            or parts[0] != "net"
            or parts[3] != "IFNAME"
            or not all(p.replace("_", "").isalnum() for p in parts)
        ):
            raise InvalidArgument(
                f"invalid sysctl {entry!r} in {ENDPOINT_SYSCTLS}: write it as net.<protocol>.<group>.IFNAME.<name>=value"
            )
        found[".".join([*parts[:3], interface, parts[4]])] = value
    return found


def gateway_order(networks: Iterable[tuple[NetworkRecord, EndpointSettings]]) -> list[NetworkRecord]:
    """The networks that may give the default route, best first: higher priority, then by name."""
    fit = [(-(wish.gw_priority or 0), n.name, n) for n, wish in networks if not n.internal and any(p.gateway for p in n.pools)]
    return [network for _, _, network in sorted(fit, key=lambda entry: entry[:2])]
