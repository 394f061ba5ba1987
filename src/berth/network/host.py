"""What the host's own network looks like: its subnets, its way out, its resolvers; and the switches that containers need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from berth.kernel import netlink
from berth.network.ipam import Subnet

RESOLV_CONF = "/etc/resolv.conf"
# Where the real servers are when resolv.conf names a stub on the loopback (systemd-resolved, NetworkManager).
UPSTREAM_FILES = (
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/NetworkManager/resolv.conf",
)


def subnets_in_use() -> list[Subnet]:
    """Subnets that the host has routes to or addresses in, and those of its resolvers; not the default route."""
    found: list[Subnet] = []
    texts = [destination for destination, _, _ in netlink.routes()] + [address for _, address in netlink.addresses()]
    for text in dict.fromkeys(texts):
        net = ip_network(text, strict=False)
        if net.prefixlen:
            found.append(net)
    return found + [ip_network(server) for server in read_resolv_conf(RESOLV_CONF)[0]]


def has_ipv6() -> bool:
    """Whether the calling thread's network namespace speaks IPv6."""
    return _read("/proc/sys/net/ipv6/conf/all/disable_ipv6") == "0"


def uplink() -> tuple[str, int] | None:
    """Name and MTU of the link of the default route; None without one."""
    for destination, _, index in sorted(netlink.routes()):
        if destination in ("0.0.0.0/0", "::/0") and index and (link := netlink.link(index)):
            return str(link["name"]), int(link["mtu"])
    return None


def default_mtu() -> int:
    """The MTU of the way out, so that what leaves a container fits; 1500 without one."""
    found = uplink()
    return found[1] if found else 1500


def write_sysctl(key: str, value: str) -> None:
    """Set a sysctl of the calling thread's network namespace. Dots in an interface name are written as slashes."""
    path = "/proc/sys/" + "/".join(part.replace("/", ".") for part in key.split("."))
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def enable_forwarding(*, ipv6: bool) -> None:
    """Let the host route. Links that learn their IPv6 routes from advertisements go on doing so (2 instead of 1)."""
    if _read("/proc/sys/net/ipv4/ip_forward") != "1":
        write_sysctl("net.ipv4.ip_forward", "1")
    if not ipv6 or not os.path.exists("/proc/sys/net/ipv6/conf/all/forwarding"):
        return
    if _read("/proc/sys/net/ipv6/conf/all/forwarding") == "1":
        return
    for name in os.listdir("/proc/sys/net/ipv6/conf"):
        path = f"/proc/sys/net/ipv6/conf/{name}/accept_ra"
        if name != "all" and _read(path) == "1":
            with open(path, "w", encoding="ascii") as file:
                file.write("2")
    write_sysctl("net.ipv6.conf.all.forwarding", "1")


def read_resolv_conf(path: str) -> tuple[list[str], list[str], list[str]]:
    """Name servers, search domains and options of a resolv.conf; empty lists when it cannot be read."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return servers, search, options
    for line in lines:
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and is_address(words[1].split("%")[0]):
            servers.append(words[1].split("%")[0])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return servers, search, options


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(server: str) -> bool:
    """Whether a name server is one that only the host itself reaches."""
    return ip_address(server).is_loopback


def reachable_servers(files: Sequence[str] = ()) -> list[str]:
    """The host's name servers that a container can reach, looking behind a stub on the loopback; may be empty."""
    for path in files or (RESOLV_CONF, *UPSTREAM_FILES):
        servers = [server for server in read_resolv_conf(path)[0] if not is_loopback(server)]
        if servers:
            return servers
    return []
