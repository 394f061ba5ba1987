"""Load: images out of an archive that `docker save` or an OCI tool made.

    manifest.json              [{"Config": name, "RepoTags": [...], "Layers": [names]}]       docker-archive
    index.json, oci-layout     an index of manifests, everything in blobs/sha256/<hex>         OCI image layout

Both may be there; then manifest.json is followed. Layers that come uncompressed are kept as a gzip blob, which takes a
third of the room and is what a push needs. Digests in an OCI layout are verified; those of a docker-archive are the
layers' diff ids, which unpacking verifies.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass

from msgspec import Struct

from berth.contract.image import Image, Progress
from berth.contract.store import Blobs, ByteStream, Expand, Layers
from berth.engine.events import Events
from berth.engine.images.archive import Archive, Part, spooled
from berth.engine.images.compress import GzipStream, read_file
from berth.engine.images.lease import Lease, Leases
from berth.engine.images.progress import Reporter, one_error, reporting
from berth.engine.images.store import ImageStore
from berth.errors import BerthError, DataLoss, InvalidArgument, NotFound
from berth.kernel.fs import write_all
from berth.model.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    INDEXES,
    OCI_CONFIG,
    OCI_LAYER_ZSTD,
    Descriptor,
    Platform,
)
from berth.model.digest import Digest, chain_id, digest_of, hex_of
from berth.model.identifier import short_id
from berth.model.reference import Reference, parse
from berth.registry.manifest import (
    MAX_CONFIG,
    MAX_MANIFEST,
    check_digest,
    check_layers,
    choose,
    decode,
    matches,
    parse_config,
    parse_manifest,
    parse_platform,
    text_of,
)
from berth.storage.compression import detect
from berth.storage.space import translated
from berth.wire.document import ImageDocument, IndexDocument, ManifestDocument

_MAX_IMAGES = 1000
_KINDS = {"gzip": DOCKER_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _Entry(Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """An image in the archive. `digests` are the layers' own, where the archive tells them."""

    config: bytes
    layers: list[Part]
    tags: list[Reference]
    digests: list[Digest] | None = None


class Loader:
    """POST /images/load. `directory` is where an archive waits while it is read."""

    def __init__(
        self, events: Events, blobs: Blobs, layers: Layers, store: ImageStore, leases: Leases, expand: Expand, directory: str
    ) -> None:
        self._events = events
        self._blobs = blobs
        self._layers = layers
        self._store = store
        self._leases = leases
        self._expand = expand
        self._directory = directory

    async def load(
        self, stream: ByteStream, *, quiet: bool = False, platform: str = "", listener: Progress | None = None
    ) -> list[Image]:
        """All images of the archive."""
        try:
            return await self._load(stream, quiet, platform, listener)
        except DataLoss as error:
            # Nothing of ours was lost: the client sent it.
            raise InvalidArgument(f"the archive cannot be loaded: {error.message}") from error

    async def _load(self, stream: ByteStream, quiet: bool, platform: str, listener: Progress | None) -> list[Image]:
        want = parse_platform(platform)
        async with spooled(stream, self._directory, self._expand) as archive:
            found = _read(archive, want)
            if platform:
                found = [image for image in found if matches(_platform(parse_config(image.config)), want)]
                if not found:
                    raise NotFound(f"the archive has no image for {text_of(want)}")
            async with reporting(listener) as reporter:
                return [await self._one(archive, image, reporter, quiet) for image in found]

    async def _one(self, archive: Archive, found: _Found, reporter: Reporter, quiet: bool) -> Image:
        document = parse_config(found.config)
        diff_ids = document.rootfs.diff_ids
        if len(diff_ids) != len(found.layers):
            raise DataLoss(f"the archive is damaged: an image names {len(diff_ids)} layers, {len(found.layers)} are there")
        with self._leases.hold(digest_of(found.config)) as lease:
            await self._layers_of(archive, found, diff_ids, lease, None if quiet else reporter)
            self._tell_moved(found, reporter)
            image = self._store.add(found.config, tags=found.tags)
        for tag in found.tags:
            reporter.raw({"stream": f"Loaded image: {tag.familiar}\n"})
        if not found.tags:
            reporter.raw({"stream": f"Loaded image ID: {image.id}\n"})
        self._events.publish("image", "load", image.id, {"name": found.tags[0].familiar if found.tags else image.id})
        return image

    def _tell_moved(self, found: _Found, reporter: Reporter) -> None:
        for tag in found.tags:
            before = self._store.by_reference(tag)
            if before is not None and before != digest_of(found.config):
                text = f"The image {tag.familiar} already exists, renaming the old one with ID {before} to empty string\n"
                reporter.raw({"stream": text})

    async def _layers_of(
        self, archive: Archive, found: _Found, diff_ids: list[Digest], lease: Lease, reporter: Reporter | None
    ) -> None:
        """Unpack what is missing, each layer while the next ones are made into blobs."""
        chains = [chain_id(tuple(diff_ids[: count + 1])) for count in range(len(diff_ids))]
        lease.add(*chains)
        have = 0
        while have < len(chains) and self._layers.get(chains[have]) is not None:
            have += 1
        one_at_a_time = asyncio.Lock()
        async with one_error(), asyncio.TaskGroup() as group:
            blobs = [
                group.create_task(self._blob(archive, found, position, lease, one_at_a_time))
                for position in range(have, len(chains))
            ]
            for position, task in enumerate(blobs, have):
                blob, diff_id = await task, diff_ids[position]
                meter = reporter.meter(short_id(diff_id), "Loading layer", blob.size) if reporter is not None else None
                await self._layers.apply_blob(chains[position - 1] if position else None, diff_id, blob, meter)

    async def _blob(
        self, archive: Archive, found: _Found, position: int, lease: Lease, one_at_a_time: asyncio.Lock
    ) -> Descriptor:
        """A layer of the archive as a blob in the store."""
        part = found.layers[position]
        async with one_at_a_time:
            kind = detect(archive.head(part))
            if not kind:
                return await self._compressed(archive, part, lease)
            digest = found.digests[position] if found.digests else await asyncio.to_thread(archive.digest, part)
            blob = Descriptor(_KINDS.get(kind, DOCKER_LAYER), digest, part.size)
            lease.add(blob.digest)
            await self._blobs.ingest(blob.digest, blob.size, lambda offset: archive.stream(part, offset))
            return blob

    async def _compressed(self, archive: Archive, part: Part, lease: Lease) -> Descriptor:
        with (
            translated("receiving the archive"),
            tempfile.NamedTemporaryFile(dir=self._directory, prefix="load-", suffix=".tmp", buffering=0) as file,
        ):
            stream = GzipStream(archive.stream(part))
            async for piece in stream:
                write_all(file.fileno(), piece)
            blob = Descriptor(DOCKER_LAYER_GZIP, stream.digest, stream.size)
            lease.add(blob.digest)
            await self._blobs.ingest(blob.digest, blob.size, lambda offset: read_file(file.name, offset))
        return blob


def _read(archive: Archive, want: Platform) -> list[_Found]:
    manifest = archive.find("manifest.json")
    if manifest is not None:
        data = archive.read(manifest, MAX_MANIFEST, "manifest.json")
        entries = decode(data, list[_Entry], "archive's manifest.json")
        if len(entries) > _MAX_IMAGES:
            raise InvalidArgument(f"the archive has more than {_MAX_IMAGES} images")
        return [_docker(archive, entry) for entry in entries]
    index = archive.find("index.json")
    if index is not None and archive.find("oci-layout") is not None:
        document = parse_manifest(archive.read(index, MAX_MANIFEST, "index.json"))
        if isinstance(document, IndexDocument):
            return _layout(archive, document, want)
    if archive.find("repositories") is not None:
        raise InvalidArgument("the archive is in the format of Docker before 1.10, which is not supported: save it anew")
    raise InvalidArgument("the archive has neither manifest.json nor index.json: it is no archive of images (try import)")


def _docker(archive: Archive, entry: _Entry) -> _Found:
    return _Found(
        config=archive.read(archive.get(entry.config), MAX_CONFIG, "an image's configuration"),
        layers=[archive.get(name) for name in entry.layers or []],
        tags=[_tag(text) for text in entry.repo_tags or []],
    )


def _tag(text: str) -> Reference:
    reference = parse(text)
    if reference.digest is not None or reference.tag is None:
        raise InvalidArgument(f"invalid tag {text!r} in the archive")
    return reference


def _layout(archive: Archive, index: IndexDocument, want: Platform) -> list[_Found]:
    found: dict[str, _Found] = {}
    for entry in index.manifests:
        annotations = entry.annotations or {}
        if "vnd.docker.reference.type" in annotations:
            continue
        image = _oci(archive, entry, want)
        if image is None:
            continue
        tags = [tag for tag in map(_annotated, filter(None, map(annotations.get, _NAMES))) if tag is not None][:1]
        key = digest_of(image.config)
        before = found[key].tags if key in found else []
        found[key] = _Found(image.config, image.layers, [*before, *(tag for tag in tags if tag not in before)], image.digests)
    if not found:
        raise NotFound("the archive has no image that can be loaded here")
    return list(found.values())


def _annotated(text: str) -> Reference | None:
    """A name from an annotation: a complete reference only, as tools also write a bare tag there."""
    if "/" not in text and ":" not in text:
        return None
    try:
        return _tag(text)
    except BerthError:
        return None


def _oci(archive: Archive, entry: Descriptor, want: Platform) -> _Found | None:
    document = _document(archive, entry)
    for _ in range(3):
        if not isinstance(document, IndexDocument):
            break
        document = _document(archive, choose(document, want, "the image in the archive"))
    if isinstance(document, IndexDocument):
        raise DataLoss("an index in the archive is nested too deep")
    if document.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        return None
    check_layers(document)
    config = archive.read(_blob(archive, document.config.digest), MAX_CONFIG, "an image's configuration")
    _verify(config, document.config.digest)
    digests = [layer.digest for layer in document.layers]
    return _Found(config, [_blob(archive, digest) for digest in digests], [], digests)


def _document(archive: Archive, entry: Descriptor) -> ManifestDocument | IndexDocument:
    data = archive.read(_blob(archive, entry.digest), MAX_MANIFEST, "a manifest")
    _verify(data, entry.digest)
    document = parse_manifest(data, entry.media_type)
    if isinstance(document, IndexDocument) != (entry.media_type in INDEXES):
        raise DataLoss(f"the manifest {entry.digest} is not what its index says it is")
    return document


def _blob(archive: Archive, digest: Digest) -> Part:
    check_digest(digest)
    return archive.get(f"blobs/sha256/{hex_of(digest)}")


def _verify(data: bytes, digest: Digest) -> None:
    if digest_of(data) != digest:
        raise DataLoss(f"the blob {digest} in the archive does not match its digest")


def _platform(document: ImageDocument) -> Platform:
    return Platform(architecture=document.architecture, os=document.os, variant=document.variant or "")
