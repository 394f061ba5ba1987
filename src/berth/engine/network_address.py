"""Addresses of containers: taken from a network's pools with what follows from them (MAC, names of the link), and given back."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from berth.contract.network import ContainerFacts
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_wish import hostname_of, is_user_defined
from berth.errors import BerthError
from berth.model.identifier import new_id
from berth.network import ipam
from berth.network.names import dns_names
from berth.network.record import IPVLAN, Endpoint, Live, NetworkRecord
from berth.wire.network import EndpointSettings


def take(
    catalog: NetworkCatalog,
    facts: ContainerFacts,
    network: NetworkRecord,
    wish: EndpointSettings,
    interface: str,
    *,
    resolver: bool,
    link: str = "",
) -> Live:
    """Addresses of the container in a network, with what follows from them. What was taken is given back when one is refused."""
    if not network.has_links:
        return Live(name=facts.name, mac="", interface="", resolver=resolver)
    asked = wish.ipam_config
    taken: dict[bool, str] = {}
    try:
        for pool in catalog.addresses(network):
            address = (asked.ipv6_address if pool.pool.is_v6 else asked.ipv4_address) if asked else None
            taken[pool.pool.is_v6] = pool.take(address or "")
    except BerthError:
        give(catalog, network, Live(name="", mac="", ipv4=taken.get(False, ""), ipv6=taken.get(True, "")))
        raise
    ipv4, ipv6 = taken.get(False, ""), taken.get(True, "")
    names = dns_names(facts.name, facts.id, hostname_of(facts), wish) if is_user_defined(network) else ()
    return Live(
        name=facts.name,
        mac=_mac(network, wish, ipv4, ipv6),
        ipv4=ipv4,
        ipv6=ipv6,
        interface=interface,
        host_name=link or f"veth{new_id()[:7]}",
        names=names,
        resolver=resolver,
    )


def _mac(network: NetworkRecord, wish: EndpointSettings, ipv4: str, ipv6: str) -> str:
    """What was asked for, else derived from the address. All ipvlan links have their parent's, which cannot be changed."""
    if network.driver == IPVLAN:
        return ""
    return (wish.mac_address or "").lower().replace("-", ":") or ipam.derive_mac(ipv4, ipv6)


def give(catalog: NetworkCatalog, record: NetworkRecord, entry: Live) -> None:
    """Give the addresses of an endpoint back. Idempotent."""
    for pool in catalog.addresses(record):
        for address in (entry.ipv4, entry.ipv6):
            if address and (":" in address) == pool.pool.is_v6:
                pool.give(address)


def drop_live(catalog: NetworkCatalog, rows: Iterable[Endpoint]) -> None:
    """Give the addresses back; keep of the rows only what a user asked for."""
    kept, gone = [], []
    for row in rows:
        record = catalog.networks.get(row.network_id)
        if record and row.live:
            give(catalog, record, row.live)
        if row.asked:
            kept.append(msgspec.structs.replace(row, live=None))
        else:
            gone.append(row)
    catalog.put_endpoints(kept)
    for row in gone:
        catalog.drop_endpoints(row.container_id, [row.network_id])


def parted(row: Endpoint) -> Endpoint:
    """What remains on record of an endpoint that was disconnected: that a later start shall not make it again."""
    return Endpoint(id="", container_id=row.container_id, network_id=row.network_id, removed=True)
