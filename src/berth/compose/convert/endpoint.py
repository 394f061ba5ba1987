"""How a container is attached to networks."""

from __future__ import annotations

from berth.compose.model import Network, Project, Service, ServiceNetwork
from berth.wire.network import IPAM, EndpointIPAMConfig, EndpointSettings, IPAMConfig


def endpoint(project: Project, service: Service, key: str, container: str, *, aliases: bool = True) -> EndpointSettings:
    """Settings for one network; `container` is the container's name. Without `aliases`, only those of the file (run)."""
    settings: ServiceNetwork = service.networks.get(key, ServiceNetwork())
    own = [container, service.name] if aliases else []
    ipam = None
    if settings.ipv4_address or settings.ipv6_address or settings.link_local_ips:
        ipam = EndpointIPAMConfig(
            ipv4_address=settings.ipv4_address,
            ipv6_address=settings.ipv6_address,
            link_local_ips=list(settings.link_local_ips) or None,
        )
    return EndpointSettings(
        aliases=list(dict.fromkeys([*own, *settings.aliases])),
        ipam_config=ipam,
        mac_address=settings.mac_address,
        driver_opts=dict(settings.driver_opts) or None,
        gw_priority=int(settings.gw_priority) or None,
        links=links(project, service) or None,
    )


def links(project: Project, service: Service) -> list[str]:
    """CONTAINER:ALIAS for links to services (their first container) and to containers outside."""
    found: list[str] = []
    for entry in service.links:
        name, _, alias = entry.partition(":")
        target = project.services.get(name) or project.disabled.get(name)
        container = target.container_name if target is not None and target.container_name else f"{project.name}-{name}-1"
        found.append(f"{container}:{alias or name}")
    for entry in service.external_links:
        name, _, alias = entry.partition(":")
        found.append(f"{name}:{alias or name}")
    return found


def ordered_networks(service: Service) -> list[str]:
    """Keys of the networks, the one for creation first: the highest priority, then the file's order."""
    return sorted(service.networks, key=lambda key: -service.networks[key].priority)


def convert_ipam(network: Network) -> IPAM | None:
    """Address management of a network."""
    if network.ipam is None:
        return None
    pools = [
        IPAMConfig(subnet=p.subnet, ip_range=p.ip_range, gateway=p.gateway, auxiliary_addresses=dict(p.aux_addresses) or None)
        for p in network.ipam.config
    ]
    return IPAM(driver=network.ipam.driver or "default", config=pools or None, options=dict(network.ipam.options) or None)
