"""Push: layers three at a time, what the registry has already is skipped or mounted, then configuration and manifest.

A layer that came from elsewhere goes out in the blob it came in, and if all do, under the manifest it came with, so its
repository digest stays. A layer of our own is compressed on the way; its compressed digest is remembered (table
`compressed`), so that the next push asks whether it is there before anything is read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable

import msgspec

from berth.contract.image import Image, Progress
from berth.contract.store import Blobs, Layer, Layers
from berth.engine.events import Events
from berth.engine.images.compress import GzipStream, read_file
from berth.engine.images.lease import Leases
from berth.engine.images.progress import Reporter, one_error, reporting
from berth.engine.images.store import ImageStore
from berth.errors import BerthError, DataLoss, NotFound, Unavailable
from berth.model.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
)
from berth.model.digest import Digest, digest_of, hex_of
from berth.model.reference import Reference
from berth.registry.access import Registries
from berth.registry.client import RegistryClient
from berth.registry.credential import NOBODY, Credentials
from berth.registry.manifest import media_type_of, parse_manifest
from berth.storage.database import Database
from berth.wire.document import IndexDocument, ManifestDocument

_UPLOADS = 3
_TRIES = 3
_MOUNTS = 3
_COMPRESSED = frozenset({OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER_GZIP})


class Pusher:
    """POST /images/{name}/push."""

    def __init__(
        self,
        database: Database,
        events: Events,
        blobs: Blobs,
        layers: Layers,
        store: ImageStore,
        leases: Leases,
        registries: Registries,
    ) -> None:
        self._database = database
        self._events = events
        self._blobs = blobs
        self._layers = layers
        self._store = store
        self._leases = leases
        self._registries = registries

    async def push(
        self,
        repository: Reference,
        tag: str | None,
        *,
        credentials: Credentials = NOBODY,
        listener: Progress | None = None,
    ) -> None:
        """One tag, or with None all tags of the repository."""
        async with reporting(listener) as reporter:
            reporter.message(f"The push refers to repository [{repository.repository}]")
            targets = self._targets(repository, tag)
            async with self._registries.open(repository, credentials, "pull,push", mirrors=False) as clients:
                for reference, image in targets:
                    await self._push_one(clients[-1], reference, image, reporter)

    def _targets(self, repository: Reference, tag: str | None) -> list[tuple[Reference, Image]]:
        there = self._store.tags_of_repository(repository)
        if not there:
            raise NotFound(f"An image does not exist locally with the tag: {repository.familiar_name}")
        chosen = [(reference, image_id) for reference, image_id in there if tag is None or reference.tag == tag]
        if not chosen:
            raise NotFound(f"tag does not exist: {Reference(repository.domain, repository.path, tag).familiar}")
        images = ((reference, self._store.by_id(image_id)) for reference, image_id in chosen)
        return [(reference, image) for reference, image in images if image is not None]

    async def _push_one(self, client: RegistryClient, reference: Reference, image: Image, reporter: Reporter) -> None:
        stack = self._store.stack(image)
        with self._leases.hold(image.id, *(layer.chain_id for layer in stack)):
            for layer in reversed(stack):
                reporter.state(_short(layer.diff_id), "Preparing")
            slots = asyncio.Semaphore(_UPLOADS)
            async with one_error(), asyncio.TaskGroup() as group:
                tasks = [group.create_task(_Upload(self, client, reference, layer, reporter).run(slots)) for layer in stack]
            await self._push_config(client, image)
            data, media_type = self._manifest(image, [task.result() for task in tasks])
            digest = digest_of(data)
            await client.put_manifest(reference.tag or digest, data, media_type)
            self._blobs.write(data)
            self._store.add_digest(image.id, Reference(reference.domain, reference.path, None, digest))
        reporter.message(f"{reference.tag}: digest: {digest} size: {len(data)}")
        reporter.raw({"progressDetail": {}, "aux": {"Tag": reference.tag, "Digest": digest, "Size": len(data)}})
        self._events.publish("image", "push", reference.familiar, {"name": reference.familiar_name})

    async def _push_config(self, client: RegistryClient, image: Image) -> None:
        if await client.has_blob(image.id) is not None:
            return
        data = self._store.document_bytes(image.id)

        async def body() -> AsyncIterator[bytes]:
            yield data

        await client.upload(await client.start_upload(), body, lambda: image.id)

    def _manifest(self, image: Image, layers: list[Descriptor]) -> tuple[bytes, str]:
        """The manifest it came with if that still describes what was pushed, else one of our own."""
        for found in self._known_manifests(image):
            document = parse_manifest(found)
            if isinstance(document, ManifestDocument) and [blob.digest for blob in document.layers] == [b.digest for b in layers]:
                return found, media_type_of(document)
        zstd = OCI_LAYER_ZSTD
        oci = any(blob.media_type == zstd for blob in layers)
        size = len(self._store.document_bytes(image.id))
        kind = OCI_LAYER_GZIP if oci else DOCKER_LAYER_GZIP
        document = ManifestDocument(
            schema_version=2,
            media_type=OCI_MANIFEST if oci else DOCKER_MANIFEST,
            config=Descriptor(OCI_CONFIG if oci else DOCKER_CONFIG, image.id, size),
            layers=[Descriptor(zstd if blob.media_type == zstd else kind, blob.digest, blob.size) for blob in layers],
        )
        return msgspec.json.encode(document), document.media_type or DOCKER_MANIFEST

    def _known_manifests(self, image: Image) -> list[bytes]:
        found: list[bytes] = []
        waiting = [name.digest for name in self._store.names(image.id).digests]
        while waiting:
            digest = waiting.pop(0)
            if digest is None or not self._blobs.has(digest):
                continue
            try:
                data = self._blobs.read(digest)
                document = parse_manifest(data)
            except BerthError:
                continue
            if isinstance(document, IndexDocument):
                waiting += [entry.digest for entry in document.manifests]
            elif document.config.digest == image.id:
                found.append(data)
        return found

    # What an upload needs to know

    def descriptor(self, layer: Layer) -> Descriptor | None:
        """How the layer looks compressed, as far as that is known."""
        if layer.blob is not None and layer.blob.media_type in _COMPRESSED:
            return layer.blob
        row = self._database.row("SELECT digest, size FROM compressed WHERE diff_id = ?", (layer.diff_id,))
        return Descriptor(DOCKER_LAYER_GZIP, Digest(row[0]), row[1]) if row else None

    def remember(self, layer: Layer, blob: Descriptor) -> None:
        """Keep what the layer looks like compressed."""
        self._database.execute(
            "INSERT INTO compressed (diff_id, digest, size) VALUES (?, ?, ?)"
            " ON CONFLICT (diff_id) DO UPDATE SET digest = excluded.digest, size = excluded.size",
            (layer.diff_id, blob.digest, blob.size),
        )

    def source(self, layer: Layer) -> AsyncIterator[bytes] | GzipStream:
        """The compressed bytes: the blob's file, or compressed now."""
        if layer.blob is not None and layer.blob.media_type in _COMPRESSED:
            return read_file(self._blobs.path(layer.blob.digest))
        return GzipStream(self._layers.tar(layer.chain_id))

    def neighbours(self, reference: Reference, layer: Layer) -> list[Reference]:
        """Other repositories of the same registry that know an image with this layer."""
        found: dict[str, Reference] = {}
        for image in self._store.all():
            names = [name for name in self._store.names(image.id).digests if name.domain == reference.domain]
            if names and layer.diff_id in image.document.rootfs.diff_ids:
                found.update({name.path: name for name in names if name.path != reference.path})
        return list(found.values())[:_MOUNTS]


class _Upload:
    """One layer's way to the registry."""

    def __init__(self, pusher: Pusher, client: RegistryClient, reference: Reference, layer: Layer, reporter: Reporter) -> None:
        self._pusher = pusher
        self._client = client
        self._reference = reference
        self._layer = layer
        self._reporter = reporter
        self._short = _short(layer.diff_id)

    async def run(self, slots: asyncio.Semaphore) -> Descriptor:
        """The descriptor to put into the manifest."""
        if slots.locked():
            self._reporter.state(self._short, "Waiting")
        async with slots:
            known = self._pusher.descriptor(self._layer)
            location: str | None = None
            if known is not None:
                if await self._client.has_blob(known.digest) is not None:
                    self._reporter.state(self._short, "Layer already exists")
                    return known
                mounted, location = await self._mount(known)
                if mounted:
                    return known
            return await self._send(location)

    async def _mount(self, blob: Descriptor) -> tuple[bool, str | None]:
        """Try the neighbours. Whether one gave the blob, and else an upload that the last try began."""
        location: str | None = None
        for neighbour in self._pusher.neighbours(self._reference, self._layer):
            self._client.transport.add_scope(f"repository:{neighbour.path}:pull")
            try:
                location = await self._client.mount(blob.digest, neighbour.path)
            except Unavailable:
                raise
            except BerthError:
                # Not allowed to read there, or no such thing any more: it is only a short cut.
                continue
            if location is None:
                self._reporter.state(self._short, f"Mounted from {neighbour.familiar_name}")
                return True, None
        return False, location

    async def _send(self, location: str | None) -> Descriptor:
        for attempt in range(1, _TRIES + 1):
            counter = _Counter(self._pusher, self._layer, self._reporter, self._short)
            try:
                place = location or await self._client.start_upload()
                await self._client.upload(place, counter.body, counter.digest)
            except Unavailable:
                if attempt == _TRIES:
                    raise
                self._reporter.state(self._short, "Retrying")
                location = None
                await asyncio.sleep(self._client.delay * attempt)
                continue
            break
        blob = counter.descriptor()
        if self._layer.blob is None or blob.digest != self._layer.blob.digest:
            self._pusher.remember(self._layer, blob)
        self._reporter.state(self._short, "Pushed")
        return blob


class _Counter:
    """The body of an upload, counted and hashed; made anew when it has to be sent again."""

    def __init__(self, pusher: Pusher, layer: Layer, reporter: Reporter, short: str) -> None:
        self._pusher = pusher
        self._layer = layer
        self._reporter = reporter
        self._short = short
        self._size = 0
        self._digest: Callable[[], Digest] = lambda: digest_of(b"")

    async def body(self) -> AsyncIterator[bytes]:
        source = self._pusher.source(self._layer)
        hasher = hashlib.sha256()
        self._size = 0
        self._digest = lambda: source.digest if isinstance(source, GzipStream) else Digest(f"sha256:{hasher.hexdigest()}")
        async for piece in source:
            if not isinstance(source, GzipStream):
                hasher.update(piece)
            self._size += len(piece)
            yield piece
            done = source.consumed if isinstance(source, GzipStream) else self._size
            total = self._layer.size if isinstance(source, GzipStream) else self._layer.blob.size if self._layer.blob else 0
            self._reporter.amount(self._short, "Pushing", min(done, total) if total else done, total)

    def digest(self) -> Digest:
        """Of all that was sent. DataLoss when a stored blob is not what it should be."""
        found = self._digest()
        blob = self._layer.blob
        if blob is not None and blob.media_type in _COMPRESSED and found != blob.digest:
            raise DataLoss(f"the stored blob {blob.digest} is damaged: remove the image and pull it again")
        return found

    def descriptor(self) -> Descriptor:
        """What was sent."""
        blob = self._layer.blob
        kind = blob.media_type if blob is not None and blob.media_type in _COMPRESSED else DOCKER_LAYER_GZIP
        return Descriptor(kind, self._digest(), self._size)


def _short(digest: Digest) -> str:
    return hex_of(digest)[:12]
