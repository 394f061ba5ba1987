"""What networks a container wants: its mode, the endpoints it was created with, and what connect and disconnect changed."""

from __future__ import annotations

from ipaddress import ip_address

from msgspec import structs

from berth.contract.network import Bindings, ContainerFacts
from berth.engine.network_catalog import NetworkCatalog
from berth.errors import Forbidden, InvalidArgument, NotFound
from berth.model.identifier import short_id
from berth.network import ipam
from berth.network.host import is_address
from berth.network.names import interface_name, interface_sysctls, parse_extra_hosts, parse_links
from berth.network.port import wishes as port_wishes
from berth.network.record import BRIDGE, HOST, NONE, NetworkRecord
from berth.wire.network import EndpointSettings

Wish = tuple[NetworkRecord, EndpointSettings]
_ALIASES_OF_DEFAULT = ("default", "")


def mode_of(facts: ContainerFacts) -> str:
    """bridge, host, none, container:<id>, or a network's name or id."""
    if facts.config.network_disabled:
        return NONE
    mode = facts.host_config.network_mode or ""
    return BRIDGE if mode in _ALIASES_OF_DEFAULT else mode


def with_ports(facts: ContainerFacts, bindings: Bindings) -> ContainerFacts:
    """The container, publishing these ports and no others."""
    host_config = structs.replace(facts.host_config, port_bindings=bindings, publish_all_ports=False)
    return structs.replace(facts, host_config=host_config)


def shares_namespace(mode: str) -> bool:
    """Whether the container has no network namespace of its own."""
    return mode == HOST or mode.startswith("container:")


def wanted(catalog: NetworkCatalog, facts: ContainerFacts) -> list[Wish]:
    """The networks of a container with what it asks of each: that of its mode first, the others by name. NotFound for one
    that does not exist."""
    mode = mode_of(facts)
    if mode.startswith("container:"):
        return []
    primary = catalog.find(mode)
    found: dict[str, EndpointSettings] = {primary.id: EndpointSettings()}
    for reference, settings in facts.endpoints.items():
        network = primary if reference in _ALIASES_OF_DEFAULT else _resolve(catalog, reference, settings)
        found[network.id] = settings or EndpointSettings()
    if primary.name in (HOST, NONE):
        found = {primary.id: found[primary.id]}
    for network_id, row in catalog.of_container(facts.id).items():
        if row.removed:
            found.pop(network_id, None)
        elif row.asked:
            found[network_id] = row.wish
    networks = [(catalog.networks[key], settings) for key, settings in found.items()]
    if len(networks) < 2:
        # Nearly all; a list of containers asks this of each.
        return networks
    return sorted(networks, key=lambda wish: (wish[0].id != primary.id, wish[0].name))


def _resolve(catalog: NetworkCatalog, reference: str, settings: EndpointSettings | None) -> NetworkRecord:
    try:
        return catalog.find(reference)
    except NotFound:
        # A network that was given by id may have been made anew under the same name, and the other way round.
        if settings and settings.network_id and settings.network_id in catalog.networks:
            return catalog.networks[settings.network_id]
        raise


def check_container(catalog: NetworkCatalog, facts: ContainerFacts) -> list[Wish]:
    """`wanted`, with everything checked that can be before the start, in Docker's words."""
    mode = mode_of(facts)
    host_config = facts.host_config
    ports = port_wishes(facts.config, host_config)
    parse_links(host_config.links)
    parse_extra_hosts(host_config.extra_hosts, "0.0.0.0")
    if mode.startswith("container:"):
        if not mode.removeprefix("container:"):
            raise InvalidArgument("invalid container format container:<name|id>")
        kind = "the container type network mode"
        undefined = "This would result in undefined behavior"
        if ports:
            raise InvalidArgument(f"conflicting options: port publishing and {kind}")
        if host_config.links:
            raise InvalidArgument(f"conflicting options: container type network can't be used with links. {undefined}")
        if host_config.dns:
            raise InvalidArgument("conflicting options: dns and the network mode")
        if host_config.extra_hosts:
            raise InvalidArgument("conflicting options: custom host-to-IP mapping and the network mode")
        return []
    if mode == HOST and host_config.links:
        raise InvalidArgument(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
        )
    networks = wanted(catalog, facts)
    for network, wish in networks:
        check_wish(network, wish)
    return networks


def check_wish(network: NetworkRecord, wish: EndpointSettings) -> None:
    """Whether a network can give what an endpoint asks for."""
    if network.config_only:
        raise Forbidden(f"cannot attach container to network {network.name}: it is a configuration-only network")
    asked = wish.ipam_config
    addresses = [a for a in (asked.ipv4_address, asked.ipv6_address) if a] if asked else []
    for address in link_local(wish):
        if not ip_address(address).is_link_local:
            raise InvalidArgument(f"invalid link-local IP address {address}: it is not in 169.254.0.0/16 or fe80::/10")
        if not network.has_links:
            raise InvalidArgument("user specified IP address is supported on user defined networks only")
    if wish.aliases and not is_user_defined(network):
        aliases = [a for a in wish.aliases if a]
        if aliases:
            raise InvalidArgument("network-scoped alias is supported only for containers in user defined networks")
    interface_sysctls(wish, interface_name(wish) or "eth0")
    if wish.mac_address:
        _check_mac(wish.mac_address)
    parse_links(wish.links)
    for version, given in ((4, asked.ipv4_address), (6, asked.ipv6_address)) if asked else ():
        if given and not is_address(given):
            raise InvalidArgument(f"invalid IPv{version} address: {given}")
    for address in addresses:
        if not is_user_defined(network):
            raise InvalidArgument("user specified IP address is supported on user defined networks only")
        if not network.chosen:
            raise InvalidArgument(
                f"invalid config for network {network.name}: invalid endpoint settings:\n"
                "user specified IP address is supported only when connecting to networks with user configured subnets"
            )
        if not any(ipam.contains(pool.subnet, address) for pool in network.pools):
            raise InvalidArgument(
                f"invalid config for network {network.name}: invalid endpoint settings:\n"
                f"no configured subnet contains IP address {address}"
            )


def link_local(wish: EndpointSettings) -> list[str]:
    """The link-local addresses that an endpoint asks for. InvalidArgument when one is no address."""
    found = [a for a in wish.ipam_config.link_local_ips or [] if a] if wish.ipam_config else []
    for address in found:
        if not is_address(address):
            raise InvalidArgument(f"invalid link-local IP address: {address}")
    return found


def _check_mac(mac: str) -> None:
    parts = mac.replace("-", ":").split(":")
    if len(parts) != 6 or any(len(p) != 2 or not all(c in "0123456789abcdefABCDEF" for c in p) for p in parts):
        raise InvalidArgument(f"invalid MAC address: {mac}")
    if int(parts[0], 16) & 1:
        raise InvalidArgument(f"invalid MAC address: {mac} is a multicast address")


def is_user_defined(network: NetworkRecord) -> bool:
    """Neither bridge nor host nor none: with names in DNS and addresses of the user's choice."""
    return not network.is_predefined


def completed(network: NetworkRecord, wish: EndpointSettings) -> EndpointSettings:
    """The wish as it is stored with a container."""
    return structs.replace(wish, network_id=network.id)


def hostname_of(facts: ContainerFacts) -> str:
    """What the container calls itself."""
    return facts.config.hostname or short_id(facts.id)
