"""What exists of a project in the engine, found by labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.client.engine import Engine
from berth.compose import label
from berth.compose.model import Project
from berth.errors import NotFound
from berth.wire.container import ContainerSummary

RUNNING = ("running", "restarting", "paused")


@dataclass(frozen=True, slots=True)
class Existing:
    """A container. `anonymous` maps mount targets to volumes without a name of their own."""

    id: str
    name: str
    service: str
    number: int = 1
    state: str = "running"
    config_hash: str = ""
    image_id: str = ""
    oneoff: bool = False
    anonymous: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    summary: ContainerSummary = field(default_factory=ContainerSummary, compare=False)

    @property
    def running(self) -> bool:
        """Whether it has a process."""
        return self.state in RUNNING


@dataclass(frozen=True)
class Observed:
    """Containers in the order of service and number; networks and volumes with their labels, by their names."""

    containers: tuple[Existing, ...] = ()
    networks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    volumes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of_service(self, service: str) -> list[Existing]:
        """A service's containers by number, without those of `run`."""
        return [c for c in self.containers if c.service == service and not c.oneoff]


def observe(engine: Engine, project: Project) -> Observed:
    """Containers of the project, and those of its networks and volumes that are there."""
    wanted = {network.name for network in project.networks.values()}
    networks = {n.name or "": n.labels or {} for n in engine.networks.list() if n.name in wanted} if wanted else {}
    volumes: dict[str, Mapping[str, str]] = {}
    for volume in project.volumes.values():
        try:
            found = engine.volumes.inspect(volume.name)
        except NotFound:
            continue
        volumes[volume.name] = found.labels or {}
    return Observed(tuple(list_containers(engine, project.name)), networks, volumes)


def list_containers(engine: Engine, project: str, *, oneoff: bool | None = None, all: bool = True) -> list[Existing]:
    """The containers of a project by name."""
    found = engine.containers.list(all=all, filters=label.project_filter(project, oneoff=oneoff))
    return sorted((existing(summary) for summary in found), key=lambda c: (c.service, c.number, c.name))


def existing(summary: ContainerSummary) -> Existing:
    """A container out of the engine's list."""
    labels = summary.labels or {}
    number = labels.get(label.NUMBER, "1")
    name = next((n for n in summary.names or [] if n.count("/") == 1), (summary.names or ["/"])[0])
    anonymous = {
        mount.destination: mount.name
        for mount in summary.mounts or []
        if mount.type == "volume" and mount.name and mount.destination and len(mount.name) == 64
    }
    return Existing(
        id=summary.id or "",
        name=name.lstrip("/"),
        service=labels.get(label.SERVICE, ""),
        number=int(number) if number.isdigit() else 1,
        state=summary.state or "",
        config_hash=labels.get(label.CONFIG_HASH, ""),
        image_id=labels.get(label.IMAGE) or summary.image_id or "",
        oneoff=labels.get(label.ONEOFF, "False") == "True",
        anonymous=anonymous,
        labels=labels,
        summary=summary,
    )
