"""Networks and the containers in them: the service behind `docker network` and behind the network part of every container.

    attach ──> addresses ──> ports bound ──> rows ──> elements, names ──> NetworkPlan for the runtime
    release ─> the reverse; whatever attach did before it failed is undone the same way

Nothing here touches a container's namespace, except for connect and disconnect of a running one (network.live).
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from berth import failpoint
from berth.contract.network import Attachment, Bindings, ContainerFacts, PortChange, PortRows
from berth.contract.usage import Usage
from berth.engine import port_bindings
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.engine.network_address import drop_live, parted
from berth.engine.network_attachment import Attacher
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_definition import Definitions, host_lock, inspection, predefined, summary, with_ipv6
from berth.engine.network_view import NetworkView
from berth.engine.network_wish import check_container, check_wish, completed, mode_of, shares_namespace, wanted, with_ports
from berth.errors import BerthError, Forbidden, InvalidArgument, NotFound, Unavailable
from berth.model.filters import Filters
from berth.model.instant import parse_moment
from berth.network import bridge, host, parent
from berth.network.fabric import Fabric
from berth.network.proxy_client import ProxyClient
from berth.network.record import BRIDGE, HOST, IPVLAN, MACVLAN, NONE, Endpoint, NetworkRecord, Published
from berth.network.resolver_client import ResolverClient
from berth.storage.database import Database
from berth.wire.network import EndpointSettings, NetworkCreateRequest, NetworkInspect, NetworkSettings, NetworkSummary

log = logging.getLogger(__name__)

Spawn = Callable[[str, Sequence[str], Sequence[int]], Awaitable[int]]
LIST_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
PRUNE_FILTERS = ("label", "label!", "until")


class NetworkService:
    """One per engine. Implements contract.network.ContainerNetworks."""

    usage: Usage

    def __init__(self, config: EngineConfig, database: Database, events: Events, spawn: Spawn) -> None:
        self._config = config
        self._events = events
        self._catalog = NetworkCatalog(database)
        self._view = NetworkView(self._catalog)
        self._definitions = Definitions(config, self._catalog.networks)
        pattern = bridge.device_pattern(config.engine_id, is_default_engine=config.is_default)
        self._fabric = Fabric(config.name, pattern, config.root)
        self._resolver = ResolverClient(config.resolver, spawn)
        self._proxy = ProxyClient(config.proxy, spawn)
        self._attacher = Attacher(config, self._catalog, self._fabric, self._resolver, self._proxy)
        self._broken = ""
        self._defining = asyncio.Lock()
        # The host's lock is a file lock of another descriptor each time: two creates at once would wait for each other for ever.
        self._making = asyncio.Lock()

    async def start(self) -> None:
        """The predefined networks, bridges, rules, elements. Idempotent. An engine whose host lacks what networks need starts
        all the same; containers that need them are refused with the reason."""
        async with host_lock(self._defining):
            await self._fabric.clear_abandoned()
            if self._catalog.by_name(BRIDGE) is None:
                for record in predefined(self._config, host.subnets_in_use()):
                    self._catalog.store(record)
                    self._catalog.admit(record)
            self._set_ipv6()
            try:
                await self._fabric.start(self._catalog.networks.values(), self._all_ports())
                self._broken = ""
            except (BerthError, OSError) as error:
                self._broken = str(error)
                log.error("networks are not available: %s", error)

    def _set_ipv6(self) -> None:
        """The default network follows `--ipv6`, but not while a container still uses what would go."""
        record = self._catalog.by_name(BRIDGE)
        assert record is not None
        wanted_record = with_ipv6(self._config, record, host.subnets_in_use())
        if wanted_record is record:
            return
        if any(row.live and row.live.ipv6 for row in self._catalog.live_in(record.id)):
            log.warning("containers still have IPv6 addresses of the default network: it keeps them until they have ended")
            return
        self._catalog.change(wanted_record)

    def _all_ports(self) -> list[Published]:
        return [port for ports in self._catalog.ports.values() for port in ports if port.target]

    async def stop(self) -> None:
        """Let go of the host's networks; bridges, rules, resolver and containers go on."""
        self._fabric.close()
        self._resolver.close()
        self._proxy.close()

    async def teardown(self) -> None:
        """Remove bridges, rules and resolver: for an engine that is stopped with its containers. Does nothing while a
        container is still attached."""
        if any(row.live for rows in self._catalog.endpoints.values() for row in rows.values()):
            log.warning("containers are still attached: bridges and firewall rules stay")
            return
        await self._fabric.teardown()
        await self._resolver.quit()
        await self._proxy.quit()
        for record in self._catalog.networks.values():
            if record.driver in (MACVLAN, IPVLAN):
                await asyncio.to_thread(parent.remove_own, record)

    # What the routes use.

    def list(self, filters: Filters) -> Sequence[NetworkSummary]:
        """The networks that match."""
        return [summary(record) for record in self._catalog.networks.values() if self._matches(record, filters)]

    def _matches(self, record: NetworkRecord, filters: Filters) -> bool:
        checks: dict[str, Callable[[str], bool]] = {
            "driver": lambda value: record.driver == value,
            "id": lambda value: record.id.startswith(value),
            "name": lambda value: value in record.name,
            "scope": lambda value: value == "local",
            "type": lambda value: value == ("builtin" if record.is_predefined else "custom"),
        }
        for value in filters.get("type"):
            if value not in ("builtin", "custom"):
                raise InvalidArgument(f"invalid filter: 'type'='{value}'")
        for key, fits in checks.items():
            if key in filters and not any(fits(value) for value in filters.get(key)):
                return False
        if "dangling" in filters and filters.flag("dangling") == (record.is_predefined or bool(self._users(record))):
            return False
        return filters.match_labels(record.labels)

    def _users(self, record: NetworkRecord) -> bool:
        return bool(self._catalog.live_in(record.id) or self.usage.of_network(record.id, record.name))

    def inspect(self, reference: str) -> NetworkInspect:
        """One network, with its running containers. NotFound, or Conflict when several ids begin so."""
        record = self._catalog.find(reference)
        return inspection(record, self._catalog.live_in(record.id))

    async def create(self, request: NetworkCreateRequest) -> tuple[str, str]:
        """Make a network; its id and a warning ("")."""
        async with self._making:
            return await self._create(request)

    async def _create(self, request: NetworkCreateRequest) -> tuple[str, str]:
        async with host_lock(self._defining):
            record = self._definitions.record(request)
            failpoint.hit("network.create.before-row")
            # The row comes first and goes last: an engine that is killed in between leaves no bridge that nobody knows. The
            # next one makes what the row asks for.
            self._catalog.store(record)
            failpoint.hit("network.create.after-row")
            try:
                if not record.config_only:
                    await self._make(record)
            except BaseException:
                self._catalog.erase(record)
                raise
            failpoint.hit("network.create.after-bridge")
            self._catalog.admit(record)
        self._event("create", record)
        return record.id, ""

    async def _make(self, record: NetworkRecord) -> None:
        if record.driver == BRIDGE:
            self._require_fabric()
            await self._fabric.add(record)
        else:
            await asyncio.to_thread(parent.prepare, record)

    async def _unmake(self, record: NetworkRecord) -> None:
        if record.driver == BRIDGE:
            await self._fabric.remove(record)
        elif record.driver in (MACVLAN, IPVLAN):
            await asyncio.to_thread(parent.remove_own, record)

    def _require_fabric(self) -> None:
        if self._broken:
            raise Unavailable(f"networks are not available on this host: {self._broken}")

    async def remove(self, reference: str) -> None:
        """Remove a network that no running container is in."""
        # A network that is made at the same time may have the same name.
        async with self._making:
            await self._remove(reference)

    async def _remove(self, reference: str) -> None:
        record = self._catalog.find(reference)
        if record.is_predefined:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        active = self._catalog.live_in(record.id)
        if active:
            users = ", ".join(f'name:"{e.live.name}" id:"{e.container_id[:12]}"' for e in active if e.live)
            raise Forbidden(
                f"error while removing network: network {record.name} id {record.id} has active endpoints ({users}): "
                "disconnect or stop these containers first"
            )
        for other in self._catalog.networks.values():
            if other.config_from in (record.name, record.id) and other.config_from:
                raise Forbidden(f"configuration network {record.name!r} is in use by network {other.name}")
        failpoint.hit("network.remove.before-bridge")
        self._catalog.withdraw(record)
        try:
            if not record.config_only:
                await self._unmake(record)
            failpoint.hit("network.remove.after-bridge")
            self._catalog.erase(record)
        except BaseException:
            self._catalog.admit(record)
            raise
        failpoint.hit("network.remove.after-row")
        self._event("destroy", record)

    async def prune(self, filters: Filters) -> Sequence[str]:
        """Remove the networks that no container uses; their names."""
        gone = []
        before = min((parse_moment(text, time.time()) for text in filters.get("until")), default=None)
        for record in tuple(self._catalog.networks.values()):
            if record.is_predefined or self._users(record) or not filters.match_labels(record.labels):
                continue
            if before is not None and record.created >= before:
                continue
            if "label!" in filters and filters.match_labels(record.labels, "label!"):
                continue
            try:
                await self.remove(record.id)
            except (Forbidden, NotFound):
                continue
            gone.append(record.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return gone

    # What containers use.

    def check(self, facts: ContainerFacts) -> dict[str, EndpointSettings]:
        """At create: the options fit. The endpoints by network name.

        A network that does not exist is found out at the start, as with Docker: the docker CLI takes "not found" at create for
        a missing image, and would pull it.
        """
        try:
            networks = check_container(self._catalog, facts)
        except NotFound:
            return dict(facts.endpoints) or {mode_of(facts): EndpointSettings()}
        return {network.name: completed(network, wish) for network, wish in networks}

    async def attach(self, facts: ContainerFacts) -> Attachment:
        """Before launch."""
        await self.release(facts.id)
        networks = check_container(self._catalog, facts)
        if any(network.driver == BRIDGE for network, _ in networks):
            self._require_fabric()
        attachment = await self._attacher.attach(facts, networks)
        for network, _ in networks:
            self._event("connect", network, facts.id)
        return attachment

    async def release(self, container_id: str) -> None:
        """Give everything back that attach took. Idempotent."""
        self.give_back(container_id)()

    def give_back(self, container_id: str) -> Callable[[], None]:
        """The same, told when what is returned is called."""
        rows = [row for row in self._catalog.of_container(container_id).values() if row.live]
        self._attacher.release(container_id)
        gone = [self._catalog.networks[row.network_id] for row in rows if row.network_id in self._catalog.networks]

        def tell() -> None:
            for network in gone:
                self._event("disconnect", network, container_id)

        return tell

    async def connect(self, facts: ContainerFacts, network: str, settings: EndpointSettings, pid: int | None) -> None:
        """Add a container to a network, at once when it runs."""
        record = self._catalog.find(network)
        self._check_changeable(facts, record, "connected to")
        if any(have.id == record.id for have, _ in wanted(self._catalog, facts)):
            raise Forbidden(f"endpoint with name {facts.name} already exists in network {record.name}")
        check_wish(record, settings)
        row = Endpoint(id="", container_id=facts.id, network_id=record.id, wish=completed(record, settings), asked=True)
        if pid:
            if record.driver == BRIDGE:
                self._require_fabric()
            await self._attacher.connect(facts, record, row, pid)
            failpoint.hit("network.connect.after-row")
        else:
            self._catalog.put_endpoints([row], durable=True)
        self._event("connect", record, facts.id)

    async def disconnect(self, facts: ContainerFacts, network: str, pid: int | None, *, force: bool) -> None:
        """Take a container out of a network, at once when it runs."""
        record = self._catalog.find(network)
        if record.name != HOST or mode_of(facts) == HOST:
            # Who is not on the host's network hears that, below.
            self._check_changeable(facts, record, "disconnected from")
        names = {have.id for have, _ in wanted(self._catalog, facts)}
        row = self._catalog.of_container(facts.id).get(record.id)
        if record.id not in names and not (force and row and row.live):
            raise Forbidden(f"container {facts.id} is not connected to network {record.name}")
        if row and row.live and pid:
            await self._attacher.disconnect(facts, record, row, pid)
        else:
            if row and row.live:
                drop_live(self._catalog, [row])
            gone = parted(Endpoint(id="", container_id=facts.id, network_id=record.id))
            self._catalog.put_endpoints([gone], durable=True)
        failpoint.hit("network.disconnect.after-row")
        self._event("disconnect", record, facts.id)

    @staticmethod
    def _check_changeable(facts: ContainerFacts, record: NetworkRecord, what: str) -> None:
        mode = mode_of(facts)
        if record.name == HOST or mode == HOST:
            raise Forbidden("container cannot be disconnected from host network or connected to host network")
        if shares_namespace(mode):
            raise Forbidden(
                "container sharing network namespace with another container or host cannot be connected to any other network"
            )
        if record.name == NONE and what == "connected to":
            raise Forbidden("container cannot be connected to multiple networks with one of the networks in private (none) mode")

    def change_ports(self, facts: ContainerFacts, more: Bindings, fewer: Bindings, *, running: bool) -> PortChange:
        """Publish more and less; see contract.network."""
        more, fewer = port_bindings.canonical(more), port_bindings.canonical(fewer)
        have = port_bindings.canonical(facts.host_config.port_bindings or {})
        rest, gone = port_bindings.without(have, fewer, self._catalog.ports.get(facts.id, []))
        whole = port_bindings.added(rest, more)
        check_container(self._catalog, with_ports(facts, whole))
        if not running:
            return PortChange(bindings=whole)
        sockets = self._attacher.publish(with_ports(facts, more), with_ports(facts, whole)) if more else ()
        self._attacher.unpublish(facts.id, gone)
        released = tuple((port.protocol, port.address, port.port) for port in gone)
        return PortChange(bindings=whole, sockets=sockets, released=released)

    def publish_missing(self, facts: ContainerFacts) -> tuple[int, ...]:
        """Ports that a running container could not publish before; see contract.network."""
        return self._attacher.publish_missing(facts)

    def published(self, container_id: str) -> PortRows:
        """Rows of its ports; see contract.network."""
        return [msgspec.to_builtins(port) for port in self._catalog.ports.get(container_id, [])]

    def withdraw_ports(self, facts: ContainerFacts, rows: PortRows) -> tuple[tuple[str, str, int], ...]:
        """Ports that came since; see contract.network."""
        now, before = self._catalog.ports.get(facts.id, []), msgspec.convert(rows, list[Published])
        more, fewer = [port for port in now if port not in before], [port for port in before if port not in now]
        self._attacher.unpublish(facts.id, more)
        return tuple((port.protocol, port.address, port.port) for port in [*more, *fewer])

    def publish_again(self, facts: ContainerFacts, rows: PortRows) -> tuple[int, ...]:
        """Ports that went since; see contract.network."""
        now = self._catalog.ports.get(facts.id, [])
        return self._attacher.publish_again(facts, [p for p in msgspec.convert(rows, list[Published]) if p not in now])

    def relink(self, facts: ContainerFacts) -> None:
        """Other names in the files and DNS of a running container whose links have changed."""
        self._attacher.relink(facts)

    async def renamed(self, container_id: str, name: str) -> None:
        """Names in DNS follow."""
        rows = []
        for row in self._catalog.of_container(container_id).values():
            if row.live:
                names = tuple(dict.fromkeys(name if n == row.live.name else n for n in row.live.names))
                rows.append(msgspec.structs.replace(row, live=msgspec.structs.replace(row.live, name=name, names=names)))
        self._catalog.put_endpoints(rows)
        self._attacher.renamed(container_id)

    def settings(self, facts: ContainerFacts) -> NetworkSettings:
        """NetworkSettings for inspect."""
        return self._view.settings(facts)

    def forget(self, container_id: str) -> None:
        """The container is removed."""
        self._view.forget(container_id)
        self._catalog.drop_endpoints(container_id, list(self._catalog.of_container(container_id)))

    async def restore(self, running: builtins.list[tuple[ContainerFacts, int]]) -> None:
        """At engine start: what runs is taken over, the rest is released, and the elements are put right."""
        alive = {facts.id for facts, _ in running}
        attached = {key for key, rows in self._catalog.endpoints.items() if any(row.live for row in rows.values())}
        for container_id in (attached | set(self._catalog.ports)) - alive:
            self.give_back(container_id)
        await self._attacher.restore(running)
        for facts, _ in running:
            if any(row.live and row.live.name != facts.name for row in self._catalog.of_container(facts.id).values()):
                # Killed between a rename and what follows from it.
                await self.renamed(facts.id, facts.name)

    def _event(self, action: str, record: NetworkRecord, container_id: str = "") -> None:
        attributes = {"name": record.name, "type": record.driver}
        if container_id:
            attributes["container"] = container_id
        self._events.publish("network", action, record.id, attributes)
