"""Networking as the container service sees it.

attach(...)  before launch: addresses, ports (bound), firewall elements, names  ──>  Attachment, for the LaunchRequest
release(id)  after the end, or after a failed launch; idempotent
connect / disconnect of a running container change its namespace at once; of a stopped one only the record
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from berth.model.endpoint import NetworkPlan
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.network import EndpointSettings, NetworkSettings, PortBinding

Bindings = dict[str, list[PortBinding] | None]
# Published ports as networks keep them; whoever else has them only stores them and hands them back.
PortRows = list[dict[str, Any]]


class ContainerFacts(Struct, kw_only=True):
    """What a network needs to know of a container. `endpoints` are the settings asked for, by network name or id; `link` is the
    name of the host's end of a link that has been made for it already, or empty."""

    id: str
    name: str
    config: ContainerConfig
    host_config: HostConfig
    endpoints: dict[str, EndpointSettings]
    link: str = ""


class Attachment(Struct, frozen=True, kw_only=True):
    """The result of attach. `reserved` are bound sockets (descriptors that the caller now owns) to hand to the runtime.

    `hosts` and `resolv_conf` are the contents of the container's /etc/hosts and /etc/resolv.conf. `links` are those of the
    default bridge: alias, id and address of the other container.
    `plan` is None when the container joins another's namespace or the host's.
    """

    plan: NetworkPlan | None
    reserved: tuple[int, ...] = ()
    hosts: str = ""
    resolv_conf: str = ""
    links: tuple[tuple[str, str, str], ...] = ()


class PortChange(Struct, frozen=True, kw_only=True):
    """What came of a change of ports. `bindings` are those that hold now; `sockets` are descriptors that hold the new host
    ports, which the caller now owns; `released` are (protocol, address, port) that need not be held any more."""

    bindings: Bindings
    sockets: tuple[int, ...] = ()
    released: tuple[tuple[str, str, int], ...] = ()


class ContainerNetworks(Protocol):
    """Implemented by engine.networks."""

    def check(self, facts: ContainerFacts) -> dict[str, EndpointSettings]:
        """At create: the options fit. Returns the endpoints by network *name*, completed; a network that does not exist is
        left as it was asked for, and found out by attach."""
        ...

    async def attach(self, facts: ContainerFacts) -> Attachment:
        """Before launch. Conflict or ResourceExhausted leave nothing behind."""
        ...

    async def release(self, container_id: str) -> None:
        """Give back addresses, ports, firewall elements and names. Idempotent."""
        ...

    def give_back(self, container_id: str) -> Callable[[], None]:
        """The same for a caller that has something to say before it is told: by calling what is returned."""
        ...

    async def connect(self, facts: ContainerFacts, network: str, settings: EndpointSettings, pid: int | None) -> None:
        """Add an endpoint; with `pid` to the running container. Records it, so that `check` and `settings` know it."""
        ...

    async def disconnect(self, facts: ContainerFacts, network: str, pid: int | None, *, force: bool) -> None:
        """The reverse."""
        ...

    def publish_missing(self, facts: ContainerFacts) -> tuple[int, ...]:
        """After connect and disconnect of a running container: publish what it asks for and nothing is held for yet, since it was
        in no network that could. The bound sockets, for the caller to hand over. ResourceExhausted changes nothing."""
        ...

    def change_ports(self, facts: ContainerFacts, more: Bindings, fewer: Bindings, *, running: bool) -> PortChange:
        """Publish more of a container and less, at once when it runs. Conflict, NotFound, ResourceExhausted change nothing.
        The caller records the bindings and hands the sockets over."""
        ...

    def published(self, container_id: str) -> PortRows:
        """What is published of a running container now."""
        ...

    def withdraw_ports(self, facts: ContainerFacts, rows: PortRows) -> tuple[tuple[str, str, int], ...]:
        """Publish nothing but `rows` of a running container. Returns, as (protocol, address, port), what need not be held any
        more, and what of `rows` is not published: none of that when there is no difference. Idempotent."""
        ...

    def publish_again(self, facts: ContainerFacts, rows: PortRows) -> tuple[int, ...]:
        """Publish what of `rows` is not published. What somebody else has taken meanwhile is told in the log.
        The bound sockets."""
        ...

    def relink(self, facts: ContainerFacts) -> None:
        """The links of a running container have changed."""
        ...

    async def renamed(self, container_id: str, name: str) -> None:
        """Names in DNS follow."""
        ...

    def settings(self, facts: ContainerFacts) -> NetworkSettings:
        """NetworkSettings for inspect: live addresses and ports when attached, the wishes otherwise."""
        ...

    def forget(self, container_id: str) -> None:
        """The container is removed: drop its recorded endpoints."""
        ...

    async def restore(self, running: list[tuple[ContainerFacts, int]]) -> None:
        """At engine start: take over what runs (with pids), release what does not, mend bridges and rules."""
        ...
