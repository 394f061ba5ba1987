"""NetworkSettings of a container, as inspect shows them."""

from __future__ import annotations

from operator import is_

from berth.contract.network import ContainerFacts
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_definition import gateway, prefix_length
from berth.engine.network_wish import wanted
from berth.errors import NotFound
from berth.network.port import parse_port
from berth.network.record import Endpoint, NetworkRecord
from berth.wire.network import EndpointSettings, NetworkSettings, PortBinding


class NetworkView:
    """Describes the networks of containers. What was said of a container is kept until something that it was made of is another
    one: records and rows are replaced, never changed, so that looking for that is enough; a list asks it of every container."""

    def __init__(self, catalog: NetworkCatalog) -> None:
        self._catalog = catalog
        self._kept: dict[str, tuple[tuple[object, ...], NetworkSettings]] = {}

    def settings(self, facts: ContainerFacts) -> NetworkSettings:
        """Live addresses and ports while the container runs, the wishes otherwise. Not to be changed by who asks."""
        catalog = self._catalog
        rows, ports = catalog.of_container(facts.id), catalog.ports.get(facts.id, ())
        made_of = (catalog.edition, facts.config, facts.host_config, facts.endpoints, *rows.values(), *ports)
        kept = self._kept.get(facts.id)
        if kept is not None and len(kept[0]) == len(made_of) and all(map(is_, kept[0], made_of)):
            return kept[1]
        found = _settings(catalog, facts)
        self._kept[facts.id] = (made_of, found)
        return found

    def forget(self, container_id: str) -> None:
        """The container is removed."""
        self._kept.pop(container_id, None)


def _settings(catalog: NetworkCatalog, facts: ContainerFacts) -> NetworkSettings:
    rows = catalog.of_container(facts.id)
    running = any(row.live for row in rows.values())
    try:
        networks = wanted(catalog, facts)
    except NotFound:
        networks = []
    shown = {network.name: endpoint_settings(network, wish, rows.get(network.id)) for network, wish in networks}
    for reference, wish in facts.endpoints.items():
        # A network that has gone is shown as it was asked for.
        if not networks and reference not in shown:
            shown[reference] = wish
    sandbox = next((row.id for row in rows.values() if row.live), "")
    return NetworkSettings(
        sandbox_id=sandbox, ports=_ports(catalog, facts) if running else {}, networks=shown
    )  # fmt: skip


def _ports(catalog: NetworkCatalog, facts: ContainerFacts) -> dict[str, list[PortBinding] | None]:
    exposed = {parse_port(port) for port in [*(facts.config.exposed_ports or {}), *(facts.host_config.port_bindings or {})]}
    found: dict[str, list[PortBinding] | None] = {f"{number}/{protocol}": None for number, protocol in sorted(exposed)}
    for port in (port for port in catalog.ports.get(facts.id, []) if port.target):
        bindings = found.get(f"{port.target_port}/{port.protocol}") or []
        shown = PortBinding(host_ip=port.address, host_port=str(port.port))
        if port.routed:
            # Docker's sign for a port that is open by the container's own address.
            shown = PortBinding(host_ip="::" if ":" in port.target else "0.0.0.0", host_port="")
        found[f"{port.target_port}/{port.protocol}"] = [*bindings, shown]
    return found


def endpoint_settings(network: NetworkRecord, wish: EndpointSettings, row: Endpoint | None) -> EndpointSettings:
    """One endpoint, with what exists of it. Every field is written, as Docker does: clients index them."""
    live = row.live if row else None
    return EndpointSettings(
        ipam_config=wish.ipam_config,
        links=wish.links,
        mac_address=live.mac if live else (wish.mac_address or ""),
        aliases=wish.aliases,
        driver_opts=wish.driver_opts,
        gw_priority=wish.gw_priority or 0,
        network_id=network.id,
        endpoint_id=row.id if row and live else "",
        gateway=gateway(network, v6=False) if live else "",
        ip_address=live.ipv4 if live else "",
        ip_prefix_len=prefix_length(network, live.ipv4) if live else 0,
        ipv6_gateway=gateway(network, v6=True) if live else "",
        global_ipv6_address=live.ipv6 if live else "",
        global_ipv6_prefix_len=prefix_length(network, live.ipv6) if live else 0,
        dns_names=list(live.names) if live and live.names else None,
    )
