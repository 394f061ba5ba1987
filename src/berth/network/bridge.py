"""Bridges: made, adopted when they are there already, and removed. Idempotent; kernel work only."""

from __future__ import annotations

import errno
from ipaddress import ip_network

from berth.errors import Conflict
from berth.kernel import netlink
from berth.network.host import write_sysctl
from berth.network.record import DRIVER_MTU, INHIBIT_IPV4, NetworkRecord


def device_name(engine_id: str, network_id: str, *, is_default_engine: bool) -> str:
    """The bridge of a network: berth-<8 digits>, or b<engine id>-<5 digits> for another engine; at most 15 bytes."""
    return f"berth-{network_id[:8]}" if is_default_engine else f"b{engine_id}-{network_id[:5]}"


def default_device_name(engine_id: str, *, is_default_engine: bool) -> str:
    """The bridge of the default network."""
    return "berth0" if is_default_engine else f"b{engine_id}-0"


def device_pattern(engine_id: str, *, is_default_engine: bool) -> str:
    """What matches all of an engine's bridges in a firewall rule."""
    return "berth*" if is_default_engine else f"b{engine_id}-*"


def gateway_addresses(record: NetworkRecord) -> list[str]:
    """The bridge's own addresses with prefix length."""
    hidden = {False: record.option(INHIBIT_IPV4, False), True: False}
    own = [pool for pool in record.pools if pool.gateway and not hidden[pool.is_v6]]
    return [f"{pool.gateway}/{ip_network(pool.subnet).prefixlen}" for pool in own]


def network_mtu(record: NetworkRecord, default: int) -> int:
    """What the user asked for, else the default."""
    text = record.options.get(DRIVER_MTU, "")
    return int(text) if text.isdigit() and int(text) else default


def ensure(record: NetworkRecord, mtu: int) -> None:
    """Make the bridge of a network, or bring the one that is there into the right state. Conflict when a link of that name is
    something else."""
    name = record.device
    found = netlink.link(name)
    if found is None:
        mac = "02:42:" + bytes.fromhex(record.id[:8]).hex(":")
        netlink.create_bridge(name, mac, mtu)
    elif found["kind"] != "bridge":
        raise Conflict(f"network {record.name}: the link {name} is no bridge: rename it or choose another bridge name")
    _settings(name, ipv6=record.enable_ipv6)
    for address in gateway_addresses(record):
        netlink.add_address(name, address)
    netlink.set_link(name, True)


def _settings(name: str, *, ipv6: bool) -> None:
    slashed = name.replace(".", "/")
    # Needed to publish to the host's own 127.0.0.1; the firewall keeps containers from using it the other way round.
    write_sysctl(f"net.ipv4.conf.{slashed}.route_localnet", "1")
    try:
        # A container must not turn the host's routes with a router advertisement.
        write_sysctl(f"net.ipv6.conf.{slashed}.accept_ra", "0")
        # The kernel would not ask for neighbours before its own link-local address has been checked, which takes a second.
        write_sysctl(f"net.ipv6.conf.{slashed}.accept_dad", "0")
        # Without IPv6 in the network the bridge has no link-local address either: a way to the host that nobody asked for.
        write_sysctl(f"net.ipv6.conf.{slashed}.disable_ipv6", "0" if ipv6 else "1")
    except FileNotFoundError:
        pass


def remove(name: str) -> None:
    """Remove a bridge. Idempotent."""
    try:
        netlink.delete_link(name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
