"""Published ports of containers: held on the host by bound sockets, led to the container by elements, on record beside it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address

import msgspec

from berth import failpoint
from berth.contract.network import ContainerFacts
from berth.engine.config import EngineConfig
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_wish import Wish, wanted
from berth.errors import Conflict, InvalidArgument, ResourceExhausted
from berth.kernel import netlink
from berth.kernel.conntrack import flush_udp
from berth.network.fabric import Fabric
from berth.network.host import has_ipv6
from berth.network.names import gateway_order
from berth.network.port import PortWish, hold, wishes
from berth.network.proxy_client import ProxyClient
from berth.network.record import BRIDGE, HOST_BINDING, PROXIED, ROUTED, Endpoint, Live, NetworkRecord, Published

log = logging.getLogger(__name__)


class Bound:
    """Ports that are bound, with the sockets that are, by what they take of the host."""

    def __init__(self) -> None:
        self.ports: list[Published] = []
        self.sockets: dict[tuple[str, str, int], socket.socket] = {}


class Publisher:
    """Keeps sockets, rows, elements and the proxy in step."""

    def __init__(self, config: EngineConfig, catalog: NetworkCatalog, fabric: Fabric, proxy: ProxyClient) -> None:
        self._catalog = catalog
        self._fabric = fabric
        self._proxy = proxy
        self._publish_address = config.publish_address
        self._accepts = config.respect_host_firewall
        self._flushing: set[asyncio.Task[None]] = set()

    def bind(self, facts: ContainerFacts, networks: Sequence[Wish], rows: Sequence[Endpoint], undo: ExitStack) -> Bound:
        """Published through the network that has the default route, as with Docker; without one, nothing is."""
        asked = wishes(facts.config, facts.host_config)
        best = gateway_order([(n, w) for n, w in networks if n.driver == BRIDGE])
        if not asked or not best:
            return Bound()
        network = best[0]
        row = next(row for row in rows if row.network_id == network.id)
        entry = row.live
        assert entry is not None
        bound = self._hold(
            facts,
            network,
            row,
            [(wish, _host_addresses(network, entry, wish, self._publish_address)) for wish in asked],
            undo,
        )
        bound.ports[:0] = [port for wish in asked for port in _routed(network, entry, wish)]
        return bound

    def _hold(
        self,
        facts: ContainerFacts,
        network: NetworkRecord,
        row: Endpoint,
        places: Sequence[tuple[PortWish, list[str]]],
        undo: ExitStack,
    ) -> Bound:
        """Bind each wish on its host addresses. ResourceExhausted in Docker's words."""
        entry = row.live
        assert entry is not None
        bound = Bound()
        allocated = self._catalog.allocated_ports()
        for wish, addresses in places:
            try:
                held = hold(wish, addresses, allocated | {port.name for port in bound.ports})
            except ResourceExhausted as error:
                text = f"driver failed programming external connectivity on endpoint {facts.name} ({row.id}): {error.message}"
                raise ResourceExhausted(text) from error
            for address, sock in zip(addresses, held, strict=True):
                undo.callback(sock.close)
                port = Published(
                    protocol=wish.protocol, address=address, port=sock.getsockname()[1],
                    target=_target(entry, wish.protocol, address),
                    target_port=wish.container_port, network_id=network.id, direct=bool(network.trusted_interfaces),
                    accepted=self._accepts and wish.protocol != "sctp",
                )  # fmt: skip
                bound.ports.append(port)
                bound.sockets[port.name] = sock
        return bound

    def lead(self, bound: Bound, undo: ExitStack) -> list[socket.socket]:
        """What comes to the ports goes to the container from now on. The sockets that the container's shim has to hold."""
        self._fabric.publish(bound.ports)
        proxied = [port for port in bound.ports if port.proxied]
        held = [sock for name, sock in bound.sockets.items() if name not in {port.name for port in proxied}]
        if proxied:
            near, far = socket.socketpair()
            undo.callback(far.close)
            held.append(far)
            with near:
                for port in proxied:
                    with bound.sockets[port.name] as sock:
                        self._proxy.serve(port.name, (port.target, port.target_port), sock, near)
        return held

    def publish(self, more: ContainerFacts) -> tuple[int, ...]:
        """Publish the ports of `more` beside those that the running container has. The bound sockets."""
        rows = [row for row in self._catalog.of_container(more.id).values() if row.live]
        live_in = {row.network_id for row in rows}
        networks = [wish for wish in wanted(self._catalog, more) if wish[0].id in live_in]
        with ExitStack() as undo:
            bound = self.bind(more, networks, rows, undo)
            ports = bound.ports
            if not ports:
                raise Conflict(f"container {more.name} is in no bridge network, so nothing can be published")
            entry = next(row.live for row in rows if row.network_id == ports[0].network_id)
            self._catalog.put_ports(more.id, ports)
            undo.callback(self.unpublish, more.id, ports)
            failpoint.hit("network.publish.after-ports")
            sockets = self.lead(bound, undo)
            if entry is not None:
                netlink.set_hairpin(entry.host_name)
            undo.pop_all()
        self._proxy.start_soon()
        self.flush_udp(ports)
        return tuple(sock.detach() for sock in sockets)

    def publish_again(self, facts: ContainerFacts, lost: Sequence[Published]) -> tuple[int, ...]:
        """These very ports, which the running container had before. Those that are taken by now stay away. The bound sockets."""
        sockets: list[socket.socket] = []
        ports: list[Published] = []
        for port in lost:
            wish = PortWish(protocol=port.protocol, container_port=port.target_port, first=port.port, last=port.port)
            try:
                sockets += [] if port.routed else hold(wish, [port.address], self._catalog.allocated_ports())
            except ResourceExhausted as error:
                log.warning("container %s: %s", facts.name, error.message)
                continue
            ports.append(port)
        self._catalog.put_ports(facts.id, ports)
        self._fabric.publish([port for port in ports if port.target])
        self.flush_udp(ports)
        return tuple(sock.detach() for sock in sockets)

    def publish_missing(self, facts: ContainerFacts) -> tuple[int, ...]:
        """The ports that a running container asks for and that nothing of the host is held for yet: it has just come into a
        network that can publish them. The bound sockets."""
        rows = {row.network_id: row for row in self._catalog.of_container(facts.id).values() if row.live}
        networks = [wish for wish in wanted(self._catalog, facts) if wish[0].id in rows and wish[0].driver == BRIDGE]
        best = next(iter(gateway_order(networks)), None)
        entry = rows[best.id].live if best else None
        held = {(p.protocol, p.target_port, p.address) for p in self._catalog.ports.get(facts.id, []) if not p.routed}
        missing: list[tuple[PortWish, list[str]]] = []
        for wish in wishes(facts.config, facts.host_config) if best and entry else []:
            if ":" in wish.address and not (entry and _target(entry, wish.protocol, wish.address)):
                continue
            addresses = _host_addresses(best, entry, wish, self._publish_address) if best and entry else []
            missing.append((wish, [a for a in addresses if (wish.protocol, wish.container_port, a) not in held]))
        if best is None or entry is None or not any(addresses for _, addresses in missing):
            return ()
        with ExitStack() as undo:
            bound = self._hold(facts, best, rows[best.id], missing, undo)
            ports = bound.ports
            self._catalog.put_ports(facts.id, ports)
            undo.callback(self.unpublish, facts.id, ports)
            sockets = self.lead(bound, undo)
            netlink.set_hairpin(entry.host_name)
            undo.pop_all()
        self._proxy.start_soon()
        self.flush_udp(ports)
        return tuple(sock.detach() for sock in sockets)

    def unpublish(self, container_id: str, ports: Sequence[Published]) -> None:
        """These ports of a running container lead nowhere any more; connections that there are go on."""
        if not ports:
            return
        self._catalog.replace_ports(container_id, [p for p in self._catalog.ports.get(container_id, []) if p not in ports])
        failpoint.hit("network.unpublish.after-ports")
        self.forget(ports)

    def forget(self, ports: Sequence[Published]) -> None:
        """Nothing leads to these any more; they are not on record. Idempotent."""
        self._fabric.unpublish(ports)
        for port in ports:
            self._proxy.drop(port.name)
        self._proxy.settle()
        self.flush_udp(ports)

    async def restore(self) -> None:
        """At engine start: the proxy that an earlier engine left, or a new one, has the ports of the containers that run."""
        ports = [port for ports in self._catalog.ports.values() for port in ports if port.proxied]
        await self._proxy.replace_all({port.name: _destination(port) for port in ports})

    def move(self, facts: ContainerFacts, networks: Sequence[Wish], rows: Sequence[Endpoint]) -> None:
        """Published ports follow the default route of a running container to another network. What is held of the host stays
        held, also while there is nowhere to lead it."""
        before = self._catalog.ports.get(facts.id, [])
        by_id = {row.network_id: row.live for row in rows if row.live}
        best = next((n for n in gateway_order([w for w in networks if w[0].driver == BRIDGE]) if n.id in by_id), None)
        entry = by_id[best.id] if best else None
        ports = [_through(port, best, entry) for port in before if not port.routed]
        if best and entry:
            ports += [p for wish in wishes(facts.config, facts.host_config) for p in _routed(best, entry, wish)]
        if ports == before:
            return
        if entry and ports:
            netlink.set_hairpin(entry.host_name)
        self._catalog.replace_ports(facts.id, ports)
        self._fabric.unpublish(set(before) - set(ports))
        self._fabric.publish([port for port in ports if port.target])
        for port in ports:
            self._proxy.lead(port.name, _destination(port))
        self.flush_udp(before)

    def flush_udp(self, ports: Sequence[Published]) -> None:
        """Forget, in the background, the UDP flows of ports that have come or gone: they would go on the old way."""
        udp = [port for port in ports if port.protocol == "udp" and port.target]
        if udp:
            numbers, targets = {p.port for p in udp}, {ip_address(p.target).packed for p in udp}
            task = asyncio.ensure_future(_flush(numbers, targets))
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)


def _routed(network: NetworkRecord, entry: Live, wish: PortWish) -> list[Published]:
    """What is opened of a port where the network is routed: the container's own, once per family."""
    found = []
    for target, v6 in ((entry.ipv4, False), (entry.ipv6, True)):
        other_family = wish.address and (":" in wish.address) != v6
        if target and network.gateway_mode(v6=v6) == ROUTED and not other_family:
            found.append(
                Published(protocol=wish.protocol, address=target, port=wish.container_port, target=target,
                          target_port=wish.container_port, network_id=network.id, routed=True)
            )  # fmt: skip
    return found


def _through(port: Published, network: NetworkRecord | None, entry: Live | None) -> Published:
    """A port of the host, led to where the container is now."""
    target = _target(entry, port.protocol, port.address) if entry else ""
    if network is None or not target or network.gateway_mode(v6=":" in target) == ROUTED:
        return msgspec.structs.replace(port, target="", network_id="", direct=False)
    return msgspec.structs.replace(port, target=target, network_id=network.id, direct=bool(network.trusted_interfaces))


def _target(entry: Live, protocol: str, address: str) -> str:
    """Which of the container's addresses a port on this address of the host leads to; "" if none can be."""
    if ":" not in address:
        return entry.ipv4
    return entry.ipv6 or (entry.ipv4 if protocol in PROXIED else "")


def _destination(port: Published) -> tuple[str, int] | None:
    return (port.target, port.target_port) if port.target else None


async def _flush(ports: set[int], addresses: set[bytes]) -> None:
    try:
        await asyncio.to_thread(flush_udp, ports, addresses)
    except OSError as error:
        log.warning("connection tracking entries of published ports could not be flushed: %s", error)


def _host_addresses(network: NetworkRecord, entry: Live, wish: PortWish, default: str) -> list[str]:
    """The host addresses that a port is bound to; none of a family that is routed."""
    found = [(address, _target(entry, wish.protocol, address)) for address in _bindings(network, entry, wish, default)]
    return [address for address, target in found if network.gateway_mode(v6=":" in target) != ROUTED]


def _bindings(network: NetworkRecord, entry: Live, wish: PortWish, default: str) -> list[str]:
    own = network.options.get(HOST_BINDING, "")
    # The default network says 0.0.0.0 from the beginning, which nobody has asked for.
    binding = wish.address or (default or own if network.is_predefined else own or default) or "0.0.0.0"
    if ":" in binding:
        if not _target(entry, wish.protocol, binding):
            raise InvalidArgument(
                f"cannot publish on the host address [{binding}]: network {network.name} has no IPv6; "
                "create it with --ipv6 or publish on an IPv4 address"
            )
        return [str(ip_address(binding))]
    found = [binding] if entry.ipv4 else []
    if not wish.address and binding == "0.0.0.0" and (entry.ipv6 or (_target(entry, wish.protocol, "::") and has_ipv6())):
        found.append("::")
    return found
