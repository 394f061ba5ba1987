from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from berth.contract.image import Image
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.engine.images.document import commit_document
from berth.engine.images.service import ImageService
from berth.model.reference import parse
from berth.storage.compression import expand
from berth.storage.database import Database
from berth.wire.container import ContainerConfig
from unit.images.twins import MemoryBlobs, MemoryLayers, MemoryUsage


@dataclass
class World:
    """An image service on in-memory stores."""

    service: ImageService
    blobs: MemoryBlobs
    layers: MemoryLayers
    usage: MemoryUsage
    database: Database
    events: Events
    seen: list[str] = field(default_factory=list)

    async def make(
        self,
        *tars: bytes,
        tags: tuple[str, ...] = (),
        labels: dict[str, str] | None = None,
        created: str | None = None,
        parent: Image | None = None,
    ) -> Image:
        """An image of these layers."""
        document = parent.document if parent else None
        chain = parent.chain_id if parent else None
        for data in tars or (b"",):
            layer = self.layers._add(chain, data, None) if data else None
            chain = layer.chain_id if layer else chain
            config = ContainerConfig(labels=labels, cmd=["sh"])
            document = commit_document(
                document, config, diff_id=layer.diff_id if layer else None, created=created, created_by="step"
            )
        assert document is not None
        return await self.service.create(
            document, chain, tags=tuple(parse(t) for t in tags), parent=parent.id if parent else None
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(str(tmp_path / "berth.db"))
    blobs, events, usage = MemoryBlobs(tmp_path), Events(), MemoryUsage()
    layers = MemoryLayers(blobs)
    (tmp_path / "ingest").mkdir()
    service = ImageService(EngineConfig(root=str(tmp_path)), database, events, blobs, layers, expand)
    service.usage = usage
    yield World(service, blobs, layers, usage, database, events)
    database.close()
