"""Load: images out of an archive that `docker save` or an OCI tool made.

    manifest.json              [{"Config": name, "RepoTags": [...], "Layers": [names]}]       docker-archive
    index.json, oci-layout     an index of manifests, everything in blobs/sha256/<hex>         OCI image layout

Both may be there. manifest.json is followed then, since it is the more complete one of the two that older tools write, unless
index.json leads to an index: manifest.json knows one platform only. Of an index all platforms come in whose content is in the
archive, with the index as it is and their attestations. Layers that come uncompressed are kept as a gzip blob, which takes a
third of the room and is what a push needs; those of an index stay as they came, so that its manifests stay true. Digests in
an OCI layout are verified; those of a docker-archive are the layers' diff ids, which unpacking verifies.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec import Struct

from berth import failpoint
from berth.contract.image import Image, Progress
from berth.contract.store import Blobs, ByteStream, Expand, Layers
from berth.engine.events import Events
from berth.engine.images.archive import Archive, Part, spooled
from berth.engine.images.compress import GzipStream, read_file
from berth.engine.images.index import IMAGE, Entry, Walked, platform_of, subject_of, walk
from berth.engine.images.lease import Lease, Leases
from berth.engine.images.progress import Reporter, one_error, reporting
from berth.engine.images.store import ImageStore
from berth.errors import BerthError, DataLoss, InvalidArgument, NotFound
from berth.kernel.fs import write_all
from berth.kernel.thread import to_its_end
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
    decode,
    host_platform,
    matches,
    parse_config,
    parse_manifest,
    parse_platform,
    text_of,
)
from berth.storage.compression import detect
from berth.storage.space import translated
from berth.wire.document import IndexDocument, ManifestDocument

_MAX_IMAGES = 1000
_KINDS = {"gzip": DOCKER_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _Entry(Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """An image in the archive. `digests` are the layers' own, where the archive tells them; `exact`: they stay as they are."""

    config: bytes
    layers: list[Part]
    tags: list[Reference]
    digests: list[Digest] | None = None
    index: _Whole | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class _Whole:
    """An index in the archive: its document, what it leads to, and the images in it by manifest."""

    data: bytes
    walked: Walked
    images: dict[Digest, _Found] = field(default_factory=dict)


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
        self, stream: ByteStream, *, quiet: bool = False, platforms: Sequence[str] = (), listener: Progress | None = None
    ) -> list[Image]:
        """All images of the archive, or those for these platforms."""
        wanted = [parse_platform(text) for text in platforms]
        try:
            return await self._load(stream, quiet, wanted, listener)
        except DataLoss as error:
            # Nothing of ours was lost: the client sent it.
            raise InvalidArgument(f"the archive cannot be loaded: {error.message}") from error

    async def _load(self, stream: ByteStream, quiet: bool, wanted: list[Platform], listener: Progress | None) -> list[Image]:
        async with spooled(stream, self._directory, self._expand) as archive:
            found = _read(archive, wanted)
            async with reporting(listener) as reporter:
                images: list[Image] = []
                for image in found:
                    load = self._whole if image.index is not None else self._one
                    images.append(await load(archive, image, reporter, quiet))
                return images

    async def _whole(self, archive: Archive, found: _Found, reporter: Reporter, quiet: bool) -> Image:
        """An index, with every image of it that is in the archive."""
        whole = found.index
        assert whole is not None
        digest = digest_of(whole.data)
        with self._leases.hold(digest, *whole.walked.nested, *whole.images) as lease:
            for image in whole.images.values():
                await self._content(archive, image, lease, None if quiet else reporter)
            await self._documents(archive, whole, lease)
            self._tell_moved(found, digest, reporter)
            images = self._store.add_index(
                digest, {manifest: one.config for manifest, one in whole.images.items()}, tags=found.tags
            )
        standing = self._store.by_reference(found.tags[0]) if found.tags else None
        loaded = next((one for one in images if one.id == standing), images[0])
        self._tell_loaded(found, loaded, reporter)
        return loaded

    async def _documents(self, archive: Archive, whole: _Whole, lease: Lease) -> None:
        """The index and what it names: documents, attestations and their blobs."""
        for entry in whole.walked.entries:
            about = subject_of(entry.descriptor)
            if entry.descriptor.digest not in whole.images and (entry.kind == IMAGE or (about and about not in whole.images)):
                continue
            if entry.manifest is None or not all(_has(archive, blob) for blob in entry.blobs):
                continue
            lease.add(entry.descriptor.digest, *(blob.digest for blob in entry.blobs))
            for blob in (*entry.blobs, entry.descriptor):
                await self._copy(archive, blob.digest)
        for digest in whole.walked.nested:
            await self._copy(archive, digest)
        self._blobs.write(whole.data)
        failpoint.hit("index.load.after-documents")

    async def _copy(self, archive: Archive, digest: Digest) -> None:
        part = _blob(archive, digest)
        if not self._blobs.has(digest):
            await self._blobs.ingest(digest, part.size, lambda offset: archive.stream(part, offset))

    async def _one(self, archive: Archive, found: _Found, reporter: Reporter, quiet: bool) -> Image:
        with self._leases.hold(digest_of(found.config)) as lease:
            await self._content(archive, found, lease, None if quiet else reporter)
            self._tell_moved(found, None, reporter)
            image = self._store.add(found.config, tags=found.tags)
        self._tell_loaded(found, image, reporter)
        return image

    async def _content(self, archive: Archive, found: _Found, lease: Lease, reporter: Reporter | None) -> None:
        diff_ids = parse_config(found.config).rootfs.diff_ids
        if len(diff_ids) != len(found.layers):
            raise DataLoss(f"the archive is damaged: an image names {len(diff_ids)} layers, {len(found.layers)} are there")
        lease.add(digest_of(found.config))
        await self._layers_of(archive, found, diff_ids, lease, reporter)

    def _tell_loaded(self, found: _Found, image: Image, reporter: Reporter) -> None:
        for tag in found.tags:
            reporter.raw({"stream": f"Loaded image: {tag.familiar}\n"})
        if not found.tags:
            reporter.raw({"stream": f"Loaded image ID: {image.id}\n"})
        self._events.publish("image", "load", image.id, {"name": found.tags[0].familiar if found.tags else image.id})

    def _tell_moved(self, found: _Found, index: Digest | None, reporter: Reporter) -> None:
        for tag in found.tags:
            before = self._store.target(tag)
            same = before is None or (before[1] == index if index is not None else before[0] == digest_of(found.config))
            if before is not None and not same:
                text = f"The image {tag.familiar} already exists, renaming the old one with ID {before[0]} to empty string\n"
                reporter.raw({"stream": text})

    async def _layers_of(
        self, archive: Archive, found: _Found, diff_ids: list[Digest], lease: Lease, reporter: Reporter | None
    ) -> None:
        """Unpack what is missing, each layer while the next ones are made into blobs."""
        chains = [chain_id(tuple(diff_ids[: count + 1])) for count in range(len(diff_ids))]
        lease.add(*chains)
        have = 0
        while have < len(chains) and self._layers.whole(chains[have]):
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
            if not kind and not found.exact:
                return await self._compressed(archive, part, lease)
            digest = found.digests[position] if found.digests else await to_its_end(archive.digest, part)
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


def _read(archive: Archive, wanted: list[Platform]) -> list[_Found]:
    index = _index_json(archive)
    manifest = archive.find("manifest.json")
    nested = index is not None and any(entry.media_type in INDEXES for entry in index.manifests)
    if manifest is not None and not nested:
        data = archive.read(manifest, MAX_MANIFEST, "manifest.json")
        entries = decode(data, list[_Entry], "archive's manifest.json")
        if len(entries) > _MAX_IMAGES:
            raise InvalidArgument(f"the archive has more than {_MAX_IMAGES} images")
        return _for(wanted, [_docker(archive, entry) for entry in entries])
    if index is not None:
        return _layout(archive, index, wanted)
    if archive.find("repositories") is not None:
        raise InvalidArgument("the archive is in the format of Docker before 1.10, which is not supported: save it anew")
    raise InvalidArgument("the archive has neither manifest.json nor index.json: it is no archive of images (try import)")


def _index_json(archive: Archive) -> IndexDocument | None:
    index = archive.find("index.json")
    if index is None or archive.find("oci-layout") is None:
        return None
    document = parse_manifest(archive.read(index, MAX_MANIFEST, "index.json"))
    return document if isinstance(document, IndexDocument) else None


def _for(wanted: list[Platform], found: list[_Found]) -> list[_Found]:
    """Those of the images that are for one of the platforms."""
    chosen = [image for image in found if not wanted or _fits(image.config, wanted)]
    if not chosen:
        raise _not_there(wanted)
    return chosen


def _fits(config: bytes, wanted: list[Platform]) -> bool:
    have = platform_of(parse_config(config))
    return any(matches(have, want) for want in wanted)


def _not_there(wanted: list[Platform]) -> NotFound:
    if not wanted:
        return NotFound("the archive has no image that can be loaded here")
    return NotFound(f"the archive has no image for {' or '.join(map(text_of, wanted))}")


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


def _layout(archive: Archive, index: IndexDocument, wanted: list[Platform]) -> list[_Found]:
    found: dict[Digest, _Found] = {}
    for entry in index.manifests:
        annotations = entry.annotations or {}
        if subject_of(entry) is not None:
            continue
        image = _indexed(archive, entry, wanted) if entry.media_type in INDEXES else _single(archive, entry, wanted)
        if image is None:
            continue
        tags = [tag for tag in map(_annotated, filter(None, map(annotations.get, _NAMES))) if tag is not None][:1]
        key = digest_of(image.index.data if image.index is not None else image.config)
        before = found[key].tags if key in found else []
        found[key] = replace(image, tags=[*before, *(tag for tag in tags if tag not in before)])
    if not found:
        raise _not_there(wanted)
    return list(found.values())


def _annotated(text: str) -> Reference | None:
    """A name from an annotation: a complete reference only, as tools also write a bare tag there."""
    if "/" not in text and ":" not in text:
        return None
    try:
        return _tag(text)
    except BerthError:
        return None


def _single(archive: Archive, entry: Descriptor, wanted: list[Platform]) -> _Found | None:
    document = parse_manifest(_verified(archive, entry), entry.media_type)
    if isinstance(document, IndexDocument):
        raise DataLoss(f"the manifest {entry.digest} is not what its index says it is")
    image = _image(archive, document)
    return image if image is not None and (not wanted or _fits(image.config, wanted)) else None


def _indexed(archive: Archive, entry: Descriptor, wanted: list[Platform]) -> _Found | None:
    """An index with every image in it whose content is in the archive."""
    data = _verified(archive, entry)
    document = parse_manifest(data, entry.media_type)
    if not isinstance(document, IndexDocument):
        raise DataLoss(f"the manifest {entry.digest} is not what its index says it is")
    walked = walk(document, lambda descriptor: _verified(archive, descriptor) if _has(archive, descriptor) else None)
    images: dict[Digest, _Found] = {}
    for one in walked.entries:
        image = _of_entry(archive, one)
        if image is not None and (not wanted or _fits(image.config, wanted)):
            images[one.descriptor.digest] = replace(image, exact=True)
    if not images:
        return None
    return replace(next(iter(images.values())), index=_Whole(data, walked, images))


def _of_entry(archive: Archive, entry: Entry) -> _Found | None:
    if entry.kind != IMAGE or entry.manifest is None or not all(_has(archive, blob) for blob in entry.blobs):
        return None
    if entry.descriptor.platform is not None and entry.descriptor.platform.os != host_platform().os:
        # What is made for another operating system cannot be unpacked here.
        return None
    return _image(archive, entry.manifest)


def _image(archive: Archive, manifest: ManifestDocument) -> _Found | None:
    """None for what is no image."""
    if manifest.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        return None
    check_layers(manifest)
    config = archive.read(_blob(archive, manifest.config.digest), MAX_CONFIG, "an image's configuration")
    _verify(config, manifest.config.digest)
    digests = [layer.digest for layer in manifest.layers]
    return _Found(config, [_blob(archive, digest) for digest in digests], [], digests)


def _verified(archive: Archive, entry: Descriptor) -> bytes:
    data = archive.read(_blob(archive, entry.digest), MAX_MANIFEST, "a manifest")
    _verify(data, entry.digest)
    return data


def _has(archive: Archive, blob: Descriptor) -> bool:
    check_digest(blob.digest)
    return archive.find(f"blobs/sha256/{hex_of(blob.digest)}") is not None


def _blob(archive: Archive, digest: Digest) -> Part:
    check_digest(digest)
    return archive.get(f"blobs/sha256/{hex_of(digest)}")


def _verify(data: bytes, digest: Digest) -> None:
    if digest_of(data) != digest:
        raise DataLoss(f"the blob {digest} in the archive does not match its digest")
