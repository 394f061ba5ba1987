"""What the runtime needs to know to connect a container to its networks: values made by `network`, carried out by `runtime`."""

from __future__ import annotations

from msgspec import Struct, field


class Route(Struct, frozen=True, kw_only=True):
    """`destination` is a prefix such as 0.0.0.0/0; without a gateway it is on the link."""

    destination: str
    gateway: str | None = None


class EndpointPlan(Struct, frozen=True, kw_only=True):
    """One interface of a container.

    kind `veth`: a pair is made, the host end `host_name` enslaved to `parent` (a bridge), the other end moved in.
    kind `macvlan` or `ipvlan`: made on `parent` and moved in; `mode` is the kernel's number.
    Addresses have a prefix length: 172.17.0.2/16.
    """

    kind: str = "veth"
    parent: str
    host_name: str = ""
    name: str = "eth0"
    mac: str
    addresses: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    mtu: int = 1500
    mode: int = 0
    hairpin: bool = False
    isolated: bool = False
    sysctls: dict[str, str] = field(default_factory=dict)


class NetworkPlan(Struct, frozen=True, kw_only=True):
    """All that is done in a new network namespace. With `resolver` (the resolver's socket) 127.0.0.11 answers there."""

    endpoints: tuple[EndpointPlan, ...] = ()
    resolver: str | None = None
    sysctls: dict[str, str] = field(default_factory=dict)
