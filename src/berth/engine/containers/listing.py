"""GET /containers/json: which containers match, and their summaries."""

from __future__ import annotations

import re
import time

from berth.contract.image import Image, Images
from berth.engine.containers.inspection import endpoint_documents, mount_point
from berth.engine.containers.lifecycle import Status, is_running
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.engine.containers.removal import matches_no_label
from berth.errors import DataLoss, InvalidArgument, NotFound
from berth.model.filters import Filters
from berth.model.units import human_duration
from berth.wire.container import (
    ContainerSummary,
    ContainerSummaryHealth,
    ContainerSummaryHostConfig,
    ContainerSummaryNetworkSettings,
)
from berth.wire.network import NetworkSettings, PortSummary

FILTERS = frozenset(
    [
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "label!",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    ]
)
_STATES = frozenset({"created", "running", "paused", "restarting", "removing", "exited", "dead"})
_HEALTH = frozenset({"starting", "healthy", "unhealthy", "none"})


def status_text(container: Container, now: float) -> str:
    """The STATUS column."""
    state, status = container.state, container.status
    if status is Status.RESTARTING:
        return f"Restarting ({state.exit_code}) {human_duration(now - state.finished_at)} ago"
    if is_running(status):
        text = f"Up {human_duration(container.running_for())}"
        if status is Status.PAUSED:
            return text + " (Paused)"
        if container.health is not None and container.health.status:
            health = container.health.status
            text += f" (health: {health})" if health == "starting" else f" ({health})"
        return text
    if status is Status.REMOVING:
        return "Removal In Progress"
    if status is Status.DEAD:
        return "Dead"
    if not state.started_at:
        return "Created"
    return f"Exited ({state.exit_code}) {human_duration(now - state.finished_at)} ago"


def command_text(path: str, args: list[str]) -> str:
    """The COMMAND column: arguments with spaces are quoted."""
    return " ".join([path, *(f"'{a}'" if " " in a else a for a in args)])


def port_summaries(settings: NetworkSettings) -> list[PortSummary]:
    """The PORTS column's data."""
    found = []
    for port, bindings in (settings.ports or {}).items():
        number, _, protocol = port.partition("/")
        private = int(number)
        # In routed networks a port is open by the container's address, and the host has none for it.
        mapped = [binding for binding in bindings or [] if binding.host_port]
        if not mapped:
            found.append(PortSummary(private_port=private, type=protocol or "tcp"))
        for binding in mapped:
            public = int(binding.host_port or 0)
            found.append(PortSummary(ip=binding.host_ip, private_port=private, public_port=public, type=protocol or "tcp"))
    return found


def _matches_text(wanted: tuple[str, ...], *texts: str) -> bool:
    """Any value equals, or matches as a regular expression, any of the texts."""
    for value in wanted:
        try:
            pattern = re.compile(value)
        except re.error:
            raise InvalidArgument(f"invalid filter value '{value}'") from None
        if any(value == text or pattern.search(text) for text in texts):
            return True
    return False


def _port_set(value: str) -> set[str]:
    ports, _, protocol = value.partition("/")
    first, _, last = ports.partition("-")
    if not first.isdigit() or (last and not last.isdigit()):
        raise InvalidArgument(f"invalid filter: {value}: give a port, port/protocol or a range")
    return {f"{n}/{protocol or 'tcp'}" for n in range(int(first), int(last or first) + 1)}


class ListedImages:
    """What one list tells of images: many containers have the same."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._ids: dict[str, set[str]] = {}
        self._sizes: dict[str, int] = {}

    def size(self, image_id: str) -> int:
        """Bytes of its layers; 0 for one that has gone."""
        if image_id not in self._sizes:
            image = self._find(image_id)
            self._sizes[image_id] = image.size if image is not None else 0
        return self._sizes[image_id]

    def _find(self, reference: str) -> Image | None:
        """A damaged image is told of where it is used; containers are listed without it."""
        try:
            return self._images.find(reference)
        except (DataLoss, NotFound):
            return None

    def shown(self, name: str, image_id: str) -> str:
        """The name as the user wrote it while it still stands for the container's image, else the id."""
        if name not in self._ids:
            self._ids[name] = self._meant(name)
        return name if image_id in self._ids[name] else image_id

    def _meant(self, name: str) -> set[str]:
        """The ids of what a name means: one for each platform."""
        try:
            return {image.id for image in self._images.platforms(name)}
        except (DataLoss, NotFound):
            return set()


class Listing:
    """Lists containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def list(self, *, all: bool, limit: int, size: bool, filters: Filters) -> list[ContainerSummary]:
        """Newest first. Without `all` only those that run, unless states are asked for or a limit is given."""
        everything = all or limit > 0 or "status" in filters
        self._check(filters)
        chosen: list[Container] = []
        for container in sorted(self._parts.catalog, key=lambda c: c.record.created, reverse=True):
            if limit > 0 and len(chosen) == limit:
                break
            if (everything or is_running(container.status)) and (not filters.values or self._matches(container, filters)):
                chosen.append(container)
        images, now = ListedImages(self._parts.images), time.time()
        found = [self._summary(c, images, now) for c in chosen]
        if size:
            usages = await self._parts.snapshots.usages([container.id for container in chosen])
            for container, summary, usage in zip(chosen, found, usages, strict=True):
                summary.size_rw = usage
                summary.size_root_fs = usage + images.size(container.record.image_id)
        return found

    def _check(self, filters: Filters) -> None:
        for key, allowed in (("status", _STATES), ("health", _HEALTH)):
            for value in filters.get(key):
                if value not in allowed:
                    raise InvalidArgument(f"invalid filter '{key}={value}'")
        for value in filters.get("exited"):
            if not value.isdigit():
                raise InvalidArgument(f"invalid filter 'exited={value}'")

    def _matches(self, container: Container, filters: Filters) -> bool:
        record, state = container.record, container.state
        labels = record.config.labels
        health = (container.health.status if container.health else None) or "none"
        if not filters.match_labels(labels) or not matches_no_label(filters, labels):
            return False
        if "id" in filters and not any(record.id.startswith(v) for v in filters.get("id")):
            return False
        if "name" in filters and not _matches_text(filters.get("name"), record.name, "/" + record.name):
            return False
        if "status" in filters and str(container.status) not in filters.get("status"):
            return False
        if "health" in filters and health not in filters.get("health"):
            return False
        if "exited" in filters:
            ended = container.status is Status.EXITED
            if not ended or str(state.exit_code) not in filters.get("exited"):
                return False
        if "is-task" in filters and filters.flag("is-task"):
            return False
        return self._matches_order(container, filters) and self._matches_things(container, filters)

    def _matches_order(self, container: Container, filters: Filters) -> bool:
        created = container.record.created
        earlier = [self._parts.catalog.get(value).record.created for value in filters.get("before")]
        later = [self._parts.catalog.get(value).record.created for value in filters.get("since")]
        return all(created < moment for moment in earlier) and all(created > moment for moment in later)

    def _matches_things(self, container: Container, filters: Filters) -> bool:
        record = container.record
        if "ancestor" in filters and not any(self._is_ancestor(v, record.image_id) for v in filters.get("ancestor")):
            return False
        if "volume" in filters:
            texts = {t for m in record.mounts for t in (m.name, m.source, m.destination) if t}
            if not texts.intersection(v.rstrip("/") or "/" for v in filters.get("volume")):
                return False
        if "network" not in filters and "publish" not in filters and "expose" not in filters:
            return True
        settings = self._parts.networks.settings(container.facts())
        if "network" in filters:
            names = set(settings.networks or {}) | {e.network_id or "" for e in (settings.networks or {}).values()}
            if not any(v in names or any(n.startswith(v) and len(n) == 64 for n in names) for v in filters.get("network")):
                return False
        ports = settings.ports or {}
        # The host's ports, with the protocols of the container's.
        published = {f"{x.host_port}/{port.partition('/')[2]}" for port, bindings in ports.items() for x in bindings or []}
        exposed = set(ports) | set(record.config.exposed_ports or {})
        return all(
            key not in filters or any(_port_set(v) & have for v in filters.get(key))
            for key, have in (("publish", published), ("expose", exposed))
        )

    def _is_ancestor(self, reference: str, image_id: str) -> bool:
        wanted = {found.id for found in self._parts.images.platforms(reference)}
        image = self._parts.images.find(image_id)
        while image is not None and wanted:
            if image.id in wanted:
                return True
            image = self._parts.images.find(image.parent) if image.parent else None
        return False

    def _summary(self, container: Container, images: ListedImages, now: float) -> ContainerSummary:
        record, parts = container.record, self._parts
        settings = parts.networks.settings(container.facts())
        return ContainerSummary(
            id=record.id,
            names=["/" + record.name],
            image=images.shown(record.image_name, record.image_id),
            image_id=record.image_id,
            command=command_text(record.path, record.args),
            created=int(record.created),
            ports=port_summaries(settings),
            labels=record.config.labels or {},
            state=str(container.status),
            status=status_text(container, now),
            host_config=ContainerSummaryHostConfig(
                network_mode=record.host_config.network_mode, annotations=record.host_config.annotations
            ),
            network_settings=ContainerSummaryNetworkSettings(networks=endpoint_documents(settings)),
            mounts=[mount_point(m) for m in record.mounts if m.type != "tmpfs"],
            health=ContainerSummaryHealth(
                status=(container.health.status if container.health else None) or "none",
                failing_streak=(container.health.failing_streak if container.health else None) or 0,
            ),
        )
