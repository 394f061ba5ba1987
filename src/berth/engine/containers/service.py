"""ContainerService: the face of the containers package. Each method looks a container up and hands over to one concern."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

from berth.contract.image import Images
from berth.contract.network import ContainerFacts, ContainerNetworks
from berth.contract.runtime import Abilities, AttachStream, LaunchRequest, Runtime
from berth.contract.store import Layers, Snapshots, Trees
from berth.contract.usage import User
from berth.contract.volume import Volumes
from berth.engine import logs
from berth.engine.config import EngineConfig
from berth.engine.containers import processes, statistics
from berth.engine.containers.attaching import Attaching
from berth.engine.containers.catalog import Catalog
from berth.engine.containers.cause import Kind
from berth.engine.containers.committing import Committing
from berth.engine.containers.creation import CreateBody, Creation
from berth.engine.containers.explaining import Explanation, explain
from berth.engine.containers.files import Files
from berth.engine.containers.healing import Healing
from berth.engine.containers.inspection import Document, Inspection
from berth.engine.containers.lifecycle import HAS_TASK, is_running
from berth.engine.containers.linking import without_link
from berth.engine.containers.listing import Listing
from berth.engine.containers.log_cap import LogCap
from berth.engine.containers.parts import Parts
from berth.engine.containers.publishing import PortsBody, Publishing
from berth.engine.containers.record import Container, Ended
from berth.engine.containers.recovery import Recovery
from berth.engine.containers.removal import ContainersPruned, Removal
from berth.engine.containers.running import Running
from berth.engine.containers.stopping import Stopping
from berth.engine.containers.updating import Updating
from berth.engine.containers.validation import check_terminal_size
from berth.engine.events import Events
from berth.engine.idrange import IdRanges
from berth.engine.launch_trace import LaunchTrace
from berth.errors import BerthError, Conflict, InvalidArgument, NotImplementedKind, ResourceExhausted, prefixed
from berth.model.filters import Filters
from berth.storage.database import Database
from berth.wire.container import (
    ContainerCreateResponse,
    ContainerStatsResponse,
    ContainerSummary,
    ContainerTopResponse,
    HostConfig,
)
from berth.wire.network import EndpointSettings

log = logging.getLogger("berth.engine")
# How long an engine that ends with its containers waits for those with --rm to be removed.
_REMOVAL_SECONDS = 10.0


class ContainerService:
    """Containers. `committing` and `files` are used by the routes directly; everything else goes through the methods."""

    def __init__(
        self,
        *,
        config: EngineConfig,
        database: Database,
        events: Events,
        runtime: Runtime,
        snapshots: Snapshots,
        layers: Layers,
        trees: Trees,
        images: Images,
        networks: ContainerNetworks,
        volumes: Volumes,
        abilities: Abilities,
        ranges: IdRanges | None = None,
    ) -> None:
        self.parts = Parts(
            config=config,
            events=events,
            runtime=runtime,
            abilities=abilities,
            snapshots=snapshots,
            layers=layers,
            trees=trees,
            images=images,
            networks=networks,
            volumes=volumes,
            catalog=Catalog(database),
            ranges=ranges or IdRanges(config.root),
            trace=LaunchTrace(config.trace),
        )
        parts = self.parts
        self._removal = Removal(parts)
        self._running = Running(parts, self._remove_ended)
        self._stopping = Stopping(parts, self._running)
        self._creation = Creation(parts, self._running.prime)
        self._attaching = Attaching(parts)
        self._inspection = Inspection(parts)
        self._listing = Listing(parts)
        self._updating = Updating(parts)
        self._publishing = Publishing(parts)
        self._recovery = Recovery(parts, self._running, self._removal, self._publishing)
        self._healing = Healing(parts, self._stopping)
        self._running.on_unhealthy(self._healing.unhealthy)
        self._log_cap = LogCap(parts)
        self.committing = Committing(parts)
        self.files = Files(parts)

    # Engine start and end

    async def restore(self, *, sweep: bool = True) -> None:
        """At engine start: take over what an earlier engine left, and with `sweep` remove what is not recorded."""
        await self._recovery.restore(sweep=sweep)
        self._log_cap.start()

    def typical_request(self) -> LaunchRequest:
        """A launch like most: what slots are prepared for until others have come."""
        return self._running.typical_request()

    async def shutdown(self, stop_containers: bool) -> None:
        """Containers go on, unless `stop_containers`."""
        if stop_containers:
            running = [c for c in self.parts.catalog if is_running(c.status)]
            await asyncio.gather(*(self._stop_quietly(c) for c in running))
            going = [c.removal() for c in running if c.auto_remove or c.deleting]
            if going:
                await asyncio.wait(going, timeout=_REMOVAL_SECONDS)
        self._log_cap.stop()
        self._healing.stop()
        for container in self.parts.catalog:
            await self._running.let_go(container)
        await self._running.cleared()
        await self.parts.runtime.drop_slots()
        self.parts.ranges.close()

    async def _stop_quietly(self, container: Container) -> None:
        """Like stop, but the restart policy stays in force for the next engine start."""
        stopped_by_hand = container.state.manual_stop
        try:
            await self._stopping.stop(container, None, kind=Kind.SHUTDOWN)
        except BerthError:
            return
        if not container.deleting:
            container.state.manual_stop = stopped_by_hand
            self.parts.catalog.note(container)

    async def _remove_ended(self, container: Container) -> None:
        await self._removal.remove(container, volumes=True)

    # Lookup

    def get(self, reference: str) -> Container:
        """NotFound: `No such container: NAME`."""
        return self.parts.catalog.get(reference)

    def facts(self, reference: str) -> ContainerFacts:
        """What networks need to know of it."""
        return self.get(reference).facts()

    def count_by_state(self) -> dict[str, int]:
        """How many containers are in each state."""
        return dict(Counter(str(c.status) for c in self.parts.catalog))

    def with_task(self) -> frozenset[str]:
        """The ids of containers that run, whose snapshots are mounted."""
        return frozenset(c.id for c in self.parts.catalog if c.status in HAS_TASK)

    def of_image(self, image_id: str) -> list[User]:
        """Usage: containers made from the image, or with a mount of it."""
        return [
            _user(c)
            for c in self.parts.catalog
            if c.record.image_id == image_id or any(m.type == "image" and m.source == image_id for m in c.record.mounts)
        ]

    def of_volume(self, name: str) -> list[User]:
        """Usage: containers that mount the volume."""
        return [_user(c) for c in self.parts.catalog if any(m.type == "volume" and m.name == name for m in c.record.mounts)]

    def by_image(self) -> Counter[str]:
        """Usage: how many containers each image has."""
        return Counter(c.record.image_id for c in self.parts.catalog)

    def by_volume(self) -> Counter[str]:
        """Usage: how many containers mount each volume."""
        return Counter(name for c in self.parts.catalog for name in {m.name for m in c.record.mounts if m.type == "volume"})

    def of_network(self, network_id: str, name: str) -> list[User]:
        """Usage: containers with an endpoint in the network."""
        found = []
        for container in self.parts.catalog:
            endpoints = container.record.endpoints
            if name in endpoints or network_id in endpoints:
                found.append(_user(container))
        return found

    # Life

    async def create(self, name: str, body: CreateBody, platform: str = "") -> ContainerCreateResponse:
        """A new container."""
        return await self._creation.create(name, body, platform)

    async def start(self, reference: str) -> None:
        """NotModified when it runs."""
        await self._running.start(self.get(reference))

    async def stop(self, reference: str, timeout: int | None, signal: str = "", *, by: str = "") -> None:
        """NotModified when it does not run. `by` is who asks, for `explain`."""
        await self._stopping.stop(self.get(reference), timeout, signal, by=by)

    async def restart(self, reference: str, timeout: int | None, signal: str = "", *, by: str = "") -> None:
        """Stop and start."""
        container = self.get(reference)
        with prefixed(f"Cannot restart container {reference}: "):
            await self._stopping.restart(container, timeout, signal, by=by)

    async def kill(self, reference: str, signal: str, *, by: str = "") -> None:
        """A signal by name or number."""
        with prefixed(f"cannot kill container: {reference}: "):
            await self._stopping.kill(self.get(reference), signal, by=by)

    async def pause(self, reference: str) -> None:
        """Freeze."""
        await self._stopping.pause(self.get(reference))

    async def unpause(self, reference: str) -> None:
        """Thaw."""
        await self._stopping.unpause(self.get(reference))

    async def remove(self, reference: str, *, force: bool, volumes: bool) -> None:
        """Conflict while it runs, unless `force`."""
        container = self.get(reference)
        if container.deleting and not force:
            raise Conflict(f"removal of container {reference} is already in progress")
        if force and is_running(container.status):
            await self._stopping.kill_for_removal(container)
        elif not container.deleting:
            self._removal.check(container)
        await self._removal.remove(container, volumes=volumes or container.auto_remove)

    async def unlink(self, reference: str) -> None:
        """Take a link away, `container/alias`; both containers stay. NotFound, InvalidArgument in Docker's words."""
        name, slash, alias = reference.removeprefix("/").partition("/")
        if not slash:
            raise InvalidArgument("Conflict, cannot remove the default link name of the container")
        container = self.get(name)
        async with container.lock:
            container.record.host_config = without_link(container.record.host_config, reference, alias)
            self.parts.catalog.save(container, durable=not container.auto_remove)
            if container.live_task() is not None:
                self.parts.networks.relink(container.facts())

    async def prune(self, filters: Filters) -> ContainersPruned:
        """Remove what does not run."""
        return await self._removal.prune(filters)

    async def update(self, reference: str, change: HostConfig) -> list[str]:
        """Limits and restart policy. Returns warnings."""
        return await self._updating.update(self.get(reference), change)

    async def change_ports(self, reference: str, body: PortsBody) -> None:
        """Published ports."""
        await self._publishing.change(self.get(reference), body)

    async def rename(self, reference: str, name: str) -> None:
        """A new name."""
        await self._updating.rename(self.get(reference), name)

    def explain(self, reference: str) -> Explanation:
        """Why it is in the state it is in."""
        return explain(self.get(reference))

    # Networks of a container, for the network routes

    async def connect(self, reference: str, network: str, settings: EndpointSettings) -> None:
        """Add an endpoint, at once when it runs."""
        container = self.get(reference)
        async with container.changing():
            task = container.live_task()
            await self.parts.networks.connect(container.facts(), network, settings, task.pid if task else None)
            try:
                await self._publish_missing(container)
            except ResourceExhausted:
                await self.parts.networks.disconnect(container.facts(), network, task.pid if task else None, force=False)
                raise
            self._save_endpoints(container)

    async def disconnect(self, reference: str, network: str, *, force: bool) -> None:
        """Take an endpoint away."""
        container = self.get(reference)
        async with container.changing():
            task = container.live_task()
            await self.parts.networks.disconnect(container.facts(), network, task.pid if task else None, force=force)
            try:
                await self._publish_missing(container)
            except ResourceExhausted as error:
                # It has left the network; that something else has its port now is no reason to say it has not.
                log.warning("container %s: %s", container.name, error.message)
            self._save_endpoints(container)

    async def _publish_missing(self, container: Container) -> None:
        task = container.live_task()
        if task is not None and (sockets := self.parts.networks.publish_missing(container.facts())):
            await task.hold_ports(sockets, ())

    def _save_endpoints(self, container: Container) -> None:
        """As the networks know them now, by name; the caller may have named one by its id."""
        container.record.endpoints = self.parts.networks.check(container.facts())
        self.parts.catalog.save(container, durable=not container.auto_remove)

    # Looking

    async def inspect(self, reference: str, *, size: bool = False) -> Document:
        """The container as a JSON object."""
        return await self._inspection.inspect(self.get(reference), size=size)

    async def list(self, *, all: bool, limit: int, size: bool, filters: Filters) -> list[ContainerSummary]:
        """Summaries, newest first."""
        return await self._listing.list(all=all, limit=limit, size=size, filters=filters)

    async def top(self, reference: str, arguments: str) -> ContainerTopResponse:
        """Its processes."""
        container = self.get(reference)
        task = container.live_task()
        if task is None:
            raise Conflict(f"container {container.id} is not running")
        titles, rows = processes.table(await task.pids(), arguments, container.uid_base)
        self.parts.emit(container, "top")
        return ContainerTopResponse(titles=titles, processes=rows)

    def stats(self, reference: str, *, follow: bool, one_shot: bool) -> AsyncIterator[ContainerStatsResponse]:
        """Readings of its control group."""
        return statistics.stream(self.get(reference), follow=follow, one_shot=one_shot)

    def logs(self, reference: str, query: logs.LogQuery, *, raw: bool = False) -> AsyncIterator[bytes]:
        """Its log, encoded; with `raw` never in frames. NotImplementedKind, at once, when its driver keeps none."""
        container = self.get(reference)
        config = container.record.host_config.log_config
        if config is not None and config.type == "none":
            raise NotImplementedKind("configured logging driver does not support reading")
        if not query.stdout and not query.stderr:
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        ended = container.next_exit() if query.follow and container.status in HAS_TASK else None
        return logs.stream(self.parts.log_path(container.id), query, framed=not (container.tty or raw), ended=ended)

    async def rotate_log(self, reference: str) -> None:
        """Begin a new log file. Conflict unless it runs; InvalidArgument when it has no log."""
        container = self.get(reference)
        task = container.live_task()
        if task is None:
            raise Conflict(f"container {container.id} is not running: nobody writes to its log")
        config = container.record.host_config.log_config
        if config is not None and config.type == "none":
            raise InvalidArgument(f"container {container.name} has no log to rotate: its log driver is none")
        await task.rotate_log()

    # Streams and ends

    def check_attach(self, reference: str) -> Container:
        """Before a connection is taken over: whether it can be attached to."""
        container = self.get(reference)
        self._attaching.check(container)
        return container

    async def attach(self, container: Container, stream: AttachStream) -> None:
        """Hand a connection over."""
        await self._attaching.attach(container, stream)

    def wait(self, reference: str, condition: str) -> asyncio.Future[Ended]:
        """Its end."""
        return self._attaching.wait(self.get(reference), condition)

    async def resize(self, reference: str, height: int, width: int) -> None:
        """The terminal's size. A container without one takes no notice, as with Docker: clients ask whatever it has."""
        container = self.get(reference)
        task = container.live_task()
        if task is None:
            raise Conflict(f"container {container.id} is not running")
        check_terminal_size(height, width)
        if container.tty:
            await task.resize(height, width)
        self.parts.emit(container, "resize", {"height": str(height), "width": str(width)})


def _user(container: Container) -> User:
    return User(id=container.id, name=container.name, running=is_running(container.status))
