"""Attaching containers: addresses, ports, names and files of one container, before its launch or while it runs.

Puts together what has a room of its own: network_address, network_publish, network_plan, network_dns, network_files.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from berth import failpoint
from berth.contract.network import Attachment, ContainerFacts
from berth.engine.config import EngineConfig
from berth.engine.network_address import drop_live, give, parted, take
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_dns import Naming
from berth.engine.network_files import Files
from berth.engine.network_plan import Planner, default_routes
from berth.engine.network_publish import Bound, Publisher
from berth.engine.network_wish import Wish, is_user_defined, mode_of, shares_namespace, wanted
from berth.errors import NotFound
from berth.model.identifier import new_id
from berth.network import live
from berth.network.fabric import Fabric
from berth.network.names import interface_name
from berth.network.proxy_client import ProxyClient
from berth.network.record import INTERFACE_PREFIX, Endpoint, NetworkRecord, Published
from berth.network.resolver_client import ResolverClient


class Attacher:
    """Takes what a container needs of networks and undoes it in reverse when something fails."""

    def __init__(
        self, config: EngineConfig, catalog: NetworkCatalog, fabric: Fabric, resolver: ResolverClient, proxy: ProxyClient
    ) -> None:
        self._catalog = catalog
        self._files = Files(config, catalog)
        self._planner = Planner(config.resolver, fabric)
        self._publisher = Publisher(config, catalog, fabric, proxy)
        self._proxy = proxy
        self._naming = Naming(catalog, self._files, resolver)

    async def attach(self, facts: ContainerFacts, networks: Sequence[Wish]) -> Attachment:
        """Everything before the launch. A failure leaves nothing behind."""
        mode = mode_of(facts)
        if mode.startswith("container:"):
            return Attachment(plan=None)
        dns = not shares_namespace(mode) and self._files.needs_resolver(facts, networks)
        if dns:
            await self._naming.ensure()
        self._naming.remember(facts)
        with ExitStack() as undo:
            rows = self._endpoints(facts, networks, undo, resolver=dns)
            bound = self._publisher.bind(facts, networks, rows, undo)
            hosts, resolv = self._files.contents(facts, networks, rows, embedded=dns)
            sockets = self._commit(facts, rows, bound, undo)
            await self._proxy.ready()
            undo.pop_all()
        plan = (
            None
            if shares_namespace(mode)
            else self._planner.plan(networks, rows, {port.network_id for port in bound.ports}, dns=dns)
        )
        links = tuple(self._files.bridge_links(facts, rows))
        return Attachment(plan=plan, reserved=tuple(s.detach() for s in sockets), hosts=hosts, resolv_conf=resolv, links=links)

    def _commit(self, facts: ContainerFacts, rows: list[Endpoint], bound: Bound, undo: ExitStack) -> list[socket.socket]:
        undo.callback(self._uncommit, facts.id, [row.network_id for row in rows])
        self._catalog.put_endpoints(rows)
        failpoint.hit("network.attach.after-endpoints")
        self._catalog.put_ports(facts.id, bound.ports)
        failpoint.hit("network.attach.after-ports")
        sockets = self._publisher.lead(bound, undo)
        failpoint.hit("network.attach.after-elements")
        self._publisher.flush_udp(bound.ports)
        self._naming.tell(facts.id)
        return sockets

    def _uncommit(self, container_id: str, network_ids: list[str]) -> None:
        self._publisher.forget(self._catalog.drop_ports(container_id))
        drop_live(self._catalog, [row for key, row in self._catalog.of_container(container_id).items() if key in network_ids])
        self._naming.forget(container_id)

    def release(self, container_id: str) -> None:
        """Give everything back that attach took. Idempotent."""
        rows = [row for row in self._catalog.of_container(container_id).values() if row.live]
        ports = self._catalog.drop_ports(container_id)
        failpoint.hit("network.release.after-ports")
        self._publisher.forget(ports)
        drop_live(self._catalog, rows)
        failpoint.hit("network.release.after-endpoints")
        self._naming.forget(container_id)

    def _endpoints(self, facts: ContainerFacts, networks: Sequence[Wish], undo: ExitStack, *, resolver: bool) -> list[Endpoint]:
        rows: list[Endpoint] = []
        for network, wish in networks:
            free = live.free_interface((other.live.interface for other in rows if other.live), _prefix(network))
            have = self._catalog.of_container(facts.id).get(network.id)
            row = have or Endpoint(id="", container_id=facts.id, network_id=network.id)
            # One that was made ahead fits a container that has no other.
            link = facts.link if len(networks) == 1 else ""
            entry = take(self._catalog, facts, network, wish, interface_name(wish) or free, resolver=resolver, link=link)
            undo.callback(give, self._catalog, network, entry)
            rows.append(msgspec.structs.replace(row, id=new_id(), live=entry))
        return rows

    def publish(self, more: ContainerFacts, whole: ContainerFacts) -> tuple[int, ...]:
        """Publish the ports of `more` beside those that the running container has. `whole` has all of them. The bound sockets."""
        sockets = self._publisher.publish(more)
        self._naming.remember(whole)
        return sockets

    def publish_again(self, facts: ContainerFacts, lost: Sequence[Published]) -> tuple[int, ...]:
        """These very ports, which the running container had before. The bound sockets."""
        self._naming.remember(facts)
        return self._publisher.publish_again(facts, lost)

    def publish_missing(self, facts: ContainerFacts) -> tuple[int, ...]:
        """The ports that a running container asks for and that nothing of the host is held for yet. The bound sockets."""
        return self._publisher.publish_missing(facts)

    def unpublish(self, container_id: str, ports: Sequence[Published]) -> None:
        """These ports of a running container lead nowhere any more; connections that there are go on."""
        self._publisher.unpublish(container_id, ports)

    async def connect(self, facts: ContainerFacts, network: NetworkRecord, row: Endpoint, pid: int) -> None:
        """A new interface in a running container."""
        self._naming.remember(facts, pid)
        others = [r for r in self._catalog.of_container(facts.id).values() if r.live]
        handed = not any(r.live and r.live.resolver for r in others)
        dns = is_user_defined(network) or any(r.live and r.live.resolver for r in others)
        if dns:
            await self._naming.ensure()
        interface = interface_name(row.wish) or live.free_interface(
            (r.live.interface for r in others if r.live), _prefix(network)
        )
        with ExitStack() as undo:
            entry = take(self._catalog, facts, network, row.wish, interface, resolver=dns)
            undo.callback(give, self._catalog, network, entry)
            row = msgspec.structs.replace(row, id=new_id(), live=msgspec.structs.replace(entry, handed=dns and handed))
            networks = self._with(facts, row)
            plan = self._planner.endpoint(network, row.wish, entry, ())
            undo.callback(self._put_back, facts.id, network.id, self._catalog.of_container(facts.id).get(network.id))
            self._catalog.put_endpoints([msgspec.structs.replace(row, changing=True)])
            failpoint.hit("network.connect.after-intent")
            await asyncio.to_thread(live.add_endpoint, pid, plan, default_routes(networks, [*others, row]))
            failpoint.hit("network.connect.after-interface")
            undo.pop_all()
        self._catalog.put_endpoints([row], durable=True)
        self._publisher.move(facts, networks, [*others, row])
        self._naming.tell(facts.id)
        if dns and handed:
            await self._naming.serve(facts.id, pid)
        self._files.rewrite(facts, networks, [*others, row], embedded=dns)

    def _put_back(self, container_id: str, network_id: str, row: Endpoint | None) -> None:
        if row is None:
            self._catalog.drop_endpoints(container_id, [network_id])
        else:
            self._catalog.put_endpoints([row])

    def _with(self, facts: ContainerFacts, row: Endpoint) -> list[Wish]:
        have = wanted(self._catalog, facts)
        return [*have, (self._catalog.networks[row.network_id], row.wish)]

    async def disconnect(self, facts: ContainerFacts, network: NetworkRecord, row: Endpoint, pid: int) -> None:
        """Take an interface out of a running container, and the ports that were published through it."""
        self._naming.remember(facts)
        entry = row.live
        assert entry is not None
        others = [r for r in self._catalog.of_container(facts.id).values() if r.live and r.network_id != network.id]
        networks = [w for w in wanted(self._catalog, facts) if w[0].id != network.id]
        self._catalog.put_endpoints([msgspec.structs.replace(row, changing=True)])
        failpoint.hit("network.disconnect.after-intent")
        try:
            await asyncio.to_thread(live.remove_endpoint, pid, entry.interface, default_routes(networks, others))
        except NotFound:
            pass
        failpoint.hit("network.disconnect.after-interface")
        self._publisher.move(facts, networks, others)
        give(self._catalog, network, entry)
        self._catalog.put_endpoints([parted(row)], durable=True)
        self._naming.tell(facts.id)
        embedded = entry.resolver or any(r.live and r.live.resolver for r in others)
        self._files.rewrite(facts, networks, others, embedded=embedded)

    def relink(self, facts: ContainerFacts) -> None:
        """The links of a running container have changed."""
        self._naming.remember(facts)
        rows = [row for row in self._catalog.of_container(facts.id).values() if row.live]
        self._files.rewrite(facts, wanted(self._catalog, facts), rows, embedded=any(r.live and r.live.resolver for r in rows))
        self._naming.tell(facts.id)

    def renamed(self, container_id: str) -> None:
        """The names on record have changed."""
        self._naming.tell(container_id)

    async def restore(self, running: Sequence[tuple[ContainerFacts, int]]) -> None:
        """Take over running containers: their names go to the resolver, which is started if one of them needs it."""
        self._naming.replace_all(running)
        for facts, pid in running:
            await self._finish_changes(facts, pid)
        await self._naming.restore()
        await self._publisher.restore()

    async def _finish_changes(self, facts: ContainerFacts, pid: int) -> None:
        """Take out of a container what an earlier engine was putting into it or taking out of it when it was killed."""
        for row in [row for row in self._catalog.of_container(facts.id).values() if row.changing]:
            network = self._catalog.networks.get(row.network_id)
            if network is not None and row.live is not None:
                await self.disconnect(facts, network, row, pid)


def _prefix(network: NetworkRecord) -> str:
    return network.options.get(INTERFACE_PREFIX) or "eth"
