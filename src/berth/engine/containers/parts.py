"""What the concerns of the container service share: the neighbours they call, the catalog, the id ranges, the events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from berth.contract.image import Images
from berth.contract.network import ContainerNetworks
from berth.contract.runtime import Abilities, Runtime
from berth.contract.store import Layers, Snapshots, Trees
from berth.contract.volume import Volumes
from berth.engine.config import EngineConfig
from berth.engine.containers.catalog import Catalog
from berth.engine.containers.record import Container
from berth.engine.events import Events
from berth.engine.idrange import IdRanges
from berth.engine.launch_trace import LaunchTrace
from berth.errors import NotFound
from berth.model import extension
from berth.model.extension import Settings
from berth.model.rootfs import Overlay


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Handed to each concern when the service is put together."""

    config: EngineConfig
    events: Events
    runtime: Runtime
    abilities: Abilities
    snapshots: Snapshots
    layers: Layers
    trees: Trees
    images: Images
    networks: ContainerNetworks
    volumes: Volumes
    catalog: Catalog
    ranges: IdRanges
    trace: LaunchTrace

    def emit(self, container: Container, action: str, extra: Mapping[str, str] | None = None) -> None:
        """An event of a container, with Docker's attributes: its labels, image and name, and what the action adds. Nothing is
        told of one that has gone: what was still being done to it had no effect."""
        if container.gone:
            return
        record = container.record
        attributes = {**(record.config.labels or {}), "image": record.image_name, "name": record.name, **(extra or {})}
        self.events.publish("container", action, record.id, attributes)

    def settings(self, container: Container) -> Settings:
        """What berth does with it beyond Docker's API: as it asks for, else as the engine has it."""
        return extension.of_record({**self.config.extensions, **container.record.extensions})

    def directory(self, container_id: str) -> str:
        """The container's directory on disk."""
        return self.config.container(container_id)

    def overlay(self, container: Container) -> Overlay:
        """Its snapshot's mount. NotFound, in the words for a container, when it is being removed at this moment."""
        try:
            return self.snapshots.mounts(container.id)
        except NotFound as error:
            raise NotFound(f"No such container: {container.name}") from error

    def log_path(self, container_id: str) -> str:
        """The json-file log."""
        return f"{self.directory(container_id)}/{container_id}-json.log"
