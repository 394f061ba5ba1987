"""Networks, endpoints and ports.

Field names on the wire are Docker's; attributes are their snake_case. Every field is optional, as a client may leave
out or null any of them; a field that is None is not written. Source: Engine API 1.55.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class IPAMConfig(Struct, kw_only=True, omit_defaults=True):
    """IPAMConfig."""

    subnet: str | None = field(name="Subnet", default=None)
    ip_range: str | None = field(name="IPRange", default=None)
    gateway: str | None = field(name="Gateway", default=None)
    auxiliary_addresses: dict[str, str] | None = field(name="AuxiliaryAddresses", default=None)


class IPAM(Struct, kw_only=True, omit_defaults=True):
    """IPAM."""

    driver: str | None = field(name="Driver", default=None)
    config: list[IPAMConfig] | None = field(name="Config", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)


class ConfigReference(Struct, kw_only=True, omit_defaults=True):
    """The config-only network source to provide the configuration for this network."""

    network: str | None = field(name="Network", default=None)


class EndpointResource(Struct, kw_only=True, omit_defaults=True):
    """contains network resources allocated and used for a container in a network."""

    name: str | None = field(name="Name", default=None)
    endpoint_id: str | None = field(name="EndpointID", default=None)
    mac_address: str | None = field(name="MacAddress", default=None)
    ipv4_address: str | None = field(name="IPv4Address", default=None)
    ipv6_address: str | None = field(name="IPv6Address", default=None)


class NetworkInspect(Struct, kw_only=True, omit_defaults=True):
    """The body of the 'get network' http response message."""

    name: str | None = field(name="Name", default=None)
    id: str | None = field(name="Id", default=None)
    created: str | None = field(name="Created", default=None)
    scope: str | None = field(name="Scope", default=None)
    driver: str | None = field(name="Driver", default=None)
    enable_ipv4: bool | None = field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = field(name="EnableIPv6", default=None)
    ipam: IPAM | None = field(name="IPAM", default=None)
    internal: bool | None = field(name="Internal", default=None)
    attachable: bool | None = field(name="Attachable", default=None)
    ingress: bool | None = field(name="Ingress", default=None)
    config_from: ConfigReference | None = field(name="ConfigFrom", default=None)
    config_only: bool | None = field(name="ConfigOnly", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    peers: list[dict[str, Any]] | None = field(name="Peers", default=None)
    containers: dict[str, EndpointResource] | None = field(name="Containers", default=None)
    services: dict[str, Any] | None = field(name="Services", default=None)
    status: dict[str, Any] | None = field(name="Status", default=None)


class NetworkSummary(Struct, kw_only=True, omit_defaults=True):
    """Network list response item."""

    name: str | None = field(name="Name", default=None)
    id: str | None = field(name="Id", default=None)
    created: str | None = field(name="Created", default=None)
    scope: str | None = field(name="Scope", default=None)
    driver: str | None = field(name="Driver", default=None)
    enable_ipv4: bool | None = field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = field(name="EnableIPv6", default=None)
    ipam: IPAM | None = field(name="IPAM", default=None)
    internal: bool | None = field(name="Internal", default=None)
    attachable: bool | None = field(name="Attachable", default=None)
    ingress: bool | None = field(name="Ingress", default=None)
    config_from: ConfigReference | None = field(name="ConfigFrom", default=None)
    config_only: bool | None = field(name="ConfigOnly", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)
    peers: list[dict[str, Any]] | None = field(name="Peers", default=None)


class EndpointIPAMConfig(Struct, kw_only=True, omit_defaults=True):
    """EndpointIPAMConfig represents an endpoint's IPAM configuration."""

    ipv4_address: str | None = field(name="IPv4Address", default=None)
    ipv6_address: str | None = field(name="IPv6Address", default=None)
    link_local_ips: list[str] | None = field(name="LinkLocalIPs", default=None)


class EndpointSettings(Struct, kw_only=True, omit_defaults=True):
    """Configuration for a network endpoint."""

    ipam_config: EndpointIPAMConfig | None = field(name="IPAMConfig", default=None)
    links: list[str] | None = field(name="Links", default=None)
    mac_address: str | None = field(name="MacAddress", default=None)
    aliases: list[str] | None = field(name="Aliases", default=None)
    driver_opts: dict[str, str] | None = field(name="DriverOpts", default=None)
    gw_priority: int | None = field(name="GwPriority", default=None)
    network_id: str | None = field(name="NetworkID", default=None)
    endpoint_id: str | None = field(name="EndpointID", default=None)
    gateway: str | None = field(name="Gateway", default=None)
    ip_address: str | None = field(name="IPAddress", default=None)
    ip_prefix_len: int | None = field(name="IPPrefixLen", default=None)
    ipv6_gateway: str | None = field(name="IPv6Gateway", default=None)
    global_ipv6_address: str | None = field(name="GlobalIPv6Address", default=None)
    global_ipv6_prefix_len: int | None = field(name="GlobalIPv6PrefixLen", default=None)
    dns_names: list[str] | None = field(name="DNSNames", default=None)


class NetworkConnectRequest(Struct, kw_only=True, omit_defaults=True):
    """NetworkConnectRequest represents the data to be used to connect a container to a network."""

    container: str | None = field(name="Container", default=None)
    endpoint_config: EndpointSettings | None = field(name="EndpointConfig", default=None)


class NetworkDisconnectRequest(Struct, kw_only=True, omit_defaults=True):
    """NetworkDisconnectRequest represents the data to be used to disconnect a container from a network."""

    container: str | None = field(name="Container", default=None)
    force: bool | None = field(name="Force", default=None)


class NetworkCreateRequest(Struct, kw_only=True, omit_defaults=True):
    """The body of the 'create network' request."""

    name: str | None = field(name="Name", default=None)
    check_duplicate: bool | None = field(name="CheckDuplicate", default=None)
    driver: str | None = field(name="Driver", default=None)
    scope: str | None = field(name="Scope", default=None)
    internal: bool | None = field(name="Internal", default=None)
    attachable: bool | None = field(name="Attachable", default=None)
    ingress: bool | None = field(name="Ingress", default=None)
    config_only: bool | None = field(name="ConfigOnly", default=None)
    config_from: ConfigReference | None = field(name="ConfigFrom", default=None)
    ipam: IPAM | None = field(name="IPAM", default=None)
    enable_ipv4: bool | None = field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = field(name="EnableIPv6", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)


class NetworkCreateResponse(Struct, kw_only=True, omit_defaults=True):
    """OK response to NetworkCreate operation."""

    id: str | None = field(name="Id", default=None)
    warning: str | None = field(name="Warning", default=None)


class NetworkingConfig(Struct, kw_only=True, omit_defaults=True):
    """NetworkingConfig represents the container's networking configuration for each of its interfaces. It is us."""

    endpoints_config: dict[str, EndpointSettings] | None = field(name="EndpointsConfig", default=None)


class PortBinding(Struct, kw_only=True, omit_defaults=True):
    """PortBinding represents a binding between a host IP address and a host port."""

    host_ip: str | None = field(name="HostIp", default=None)
    host_port: str | None = field(name="HostPort", default=None)


class Address(Struct, kw_only=True, omit_defaults=True):
    """Address represents an IPv4 or IPv6 IP address."""

    addr: str | None = field(name="Addr", default=None)
    prefix_len: int | None = field(name="PrefixLen", default=None)


class NetworkSettings(Struct, kw_only=True, omit_defaults=True):
    """NetworkSettings exposes the network settings in the API."""

    sandbox_id: str | None = field(name="SandboxID", default=None)
    ports: dict[str, list[PortBinding] | None] | None = field(name="Ports", default=None)
    networks: dict[str, EndpointSettings] | None = field(name="Networks", default=None)


class PortSummary(Struct, kw_only=True, omit_defaults=True):
    """Describes a port-mapping between the container and the host."""

    ip: str | None = field(name="IP", default=None)
    private_port: int | None = field(name="PrivatePort", default=None)
    public_port: int | None = field(name="PublicPort", default=None)
    type: str | None = field(name="Type", default=None)
