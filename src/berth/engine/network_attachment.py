"""Attaching containers: addresses, ports, names and files of one container, before its launch or while it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from ipaddress import ip_address

import msgspec

from berth import failpoint
from berth.contract.network import Attachment, ContainerFacts
from berth.engine.config import EngineConfig
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_definition import gateway, prefix_length
from berth.engine.network_files import Files
from berth.engine.network_wish import Wish, hostname_of, is_user_defined, link_local, mode_of, shares_namespace, wanted
from berth.errors import BerthError, Conflict, InvalidArgument, NotFound, ResourceExhausted
from berth.kernel import netlink
from berth.kernel.conntrack import flush_udp
from berth.model.endpoint import EndpointPlan, NetworkPlan, Route
from berth.model.identifier import new_id
from berth.network import bridge, ipam, live, parent
from berth.network.fabric import Fabric
from berth.network.names import dns_names, gateway_order, interface_name, interface_sysctls
from berth.network.port import PortWish, hold, wishes
from berth.network.record import (
    BRIDGE,
    ENABLE_ICC,
    HOST_BINDING,
    INTERFACE_PREFIX,
    IPVLAN,
    ROUTED,
    Endpoint,
    Live,
    NetworkRecord,
    Published,
)
from berth.network.resolver_client import ResolverClient, ResolverRecord
from berth.wire.network import EndpointSettings

log = logging.getLogger(__name__)
_SMALLEST_IPV6_MTU = 1280


def drop_live(catalog: NetworkCatalog, rows: Iterable[Endpoint]) -> None:
    """Give the addresses back; keep of the rows only what a user asked for."""
    kept, gone = [], []
    for row in rows:
        record = catalog.networks.get(row.network_id)
        if record and row.live:
            _give(catalog, record, row.live)
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


def _give(catalog: NetworkCatalog, record: NetworkRecord, entry: Live) -> None:
    for pool in catalog.addresses(record):
        for address in (entry.ipv4, entry.ipv6):
            if address and (":" in address) == pool.pool.is_v6:
                pool.give(address)


class Attacher:
    """Makes plans and keeps rows, elements and names in step with them."""

    def __init__(self, config: EngineConfig, catalog: NetworkCatalog, fabric: Fabric, resolver: ResolverClient) -> None:
        self._catalog = catalog
        self._fabric = fabric
        self._resolver = resolver
        self._resolver_path = config.resolver
        self._publish_address = config.publish_address
        self._files = Files(config, catalog)
        self._facts: dict[str, ContainerFacts] = {}
        self._pids: dict[str, int] = {}
        self._flushing: set[asyncio.Task[None]] = set()
        resolver.restarted = self._serve_again
        self._has_ipv6 = os.path.isdir("/proc/sys/net/ipv6")

    async def attach(self, facts: ContainerFacts, networks: Sequence[Wish]) -> Attachment:
        """Everything before the launch. A failure leaves nothing behind."""
        mode = mode_of(facts)
        if mode.startswith("container:"):
            return Attachment(plan=None)
        dns = not shares_namespace(mode) and self._files.needs_resolver(facts, networks)
        if dns:
            await self._resolver.ensure()
        self._facts[facts.id] = facts
        with ExitStack() as undo:
            rows = self._endpoints(facts, networks, undo, resolver=dns)
            ports, sockets = self._ports(facts, networks, rows, undo)
            hosts, resolv = self._files.contents(facts, networks, rows, embedded=dns)
            self._commit(facts, rows, ports, undo)
            undo.pop_all()
        plan = None if shares_namespace(mode) else self._plan(networks, rows, {port.network_id for port in ports}, dns=dns)
        links = tuple(self._files.bridge_links(facts, rows))
        return Attachment(plan=plan, reserved=tuple(s.detach() for s in sockets), hosts=hosts, resolv_conf=resolv, links=links)

    def _commit(self, facts: ContainerFacts, rows: list[Endpoint], ports: list[Published], undo: ExitStack) -> None:
        undo.callback(self._uncommit, facts.id, [row.network_id for row in rows])
        self._catalog.put_endpoints(rows)
        failpoint.hit("network.attach.after-endpoints")
        self._catalog.put_ports(facts.id, ports)
        failpoint.hit("network.attach.after-ports")
        self._fabric.publish(ports)
        failpoint.hit("network.attach.after-elements")
        self.flush_udp(ports)
        self.tell_resolver(facts.id)

    def flush_udp(self, ports: Sequence[Published]) -> None:
        """Forget, in the background, the UDP flows of ports that have come or gone: they would go on the old way."""
        udp = [port for port in ports if port.protocol == "udp" and port.target]
        if udp:
            numbers, targets = {p.port for p in udp}, {ip_address(p.target).packed for p in udp}
            task = asyncio.ensure_future(_flush(numbers, targets))
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)

    def _uncommit(self, container_id: str, network_ids: list[str]) -> None:
        self._fabric.unpublish(self._catalog.drop_ports(container_id))
        drop_live(self._catalog, [row for key, row in self._catalog.of_container(container_id).items() if key in network_ids])
        self._resolver.drop(container_id)

    def _endpoints(self, facts: ContainerFacts, networks: Sequence[Wish], undo: ExitStack, *, resolver: bool) -> list[Endpoint]:
        rows: list[Endpoint] = []
        for network, wish in networks:
            free = live.free_interface((other.live.interface for other in rows if other.live), _prefix(network))
            have = self._catalog.of_container(facts.id).get(network.id)
            row = have or Endpoint(id="", container_id=facts.id, network_id=network.id)
            # One that was made ahead fits a container that has no other.
            link = facts.link if len(networks) == 1 else ""
            entry = self._live(facts, network, wish, interface_name(wish) or free, resolver=resolver, link=link)
            undo.callback(_give, self._catalog, network, entry)
            rows.append(msgspec.structs.replace(row, id=new_id(), live=entry))
        return rows

    def _live(
        self,
        facts: ContainerFacts,
        network: NetworkRecord,
        wish: EndpointSettings,
        interface: str,
        *,
        resolver: bool,
        link: str = "",
    ) -> Live:
        if not network.has_links:
            return Live(name=facts.name, mac="", interface="", resolver=resolver)
        asked = wish.ipam_config
        taken: dict[bool, str] = {}
        try:
            for pool in self._catalog.addresses(network):
                address = (asked.ipv6_address if pool.pool.is_v6 else asked.ipv4_address) if asked else None
                taken[pool.pool.is_v6] = pool.take(address or "")
        except BerthError:
            _give(self._catalog, network, Live(name="", mac="", ipv4=taken.get(False, ""), ipv6=taken.get(True, "")))
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

    def _ports(
        self, facts: ContainerFacts, networks: Sequence[Wish], rows: Sequence[Endpoint], undo: ExitStack
    ) -> tuple[list[Published], list[socket.socket]]:
        """Published through the network that has the default route, as with Docker; without one, nothing is."""
        asked = wishes(facts.config, facts.host_config)
        best = gateway_order([(n, w) for n, w in networks if n.driver == BRIDGE])
        if not asked or not best:
            return [], []
        network = best[0]
        row = next(row for row in rows if row.network_id == network.id)
        entry = row.live
        assert entry is not None
        ports, sockets = self._hold(
            facts,
            network,
            row,
            [(wish, _host_addresses(network, entry, wish.address, self._publish_address)) for wish in asked],
            undo,
        )
        return [*(port for wish in asked for port in _routed(network, entry, wish)), *ports], sockets

    def _hold(
        self,
        facts: ContainerFacts,
        network: NetworkRecord,
        row: Endpoint,
        places: Sequence[tuple[PortWish, list[str]]],
        undo: ExitStack,
    ) -> tuple[list[Published], list[socket.socket]]:
        """Bind each wish on its host addresses. ResourceExhausted in Docker's words."""
        entry = row.live
        assert entry is not None
        ports: list[Published] = []
        sockets: list[socket.socket] = []
        allocated = self._catalog.allocated_ports()
        for wish, addresses in places:
            try:
                held = hold(wish, addresses, allocated | {(p.protocol, p.address, p.port) for p in ports})
            except ResourceExhausted as error:
                text = f"driver failed programming external connectivity on endpoint {facts.name} ({row.id}): {error.message}"
                raise ResourceExhausted(text) from error
            for address, sock in zip(addresses, held, strict=True):
                undo.callback(sock.close)
                sockets.append(sock)
                target = entry.ipv6 if ":" in address else entry.ipv4
                ports.append(
                    Published(protocol=wish.protocol, address=address, port=sock.getsockname()[1], target=target,
                              target_port=wish.container_port, network_id=network.id, direct=bool(network.trusted_interfaces))
                )  # fmt: skip
        return ports, sockets

    def publish(self, more: ContainerFacts, whole: ContainerFacts) -> tuple[int, ...]:
        """Publish the ports of `more` beside those that the running container has. `whole` has all of them. The bound sockets."""
        rows = [row for row in self._catalog.of_container(more.id).values() if row.live]
        live_in = {row.network_id for row in rows}
        networks = [wish for wish in wanted(self._catalog, more) if wish[0].id in live_in]
        with ExitStack() as undo:
            ports, sockets = self._ports(more, networks, rows, undo)
            if not ports:
                raise Conflict(f"container {more.name} is in no bridge network, so nothing can be published")
            entry = next(row.live for row in rows if row.network_id == ports[0].network_id)
            self._catalog.put_ports(more.id, ports)
            undo.callback(self.unpublish, more.id, ports)
            self._fabric.publish(ports)
            if entry is not None:
                netlink.set_hairpin(entry.host_name)
            undo.pop_all()
        self._facts[more.id] = whole
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
            if ":" in wish.address and not (entry and entry.ipv6):
                continue
            addresses = _host_addresses(best, entry, wish.address, self._publish_address) if best and entry else []
            missing.append((wish, [a for a in addresses if (wish.protocol, wish.container_port, a) not in held]))
        if best is None or entry is None or not any(addresses for _, addresses in missing):
            return ()
        with ExitStack() as undo:
            ports, sockets = self._hold(facts, best, rows[best.id], missing, undo)
            self._catalog.put_ports(facts.id, ports)
            undo.callback(self.unpublish, facts.id, ports)
            self._fabric.publish(ports)
            netlink.set_hairpin(entry.host_name)
            undo.pop_all()
        self.flush_udp(ports)
        return tuple(sock.detach() for sock in sockets)

    def unpublish(self, container_id: str, ports: Sequence[Published]) -> None:
        """These ports of a running container lead nowhere any more; connections that there are go on."""
        if not ports:
            return
        self._catalog.replace_ports(container_id, [p for p in self._catalog.ports.get(container_id, []) if p not in ports])
        self._fabric.unpublish(ports)
        self.flush_udp(ports)

    def _plan(self, networks: Sequence[Wish], rows: Sequence[Endpoint], publishing: set[str], *, dns: bool) -> NetworkPlan:
        routes = {(d, g, i) for d, g, i in self._default_routes(networks, rows)}
        plans = []
        for (network, wish), row in zip(networks, rows, strict=True):
            if network.has_links and row.live:
                own = tuple(Route(destination=d, gateway=g or None) for d, g, i in sorted(routes) if i == row.live.interface)
                plans.append(self._endpoint_plan(network, wish, row.live, own, hairpin=network.id in publishing))
        return NetworkPlan(endpoints=tuple(plans), resolver=self._resolver_path if dns else None)

    def _endpoint_plan(
        self, network: NetworkRecord, wish: EndpointSettings, entry: Live, routes: tuple[Route, ...], *, hairpin: bool = False
    ) -> EndpointPlan:
        addresses = tuple(f"{a}/{prefix_length(network, a)}" for a in (entry.ipv4, entry.ipv6) if a)
        addresses += tuple(f"{a}/{64 if ':' in a else 16}" for a in link_local(wish))
        sysctls: dict[str, str] = {}
        mtu = bridge.network_mtu(network, self._fabric.default_mtu)
        # The kernel has no IPv6, nor switches for it, on links that are too small for it (RFC 8200, section 5).
        if self._has_ipv6 and mtu >= _SMALLEST_IPV6_MTU:
            switches = {"accept_ra": "0", "accept_dad": "0"} if entry.ipv6 else {"disable_ipv6": "1"}
            sysctls = {f"net.ipv6.conf.{entry.interface}.{key}": value for key, value in switches.items()}
        sysctls |= interface_sysctls(wish, entry.interface)
        is_bridge = network.driver == BRIDGE
        return EndpointPlan(
            kind="veth" if is_bridge else network.driver,
            parent=network.device,
            # A link that was made ahead has a name already.
            host_name=entry.host_name if is_bridge else "",
            name=entry.interface,
            mac=entry.mac,
            addresses=addresses,
            routes=routes,
            mtu=mtu,
            mode=0 if is_bridge else parent.mode(network),
            # Where bridged packets pass the firewall too, a container that calls its own published port is answered by a
            # frame that leaves through the port it came in by.
            hairpin=is_bridge and hairpin,
            isolated=is_bridge and not network.option(ENABLE_ICC, True),
            sysctls=sysctls,
        )

    @staticmethod
    def _default_routes(networks: Sequence[Wish], rows: Sequence[Endpoint]) -> list[tuple[str, str, str]]:
        interfaces = {row.network_id: row.live for row in rows if row.live}
        found = []
        for destination, v6 in (("0.0.0.0/0", False), ("::/0", True)):
            for network in gateway_order(networks):
                entry = interfaces.get(network.id)
                if entry and (entry.ipv6 if v6 else entry.ipv4) and gateway(network, v6=v6):
                    found.append((destination, gateway(network, v6=v6), entry.interface))
                    break
        return found

    def tell_resolver(self, container_id: str) -> None:
        """Send what DNS has to know of a container, or drop it."""
        record = self._resolver_record(container_id)
        if record is None:
            self._resolver.drop(container_id)
        else:
            self._resolver.put(container_id, record)

    def _resolver_record(self, container_id: str) -> ResolverRecord | None:
        rows = [row for row in self._catalog.of_container(container_id).values() if row.live]
        facts = self._facts.get(container_id)
        if facts is None or not rows:
            return None
        record = ResolverRecord(forward=False, upstreams=list(facts.host_config.dns or []))
        for row in rows:
            network, entry = self._catalog.networks.get(row.network_id), row.live
            if network is None or entry is None:
                continue
            record.forward = record.forward or not network.internal
            if is_user_defined(network):
                record.networks[network.id] = (network.name, list(entry.names), [a for a in (entry.ipv4, entry.ipv6) if a])
        record.links = self._files.links(facts, rows)
        return record if record.networks or any(row.live and row.live.resolver for row in rows) else None

    async def connect(self, facts: ContainerFacts, network: NetworkRecord, row: Endpoint, pid: int) -> None:
        """A new interface in a running container."""
        self._facts[facts.id] = facts
        self._pids[facts.id] = pid
        others = [r for r in self._catalog.of_container(facts.id).values() if r.live]
        handed = not any(r.live and r.live.resolver for r in others)
        dns = is_user_defined(network) or any(r.live and r.live.resolver for r in others)
        if dns:
            await self._resolver.ensure()
        interface = interface_name(row.wish) or live.free_interface(
            (r.live.interface for r in others if r.live), _prefix(network)
        )
        with ExitStack() as undo:
            entry = self._live(facts, network, row.wish, interface, resolver=dns)
            undo.callback(_give, self._catalog, network, entry)
            row = msgspec.structs.replace(row, id=new_id(), live=msgspec.structs.replace(entry, handed=dns and handed))
            networks = self._with(facts, row)
            plan = self._endpoint_plan(network, row.wish, entry, ())
            undo.callback(self._put_back, facts.id, network.id, self._catalog.of_container(facts.id).get(network.id))
            self._catalog.put_endpoints([msgspec.structs.replace(row, changing=True)])
            failpoint.hit("network.connect.after-intent")
            await asyncio.to_thread(live.add_endpoint, pid, plan, self._default_routes(networks, [*others, row]))
            failpoint.hit("network.connect.after-interface")
            undo.pop_all()
        self._catalog.put_endpoints([row], durable=True)
        self._move_ports(facts, networks, [*others, row])
        self.tell_resolver(facts.id)
        if dns and handed:
            await self._serve(facts.id, pid)
        self._files.rewrite(facts, networks, [*others, row], embedded=dns)

    def _put_back(self, container_id: str, network_id: str, row: Endpoint | None) -> None:
        if row is None:
            self._catalog.drop_endpoints(container_id, [network_id])
        else:
            self._catalog.put_endpoints([row])

    def _with(self, facts: ContainerFacts, row: Endpoint) -> list[Wish]:
        have = wanted(self._catalog, facts)
        return [*have, (self._catalog.networks[row.network_id], row.wish)]

    async def _serve(self, container_id: str, pid: int) -> None:
        """DNS for a container that was started without: its sockets are made here, and live as long as the process."""
        pidfd = os.pidfd_open(pid)
        try:
            udp, tcp = await asyncio.to_thread(live.open_resolver_sockets, pid)
            with udp, tcp:
                self._resolver.serve(container_id, (udp.fileno(), tcp.fileno(), pidfd))
        finally:
            os.close(pidfd)

    async def disconnect(self, facts: ContainerFacts, network: NetworkRecord, row: Endpoint, pid: int) -> None:
        """Take an interface out of a running container, and the ports that were published through it."""
        self._facts[facts.id] = facts
        entry = row.live
        assert entry is not None
        others = [r for r in self._catalog.of_container(facts.id).values() if r.live and r.network_id != network.id]
        networks = [w for w in wanted(self._catalog, facts) if w[0].id != network.id]
        self._catalog.put_endpoints([msgspec.structs.replace(row, changing=True)])
        failpoint.hit("network.disconnect.after-intent")
        try:
            await asyncio.to_thread(live.remove_endpoint, pid, entry.interface, self._default_routes(networks, others))
        except NotFound:
            pass
        failpoint.hit("network.disconnect.after-interface")
        self._move_ports(facts, networks, others)
        _give(self._catalog, network, entry)
        self._catalog.put_endpoints([parted(row)], durable=True)
        self.tell_resolver(facts.id)
        embedded = entry.resolver or any(r.live and r.live.resolver for r in others)
        self._files.rewrite(facts, networks, others, embedded=embedded)

    def _move_ports(self, facts: ContainerFacts, networks: Sequence[Wish], rows: Sequence[Endpoint]) -> None:
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
        self.flush_udp(before)

    def relink(self, facts: ContainerFacts) -> None:
        """The links of a running container have changed."""
        self._facts[facts.id] = facts
        rows = [row for row in self._catalog.of_container(facts.id).values() if row.live]
        self._files.rewrite(facts, wanted(self._catalog, facts), rows, embedded=any(r.live and r.live.resolver for r in rows))
        self.tell_resolver(facts.id)

    async def restore(self, running: Sequence[tuple[ContainerFacts, int]]) -> None:
        """Take over running containers: their names go to the resolver, which is started if one of them needs it."""
        self._facts = {facts.id: facts for facts, _ in running}
        self._pids = {facts.id: pid for facts, pid in running}
        for facts, pid in running:
            await self._finish_changes(facts, pid)
        records = {facts.id: self._resolver_record(facts.id) for facts, _ in running}
        self._resolver.replace_all({key: record for key, record in records.items() if record})
        if any(row.live and row.live.resolver for key in self._facts for row in self._catalog.of_container(key).values()):
            await self._resolver.ensure()
            await self._serve_again()

    async def _finish_changes(self, facts: ContainerFacts, pid: int) -> None:
        """Take out of a container what an earlier engine was putting into it or taking out of it when it was killed."""
        for row in [row for row in self._catalog.of_container(facts.id).values() if row.changing]:
            network = self._catalog.networks.get(row.network_id)
            if network is not None and row.live is not None:
                await self.disconnect(facts, network, row, pid)

    async def _serve_again(self) -> None:
        """Sockets that the engine had made are not known to a resolver that was started anew; shims see to theirs."""
        for container_id, pid in list(self._pids.items()):
            rows = self._catalog.of_container(container_id).values()
            if any(row.live and row.live.handed for row in rows):
                try:
                    await self._serve(container_id, pid)
                except (NotFound, OSError) as error:
                    log.warning("container %s: 127.0.0.11 could not be set up again: %s", container_id[:12], error)

    def forget(self, container_id: str) -> None:
        """Drop what is remembered of a container that has ended."""
        self._facts.pop(container_id, None)
        self._pids.pop(container_id, None)


def _prefix(network: NetworkRecord) -> str:
    return network.options.get(INTERFACE_PREFIX) or "eth"


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
    v6 = ":" in port.address
    target = (entry.ipv6 if v6 else entry.ipv4) if entry else ""
    if network is None or not target or network.gateway_mode(v6=v6) == ROUTED:
        return msgspec.structs.replace(port, target="", network_id="", direct=False)
    return msgspec.structs.replace(port, target=target, network_id=network.id, direct=bool(network.trusted_interfaces))


def _mac(network: NetworkRecord, wish: EndpointSettings, ipv4: str, ipv6: str) -> str:
    """What was asked for, else derived from the address. All ipvlan links have their parent's, which cannot be changed."""
    if network.driver == IPVLAN:
        return ""
    return (wish.mac_address or "").lower().replace("-", ":") or ipam.derive_mac(ipv4, ipv6)


async def _flush(ports: set[int], addresses: set[bytes]) -> None:
    try:
        await asyncio.to_thread(flush_udp, ports, addresses)
    except OSError as error:
        log.warning("connection tracking entries of published ports could not be flushed: %s", error)


def _host_addresses(network: NetworkRecord, entry: Live, asked: str, default: str) -> list[str]:
    """The host addresses that a port is bound to; none of a family that is routed."""
    routed = {v6: network.gateway_mode(v6=v6) == ROUTED for v6 in (False, True)}
    return [a for a in _bindings(network, entry, asked, default) if not routed[":" in a]]


def _bindings(network: NetworkRecord, entry: Live, asked: str, default: str) -> list[str]:
    own = network.options.get(HOST_BINDING, "")
    # The default network says 0.0.0.0 from the beginning, which nobody has asked for.
    binding = asked or (default or own if network.is_predefined else own or default) or "0.0.0.0"
    if ":" in binding:
        if not entry.ipv6:
            raise InvalidArgument(
                f"cannot publish on the host address [{binding}]: network {network.name} has no IPv6; "
                "create it with --ipv6 or publish on an IPv4 address"
            )
        return [str(ip_address(binding))]
    found = [binding] if entry.ipv4 else []
    if entry.ipv6 and not asked and binding == "0.0.0.0":
        found.append("::")
    return found
