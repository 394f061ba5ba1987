"""Import: a plain root filesystem, as a tar, becomes an image of one layer."""

from __future__ import annotations

from collections.abc import Sequence

from berth.contract.image import Image
from berth.contract.store import ByteStream, Layers
from berth.engine.events import Events
from berth.engine.images.changes import apply_changes
from berth.engine.images.document import commit_document
from berth.engine.images.lease import Leases
from berth.engine.images.store import ImageStore
from berth.model.reference import Reference
from berth.registry.manifest import parse_platform
from berth.wire.container import ContainerConfig
from berth.wire.document import ImageDocument


class Importer:
    """POST /images/create with fromSrc."""

    def __init__(self, events: Events, layers: Layers, store: ImageStore, leases: Leases) -> None:
        self._events = events
        self._layers = layers
        self._store = store
        self._leases = leases

    async def run(
        self,
        stream: ByteStream,
        *,
        reference: Reference | None = None,
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> Image:
        """Unpack the tar (plain or compressed) and record it. The changes are checked before anything is read."""
        config = ContainerConfig()
        apply_changes(config, changes)
        wanted = parse_platform(platform)
        base = ImageDocument(architecture=wanted.architecture, os=wanted.os, variant=wanted.variant or None)
        layer = await self._layers.apply_tar(None, stream)
        with self._leases.hold(layer.chain_id):
            document = commit_document(base, config, diff_id=layer.diff_id, comment=message or f"Imported from {source}")
            image = self._store.create(document, layer.chain_id, tags=(reference,) if reference else ())
        self._events.publish("image", "import", image.id, {"name": reference.familiar if reference else image.id})
        return image
