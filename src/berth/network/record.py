"""What is stored of networks, endpoints and published ports: the documents of the tables `networks`, `endpoints`, `ports`.

An endpoint row has two halves. The wish is what a user asked for by `connect` (or that he asked for `disconnect`, which is
remembered too, since the container's own configuration still names the network). `live` is there while the container runs
with the network: it is what addresses, names and firewall elements are rebuilt from after a restart of the engine.
"""

from __future__ import annotations

from msgspec import Struct, field

from berth.wire.network import EndpointSettings

BRIDGE, HOST, NONE, MACVLAN, IPVLAN = "bridge", "host", "none", "macvlan", "ipvlan"
PREDEFINED = ("bridge", "host", "none")

BRIDGE_NAME = "com.docker.network.bridge.name"
ENABLE_ICC = "com.docker.network.bridge.enable_icc"
ENABLE_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
DRIVER_MTU = "com.docker.network.driver.mtu"
ENDPOINT_NAME = "com.docker.network.endpoint.ifname"
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
GATEWAY_MODES = {False: "com.docker.network.bridge.gateway_mode_ipv4", True: "com.docker.network.bridge.gateway_mode_ipv6"}
NAT, NAT_UNPROTECTED, ROUTED, ISOLATED = "nat", "nat-unprotected", "routed", "isolated"
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
TRUSTED_INTERFACES = "com.docker.network.bridge.trusted_host_interfaces"
HOST_SOURCES = {False: "com.docker.network.host_ipv4", True: "com.docker.network.host_ipv6"}
INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"


class Pool(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A subnet in CIDR notation, the part of it that addresses are taken from ("" for all), the gateway, and addresses
    that are in use by others."""

    subnet: str
    ip_range: str = ""
    gateway: str = ""
    auxiliary: dict[str, str] = field(default_factory=dict)

    @property
    def is_v6(self) -> bool:
        """Whether it is an IPv6 subnet."""
        return ":" in self.subnet


class NetworkRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A network. `device` is the bridge, or the parent link of a macvlan or ipvlan network. `created` is seconds since the
    epoch. `chosen`: the subnets were given by the user (static addresses are allowed then, as with Docker)."""

    id: str
    name: str
    created: float
    driver: str = BRIDGE
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: str = ""
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    pools: tuple[Pool, ...] = ()
    chosen: bool = False
    device: str = ""

    @property
    def is_default_bridge(self) -> bool:
        """The network that containers join when nothing is said: no names, but links."""
        return self.name == BRIDGE

    @property
    def is_predefined(self) -> bool:
        """Made by the engine, and not removable."""
        return self.name in PREDEFINED

    @property
    def has_links(self) -> bool:
        """Whether its endpoints are interfaces with addresses."""
        return self.driver in (BRIDGE, MACVLAN, IPVLAN)

    def option(self, key: str, default: bool) -> bool:
        """A boolean driver option, read as Go's ParseBool does."""
        value = self.options.get(key)
        return default if value is None or value == "" else value.lower() in ("1", "t", "true")

    def gateway_mode(self, *, v6: bool) -> str:
        """How the bridge stands between its containers and the world, for one family."""
        return self.options.get(GATEWAY_MODES[v6]) or NAT

    @property
    def trusted_interfaces(self) -> tuple[str, ...]:
        """Links of the host from which published ports may be reached by the container's own address."""
        return tuple(name for name in self.options.get(TRUSTED_INTERFACES, "").split(":") if name)


class Live(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of an endpoint that exists while the container runs. `names` are what DNS answers for in this network.

    `resolver`: 127.0.0.11 answers in the container; `handed`: through sockets that the engine made, not the shim.
    """

    name: str
    mac: str
    ipv4: str = ""
    ipv6: str = ""
    interface: str = "eth0"
    host_name: str = ""
    names: tuple[str, ...] = ()
    resolver: bool = False
    handed: bool = False


class Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One container in one network.

    `changing`: an interface is being put into the running container, or taken out of it. An engine that finds this when it
    starts takes it out.
    """

    id: str
    container_id: str
    network_id: str
    wish: EndpointSettings = field(default_factory=EndpointSettings)
    asked: bool = False
    removed: bool = False
    changing: bool = False
    live: Live | None = None


# What the proxy can pass on.
PROXIED = ("tcp", "udp")


class Published(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A published port. `address` is the host's, 0.0.0.0 or :: for all; `target` the container's.

    `direct`: it may be reached by the container's own address too. `routed`: in no other way; `address` and `port` are the
    container's then, and nothing of the host's is taken. Without a `target` the host's port is kept, and leads nowhere: the
    running container has left the network that it was published through, and is in no other that could publish it.
    `accepted`: connections end on the host, in the proxy, so that the host's own firewall is asked.
    """

    protocol: str
    address: str
    port: int
    target: str
    target_port: int
    network_id: str
    direct: bool = False
    routed: bool = False
    accepted: bool = False

    @property
    def name(self) -> tuple[str, str, int]:
        """What of the host it takes."""
        return self.protocol, self.address, self.port

    @property
    def proxied(self) -> bool:
        """Whether the proxy holds it. On an IPv6 address it always does: ::1 is not translated, and the container may have IPv4
        only."""
        return not self.routed and self.protocol in PROXIED and (self.accepted or ":" in self.address)

    @property
    def translated(self) -> bool:
        """Whether the kernel leads it to the container."""
        return not self.routed and not self.accepted and (":" in self.address) == (":" in self.target)
