"""Pull: layers are downloaded three at a time and unpacked in order, each while the next ones are still coming.

Nothing is recorded before everything is there and verified: manifests and configuration as blobs, layers by the layer
store, then one durable transaction for image, index, tag and repository digest. A lease keeps all of it meanwhile. What was
downloaded when a pull fails stays, and the next try goes on from there.

Of an index the document is kept, and the manifest, image and attestations of the platform that was asked for; those of other
platforms that came by earlier pulls stay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from berth import failpoint
from berth.contract.image import Image, Progress
from berth.contract.store import Blobs, Layer, Layers
from berth.engine.events import Events
from berth.engine.images.index import platform_of, subject_of
from berth.engine.images.lease import Lease, Leases
from berth.engine.images.progress import Reporter, one_error, reporting
from berth.engine.images.resolve import Resolved, first_answer, follow, translate
from berth.engine.images.store import ImageStore
from berth.engine.images.view import labels_of
from berth.errors import (
    BerthError,
    DataLoss,
    Forbidden,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from berth.model.descriptor import Descriptor, Platform
from berth.model.digest import Digest, chain_id, hex_of
from berth.model.reference import Reference, parse
from berth.registry.access import Registries
from berth.registry.client import Fetched, RegistryClient
from berth.registry.credential import NOBODY, Credentials
from berth.registry.manifest import MAX_CONFIG, check_layers, host_platform, matches, parse_config, parse_platform, text_of
from berth.wire.document import ImageDocument, IndexDocument, ManifestDocument

log = logging.getLogger("berth.engine")
_DOWNLOADS = 3
# Attestations (provenance, bills of materials) are read by people, not run: beyond this they stay where they are.
_MAX_ATTESTATION = 64 << 20
_NEWER = "Status: Downloaded newer image for "
_SAME = "Status: Image is up to date for "


class _MirrorFailed(Exception):
    def __init__(self, host: str, error: BerthError) -> None:
        super().__init__(error.message)
        self.host = host
        self.error = error


@contextmanager
def _mirror_errors(client: RegistryClient) -> Iterator[None]:
    """What a mirror cannot give is no answer of the registry."""
    try:
        yield
    except (Unavailable, NotFound, DataLoss, Forbidden, Unauthenticated, ResourceExhausted) as error:
        full = isinstance(error, ResourceExhausted) and isinstance(error.__cause__, OSError)
        if full or not client.transport.endpoint.mirror:
            raise
        raise _MirrorFailed(client.transport.endpoint.host, error) from error


class Puller:
    """POST /images/create with fromImage."""

    def __init__(
        self, events: Events, blobs: Blobs, layers: Layers, store: ImageStore, leases: Leases, registries: Registries
    ) -> None:
        self._events = events
        self._blobs = blobs
        self._layers = layers
        self._store = store
        self._leases = leases
        self._registries = registries

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        credentials: Credentials = NOBODY,
        listener: Progress | None = None,
    ) -> Image:
        """One image. Errors that come before the first message are raised before anything is reported."""
        try:
            image = await self._pull(reference, platform, credentials, listener, mirrors=True)
        except _MirrorFailed as failure:
            # What it gave of the layers is kept, and verified as ever; the registry itself has the rest.
            log.warning("%s: the mirror %s failed: %s", reference.familiar, failure.host, failure.error.message)
            image = await self._pull(reference, platform, credentials, listener, mirrors=False)
        attributes = {"name": reference.familiar_name, **labels_of(image.document)}
        self._events.publish("image", "pull", reference.familiar, attributes)
        return image

    async def _pull(
        self, reference: Reference, platform: str, credentials: Credentials, listener: Progress | None, *, mirrors: bool
    ) -> Image:
        want = parse_platform(platform)
        known = self._known(reference, want)
        found = first_answer(self._registries, reference, credentials, frozenset(known), mirrors=mirrors)
        async with found as (client, top):
            with _mirror_errors(client):
                resolved = await follow(client, top, want, reference) if isinstance(top, Fetched) else None
            digest = top.digest if isinstance(top, Fetched) else top
            async with reporting(listener) as reporter:
                reporter.message(f"Pulling from {reference.path}", reference.digest or reference.tag)
                if resolved is None:
                    image, newer = known[digest], False
                else:
                    with _mirror_errors(client):
                        image, newer = await self._fetch(resolved, reference, want if platform else None, reporter)
                reporter.message(f"Digest: {digest}")
                reporter.message((_NEWER if newer else _SAME) + reference.familiar)
        return image

    def _known(self, reference: Reference, want: Platform) -> dict[Digest, Image]:
        """The image that the reference means here, by the digests that its repository knows it by."""
        target = self._store.target(reference)
        try:
            image = self._store.find(str(reference)) if target is not None else None
            image = self._store.platform(image, want) if image is not None else None
            if image is None:
                return {}
            self._store.stack(image)
            if image.index is not None:
                self._store.indexes.document(image.index)
        except (NotFound, DataLoss):
            # What is here is damaged: it is pulled again, not believed.
            return {}
        digests = self._store.names(image.id).digests
        return {name.digest: image for name in digests if name.digest is not None and name.repository == reference.repository}

    async def tags(self, reference: Reference, credentials: Credentials) -> list[Reference]:
        """All tags of a repository, as references."""
        failure: BerthError | None = None
        async with self._registries.open(reference, credentials) as clients:
            for client in clients:
                try:
                    tags = await client.tags()
                except BerthError as error:
                    failure = translate(error, reference)
                    continue
                found = (_with_tag(reference, tag) for tag in sorted(set(tags)))
                return [tagged for tagged in found if tagged is not None]
        raise failure or NotFound(f"no tags found for {reference.familiar_name}")

    async def _fetch(
        self, resolved: Resolved, reference: Reference, platform: Platform | None, reporter: Reporter
    ) -> tuple[Image, bool]:
        manifest = resolved.manifest
        check_layers(manifest)
        before = self._before(reference)
        with self._leases.hold(manifest.config.digest, *(found.digest for found in resolved.chain)) as lease:
            data = await self._config(resolved.client, manifest.config)
            document = parse_config(data)
            _check(document, manifest.layers, platform, reference)
            new = await self._layers_of(resolved.client, document, manifest.layers, lease, reporter)
            await self._attestations(resolved, lease)
            for found in resolved.chain:
                self._blobs.write(found.data)
            failpoint.hit("image.pull.after-manifests")
            image = self._record(resolved, data, reference)
        return image, new or (image.id, resolved.top.digest) not in before

    def _before(self, reference: Reference) -> set[tuple[Digest, Digest]]:
        """What the reference meant until now: images, with the digests that their repository has for them."""
        target = self._store.target(reference)
        if target is None:
            return set()
        image_id, index = target
        if index is not None:
            return {(member, index) for member in self._store.indexes.members(index).values()}
        digests = self._store.names(image_id).digests
        return {
            (image_id, name.digest) for name in digests if name.digest is not None and name.repository == reference.repository
        }

    def _record(self, resolved: Resolved, data: bytes, reference: Reference) -> Image:
        tags = [reference] if reference.digest is None else []
        name = Reference(reference.domain, reference.path, None, resolved.top.digest)
        if len(resolved.chain) == 1:
            return self._store.add(data, tags=tags, digests=[name])
        (image,) = self._store.add_index(resolved.top.digest, {resolved.chain[-1].digest: data}, tags=tags, digests=[name])
        return image

    async def _attestations(self, resolved: Resolved, lease: Lease) -> None:
        """What the image's own index says about it. That it cannot be had does not keep anybody from the image."""
        parent = resolved.chain[-2].document if len(resolved.chain) > 1 else None
        for entry in parent.manifests if isinstance(parent, IndexDocument) else ():
            if subject_of(entry) != resolved.chain[-1].digest:
                continue
            try:
                await self._attestation(resolved.client, entry, lease)
            except (NotFound, DataLoss, Forbidden, Unauthenticated) as error:
                log.warning("the attestation %s is left out: %s", entry.digest, error.message)

    async def _attestation(self, client: RegistryClient, entry: Descriptor, lease: Lease) -> None:
        found = await client.manifest(entry.digest)
        if not isinstance(found.document, ManifestDocument):
            raise DataLoss(f"the attestation {entry.digest} is no manifest")
        blobs = [found.document.config, *found.document.layers]
        if sum(blob.size for blob in blobs) > _MAX_ATTESTATION:
            raise DataLoss(f"it has more than the {_MAX_ATTESTATION} bytes that are allowed")
        lease.add(entry.digest, *(blob.digest for blob in blobs))
        for blob in blobs:
            if not self._blobs.has(blob.digest):
                await self._blobs.ingest(blob.digest, blob.size, partial(client.blob, blob))
        self._blobs.write(found.data)

    async def _config(self, client: RegistryClient, descriptor: Descriptor) -> bytes:
        try:
            return self._blobs.read(descriptor.digest)
        except (NotFound, DataLoss):
            pass
        return await client.small_blob(descriptor, MAX_CONFIG, "the image's configuration")

    async def _layers_of(
        self, client: RegistryClient, document: ImageDocument, blobs: list[Descriptor], lease: Lease, reporter: Reporter
    ) -> bool:
        """Download and unpack what is missing. Whether anything was."""
        diff_ids = document.rootfs.diff_ids
        chains = [chain_id(tuple(diff_ids[: count + 1])) for count in range(len(diff_ids))]
        lease.add(*chains, *(blob.digest for blob in blobs))
        have = 0
        while have < len(chains) and self._layers.whole(chains[have]):
            reporter.state(_short(blobs[have].digest), "Already exists")
            have += 1
        for blob in blobs[have:]:
            reporter.state(_short(blob.digest), "Pulling fs layer")
        slots = asyncio.Semaphore(_DOWNLOADS)
        async with one_error(), asyncio.TaskGroup() as group:
            tasks: dict[Digest, asyncio.Task[None]] = {}
            for blob in blobs[have:]:
                if blob.digest not in tasks:
                    tasks[blob.digest] = group.create_task(self._download(client, blob, slots, reporter))
            if have < len(chains):
                parent = chains[have - 1] if have else None
                group.create_task(self._unpack(blobs[have:], diff_ids[have:], parent, tasks, reporter))
        return have < len(chains)

    async def _download(self, client: RegistryClient, blob: Descriptor, slots: asyncio.Semaphore, reporter: Reporter) -> None:
        short = _short(blob.digest)
        if slots.locked():
            reporter.state(short, "Waiting")
        async with slots:
            if not self._blobs.has(blob.digest):
                meter = reporter.meter(short, "Downloading", blob.size)
                await self._blobs.ingest(blob.digest, blob.size, lambda offset: client.blob(blob, offset), meter)
                reporter.state(short, "Verifying Checksum")
            reporter.state(short, "Download complete")

    async def _unpack(
        self,
        blobs: list[Descriptor],
        diff_ids: list[Digest],
        parent: Digest | None,
        downloads: dict[Digest, asyncio.Task[None]],
        reporter: Reporter,
    ) -> Layer | None:
        layer: Layer | None = None
        for blob, diff_id in zip(blobs, diff_ids, strict=True):
            await downloads[blob.digest]
            short = _short(blob.digest)
            plain = Descriptor(blob.media_type, blob.digest, blob.size)
            layer = await self._layers.apply_blob(parent, diff_id, plain, reporter.meter(short, "Extracting", blob.size))
            parent = layer.chain_id
            reporter.state(short, "Pull complete")
        return layer


def _check(document: ImageDocument, blobs: list[Descriptor], platform: Platform | None, reference: Reference) -> None:
    if len(document.rootfs.diff_ids) != len(blobs):
        raise DataLoss(
            f"the image {reference.familiar} is damaged: its configuration names {len(document.rootfs.diff_ids)} layers, "
            f"its manifest {len(blobs)}"
        )
    have = platform_of(document)
    if have.os != host_platform().os:
        raise NotFound(f'image operating system "{have.os}" cannot be used on this platform: {reference.familiar}')
    if platform is not None and not matches(have, platform):
        raise NotFound(
            f"image with reference {reference.familiar} was found but does not match the specified platform: "
            f"wanted {text_of(platform)}, actual: {text_of(have)}"
        )


def _with_tag(repository: Reference, tag: str) -> Reference | None:
    """The list of tags is the registry's word: what is no tag by the grammar is left out."""
    try:
        found = parse(f"{repository.repository}:{tag}")
    except InvalidArgument:
        return None
    return found if found.tag == tag and found.digest is None else None


def _short(digest: Digest) -> str:
    return hex_of(digest)[:12]
