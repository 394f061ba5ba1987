"""Push: layers three at a time, what the registry has already is skipped or mounted, then configuration and manifest.

A layer that came from elsewhere goes out in the blob it came in, and if all do, under the manifest it came with, so its
repository digest stays. A layer of our own is compressed on the way; its compressed digest is remembered (table
`compressed`), so that the next push asks whether it is there before anything is read.

A name that means an index is pushed as the index, byte for byte, when all that it names is here or in the repository already.
Else, as Docker does with its containerd image store: the one platform that is here (of several the host's), with a message.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import structs

from berth.contract.image import Image, Progress
from berth.contract.store import Blobs, Layer, Layers
from berth.engine.events import Events
from berth.engine.images.compress import GzipStream, read_file
from berth.engine.images.index import IMAGE, Entry, Walked, platform_of
from berth.engine.images.lease import Leases
from berth.engine.images.progress import Reporter, one_error, reporting
from berth.engine.images.store import ImageStore
from berth.errors import BerthError, Conflict, DataLoss, NotFound, Unavailable
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
from berth.registry.manifest import host_platform, matches, media_type_of
from berth.storage.database import Database
from berth.wire.document import ManifestDocument

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
        platform: str = "",
        credentials: Credentials = NOBODY,
        listener: Progress | None = None,
    ) -> None:
        """One tag, or with None all tags of the repository; with a platform only the manifest for it."""
        async with reporting(listener) as reporter:
            reporter.message(f"The push refers to repository [{repository.repository}]")
            targets = self._targets(repository, tag)
            async with self._registries.open(repository, credentials, "pull,push", mirrors=False) as clients:
                for reference, image in targets:
                    await self._push_one(clients[-1], reference, self._chosen(reference, image, platform), reporter)

    def _targets(self, repository: Reference, tag: str | None) -> list[tuple[Reference, Image]]:
        there = self._store.tags_of_repository(repository)
        if not there:
            raise NotFound(f"An image does not exist locally with the tag: {repository.familiar_name}")
        chosen = [(reference, image_id) for reference, image_id in there if tag is None or reference.tag == tag]
        if not chosen:
            raise NotFound(f"tag does not exist: {Reference(repository.domain, repository.path, tag).familiar}")
        images = ((reference, self._store.find(str(reference))) for reference, _ in chosen)
        return [(reference, image) for reference, image in images if image is not None]

    def _chosen(self, reference: Reference, image: Image, platform: str) -> Image:
        """The image to push: with a platform the one for it, by itself."""
        if not platform:
            return image
        return structs.replace(self._store.for_platform(image, reference.familiar, platform), index=None)

    async def _push_one(self, client: RegistryClient, reference: Reference, image: Image, reporter: Reporter) -> None:
        plan = await self._plan(client, reference, image) if image.index is not None else None
        if plan is not None and plan.whole:
            pushed = await self._push_index(client, reference, image, plan, reporter)
        else:
            chosen = plan.chosen if plan is not None else image
            pushed = await self._push_manifest(client, reference, chosen, reporter, reference.tag)
            if not self._store.indexes.has_manifest(pushed.digest):
                # One of an index's manifests is no name of its own: it would outlive the index.
                self._store.add_digest(chosen.id, Reference(reference.domain, reference.path, None, pushed.digest))
            if plan is not None:
                reporter.raw({"progressDetail": {}, "aux": _instead(plan.index, pushed)})
        reporter.message(f"{reference.tag}: digest: {pushed.digest} size: {pushed.size}")
        aux = {"Tag": reference.tag, "Digest": pushed.digest, "Size": pushed.size}
        reporter.raw({"progressDetail": {}, "aux": aux})
        self._events.publish("image", "push", reference.familiar, {"name": reference.familiar_name})

    async def _push_manifest(
        self, client: RegistryClient, reference: Reference, image: Image, reporter: Reporter, tag: str | None
    ) -> Descriptor:
        """One image, by its tag, or without one by its digest. The descriptor of its manifest."""
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
            await client.put_manifest(tag or digest, data, media_type)
            self._blobs.write(data)
        return Descriptor(media_type, digest, len(data))

    # Indexes

    async def _plan(self, client: RegistryClient, reference: Reference, image: Image) -> _Plan:
        """What can be pushed of the image's index. Conflict when that is several platforms, and none is the host's."""
        assert image.index is not None
        data = self._blobs.read(image.index)
        walked = self._store.indexes.walk(image.index)
        members = self._store.indexes.members(image.index)
        images = {found.id: found for found in self._store.platforms(image)}
        here = {manifest: images[members[manifest]] for manifest in self._complete(walked, members, images)}
        rest = [entry for entry in walked.entries if entry.descriptor.digest not in here]
        others = [entry for entry in rest if self._has_all(entry)]
        absent = [entry.descriptor.digest for entry in rest if entry not in others]
        missing = [digest for digest in absent if not await _there(client, digest)]
        index = Descriptor(media_type_of(self._store.indexes.document(image.index)), image.index, len(data))
        return _Plan(index, walked, here, others, not missing, self._stand_in(image, images, whole=not missing))

    def _stand_in(self, image: Image, images: dict[Digest, Image], *, whole: bool) -> Image:
        """What is pushed when the index cannot be."""
        if len(images) == 1 or whole or matches(platform_of(image.document), host_platform()):
            return image
        raise Conflict("multiple matching manifests found but no specific platform requested: choose one with --platform")

    def _complete(self, walked: Walked, members: dict[Digest, Digest], images: dict[Digest, Image]) -> list[Digest]:
        """The images whose manifest, as it is, tells what would be pushed of them."""
        found: list[Digest] = []
        for entry in walked.entries:
            image = images.get(members.get(entry.descriptor.digest, Digest("")))
            if image is None or entry.manifest is None:
                continue
            blobs = [self.descriptor(layer) for layer in self._store.stack(image)]
            if [blob and blob.digest for blob in blobs] == [blob.digest for blob in entry.manifest.layers]:
                found.append(entry.descriptor.digest)
        return found

    def _has_all(self, entry: Entry) -> bool:
        """Whether an attestation or artifact is here with all its blobs."""
        return entry.kind != IMAGE and entry.manifest is not None and all(self._blobs.has(blob.digest) for blob in entry.blobs)

    async def _push_index(
        self, client: RegistryClient, reference: Reference, image: Image, plan: _Plan, reporter: Reporter
    ) -> Descriptor:
        """What the index names, from the leaves up, then the index itself under the tag."""
        with self._leases.hold(plan.index.digest, *plan.walked.nested, *(entry.descriptor.digest for entry in plan.others)):
            for member in plan.images.values():
                await self._push_manifest(client, reference, member, reporter, None)
            for entry in plan.others:
                for blob in {blob.digest: blob for blob in entry.blobs}.values():
                    await self._push_blob(client, blob)
                await self._put(client, entry.descriptor.digest, entry.descriptor)
            for nested in reversed(plan.walked.nested):
                await self._put(client, nested, Descriptor(media_type_of(self._store.indexes.document(nested)), nested, 0))
            await self._put(client, reference.tag or plan.index.digest, plan.index)
            name = Reference(reference.domain, reference.path, None, plan.index.digest)
            self._store.add_digest(image.id, name, plan.index.digest)
        return plan.index

    async def _put(self, client: RegistryClient, name: str, descriptor: Descriptor) -> None:
        await client.put_manifest(name, self._blobs.read(descriptor.digest), descriptor.media_type)

    async def _push_blob(self, client: RegistryClient, blob: Descriptor) -> None:
        """A blob of an attestation, as it is."""
        if await client.has_blob(blob.digest) is None:
            path = self._blobs.path(blob.digest)
            await client.upload(await client.start_upload(), lambda: read_file(path), lambda: blob.digest)

    async def _push_config(self, client: RegistryClient, image: Image) -> None:
        if await client.has_blob(image.id) is not None:
            return
        data = self._store.document_bytes(image.id)

        async def body() -> AsyncIterator[bytes]:
            yield data

        await client.upload(await client.start_upload(), body, lambda: image.id)

    def _manifest(self, image: Image, layers: list[Descriptor]) -> tuple[bytes, str]:
        """The manifest it came with if that still describes what was pushed, else one of our own."""
        for found, document in self._store.manifests(image):
            if [blob.digest for blob in document.layers] == [blob.digest for blob in layers]:
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
        for image in self._store.all(members=True):
            names = [name for name in self._store.names(image.id).digests if name.domain == reference.domain]
            if names and layer.diff_id in image.document.rootfs.diff_ids:
                found.update({name.path: name for name in names if name.path != reference.path})
        return list(found.values())[:_MOUNTS]


@dataclass(frozen=True, slots=True)
class _Plan:
    """`images` are here by the digests of their manifests, `others` are attestations and artifacts that are here. `whole`:
    nothing is missing in the repository once they are pushed; else `chosen` is pushed instead of the index."""

    index: Descriptor
    walked: Walked
    images: dict[Digest, Image]
    others: list[Entry]
    whole: bool
    chosen: Image


async def _there(client: RegistryClient, digest: Digest) -> bool:
    try:
        return await client.manifest_digest(digest) is not None
    except Unavailable:
        raise
    except BerthError:
        return False


def _instead(index: Descriptor, manifest: Descriptor) -> dict[str, Any]:
    """What Docker's clients make a hint of."""
    return {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": msgspec.to_builtins(index),
        "selectedManifest": msgspec.to_builtins(manifest),
    }


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
                self._reporter.state(self._short, f"Mounted from {neighbour.path}")
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
