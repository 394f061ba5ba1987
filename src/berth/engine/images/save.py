"""Save: images as one tar that is both a docker-archive and an OCI image layout, as Docker writes it today.

    blobs/sha256/<hex>    indexes, manifests, configurations, layers, each once
    index.json            the indexes and manifests, with their names as annotations
    manifest.json         what `docker load` reads       repositories   what it read long ago       oci-layout

Layers that came from elsewhere go out in the blob they came in; layers of our own as the plain tar whose digest is the
diff id. The size of a member stands before its content, so such a tar is written twice: once only to be measured.

An image with an index goes out with the index as it is, all its platforms that are here, and their attestations; manifest.json
names the image that stands for it. For one platform its manifest goes out alone; several leave the others out of the index.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from msgspec import structs

from berth.contract.image import Image
from berth.contract.store import Blobs, ByteStream, Layer, Layers
from berth.engine.events import Events
from berth.engine.images.compress import read_file
from berth.engine.images.index import IMAGE, Entry, Walked, platform_of, subject_of
from berth.engine.images.lease import Leases
from berth.engine.images.store import ImageStore
from berth.errors import Conflict
from berth.model.descriptor import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
)
from berth.model.digest import Digest, digest_of, hex_of
from berth.model.reference import Reference, parse
from berth.registry.manifest import media_type_of
from berth.wire.document import IndexDocument, ManifestDocument

_BLOCK = 512
_OCI_KINDS = {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP, DOCKER_LAYER: OCI_LAYER}


@dataclass(frozen=True, slots=True)
class _Target:
    """An image to save: `images` are its platforms, `image` the one that manifest.json names. `walked` is its index, if that
    goes along."""

    image: Image
    images: tuple[Image, ...]
    walked: Walked | None
    references: list[Reference] = field(default_factory=list)


@dataclass(slots=True)
class _Written:
    """What is in the archive so far."""

    digests: set[Digest] = field(default_factory=set)
    index: list[Descriptor] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    repositories: dict[str, dict[str, str]] = field(default_factory=dict)

    def new(self, digest: Digest) -> bool:
        """Whether a blob has yet to be written; from now on it counts as written."""
        fresh = digest not in self.digests
        self.digests.add(digest)
        return fresh


class Saver:
    """GET /images/get and /images/{name}/get."""

    def __init__(self, events: Events, blobs: Blobs, layers: Layers, store: ImageStore, leases: Leases) -> None:
        self._events = events
        self._blobs = blobs
        self._layers = layers
        self._store = store
        self._leases = leases
        self._sizes: dict[Digest, int] = {}

    def targets(self, names: Sequence[str], platforms: Sequence[str] = ()) -> list[_Target]:
        """What the names mean: images, each once, with the tags to save. NotFound before anything is written."""
        found: dict[tuple[Digest, Digest | None], _Target] = {}
        for name in names:
            for image, reference in self._meant(name):
                target = found.setdefault((image.id, image.index), self._target(image, name, platforms))
                if reference is not None and reference not in target.references:
                    target.references.append(reference)
        return list(found.values())

    def _target(self, image: Image, name: str, platforms: Sequence[str]) -> _Target:
        if not platforms:
            if not self._store.listed(image.id):
                return _Target(image, (image,), None)
            images = self._store.platforms(image)
            return _Target(image, tuple(images), self._exact(image, images))
        chosen: dict[Digest, Image] = {}
        for want in platforms:
            one = self._store.for_platform(image, name, want)
            chosen[one.id] = one
        images = list(chosen.values())
        standing = chosen.get(image.id, images[0])
        return _Target(standing, tuple(images), self._exact(standing, images) if len(images) > 1 else None)

    def _meant(self, name: str) -> list[tuple[Image, Reference | None]]:
        image = self._store.find(name)
        if image is not None and not self._store.is_name(name):
            return [(image, None)]
        bare = parse(name, default_tag=False)
        if bare.tag is None and bare.digest is None:
            tags = self._store.tags_of_repository(bare)
            images = [(self._store.find(str(reference)), reference) for reference, _ in tags]
            if images:
                return [(found, reference) for found, reference in images if found is not None]
        found = self._store.get(name)
        return [(found, bare if bare.digest is None else None)]

    async def save(self, targets: list[_Target]) -> AsyncGenerator[bytes, None]:
        """The archive."""
        written = _Written()
        for directory in ("blobs", "blobs/sha256"):
            yield _header(directory, 0, 0, directory=True)
        for target in targets:
            image, references = target.image, target.references
            walked = target.walked
            layers = {layer.chain_id for one in target.images for layer in self._store.stack(one)}
            needed = layers | {one.id for one in target.images} | self._documents(walked, image)
            with self._leases.hold(*needed):
                pieces = self._index(target, walked, written) if walked is not None else self._single(target, written)
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
            top = image.document.rootfs.diff_ids[-1:] or [image.id]
            for reference in references:
                written.repositories.setdefault(reference.familiar_name, {})[reference.tag or "latest"] = hex_of(top[0])
            self._events.publish("image", "save", image.id, {"name": references[0].familiar if references else image.id})
        document = IndexDocument(schema_version=2, media_type=OCI_INDEX, manifests=written.index)
        yield _file("index.json", msgspec.json.encode(document), 0)
        yield _file("manifest.json", msgspec.json.encode(written.entries), 0)
        yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0)
        if written.repositories:
            yield _file("repositories", msgspec.json.encode(written.repositories), 0)
        yield bytes(2 * _BLOCK)

    # With an index

    def _exact(self, image: Image, images: list[Image]) -> Walked | None:
        """The index of the image, if it has one whose manifests are true of the blobs that are here. Conflict when other
        platforms cannot go along without; NotFound or DataLoss when the index is damaged."""
        index = image.index
        if index is None:
            return None
        walked = self._store.indexes.walk(index)
        manifests = {entry.descriptor.digest for entry in walked.entries if self._has_all(entry)}
        members = self._store.indexes.members(index)
        whole = {member for manifest, member in members.items() if manifest in manifests}
        if image.id in whole:
            return walked
        if len(images) > 1:
            raise Conflict(
                f"the platforms of {image.id} cannot be saved together, since layers of it came in another form than its "
                "manifest tells: save one with --platform, or remove the image and pull it again"
            )
        return None

    def _has_all(self, entry: Entry) -> bool:
        return entry.manifest is not None and all(self._blobs.has(blob.digest) for blob in entry.blobs)

    def _documents(self, walked: Walked | None, image: Image) -> set[Digest]:
        if walked is None or image.index is None:
            return set()
        blobs = {blob.digest for entry in walked.entries for blob in (entry.descriptor, *entry.blobs)}
        return {image.index, *walked.nested, *blobs}

    async def _index(self, target: _Target, walked: Walked, written: _Written) -> AsyncGenerator[bytes, None]:
        """The index and what is here of it."""
        image, created = target.image, int(target.image.created)
        assert image.index is not None
        members = self._store.indexes.members(image.index)
        chosen = {manifest for manifest, member in members.items() if member in {one.id for one in target.images}}
        docker: list[Descriptor] = []
        for entry in walked.entries:
            about = subject_of(entry.descriptor)
            wanted = entry.descriptor.digest in chosen or (entry.kind != IMAGE and (about is None or about in chosen))
            if not wanted or entry.manifest is None or not self._has_all(entry):
                continue
            if members.get(entry.descriptor.digest) == image.id:
                docker = entry.manifest.layers
            for blob in (*entry.blobs, entry.descriptor):
                if written.new(blob.digest):
                    size = self._size_of(blob)
                    async with aclosing(self._copy(blob.digest, size, created)) as pieces:
                        async for piece in pieces:
                            yield piece
        for digest in (*walked.nested, image.index):
            if written.new(digest):
                yield _file(_path(digest), self._blobs.read(digest), created)
        data = self._blobs.read(image.index)
        index = Descriptor(media_type_of(self._store.indexes.document(image.index)), image.index, len(data))
        written.index += _named(index, target.references)
        written.entries.append(_docker_entry(image, docker, target.references))

    def _size_of(self, blob: Descriptor) -> int:
        """Bytes on disk: a manifest's word for it is not enough for a header."""
        with open(self._blobs.path(blob.digest), "rb") as file:
            return os.fstat(file.fileno()).st_size

    async def _copy(self, digest: Digest, size: int, created: int) -> AsyncGenerator[bytes, None]:
        yield _header(_path(digest), size, created)
        async for piece in read_file(self._blobs.path(digest)):
            yield piece
        yield bytes(-size % _BLOCK)

    # Without

    async def _single(self, target: _Target, written: _Written) -> AsyncGenerator[bytes, None]:
        """The image alone, under its own manifest if that is true of the blobs that are here, else one of our making."""
        image = target.image
        stack = self._store.stack(image)
        blobs = [await self._describe(layer) for layer in stack]
        for layer, blob in zip(stack, blobs, strict=True):
            if written.new(blob.digest):
                async with aclosing(self._member(blob, self._content(layer), image)) as pieces:  # type: ignore[type-var]  # a generator
                    async for piece in pieces:
                        yield piece
        config = self._store.document_bytes(image.id)
        manifest, media_type = self._manifest_of(image, config, blobs)
        for data in (config, manifest):
            if written.new(digest_of(data)):
                yield _file(_path(digest_of(data)), data, int(image.created))
        entry = Descriptor(media_type, digest_of(manifest), len(manifest), platform=platform_of(image.document))
        written.index += _named(entry, target.references)
        written.entries.append(_docker_entry(image, blobs, target.references))

    def _manifest_of(self, image: Image, config: bytes, blobs: list[Descriptor]) -> tuple[bytes, str]:
        for data, document in self._store.manifests(image):
            if [blob.digest for blob in document.layers] == [blob.digest for blob in blobs]:
                return data, media_type_of(document)
        return _manifest(image, config, blobs), OCI_MANIFEST

    async def _describe(self, layer: Layer) -> Descriptor:
        blob = layer.blob
        if blob is not None and self._blobs.has(blob.digest):
            return Descriptor(_OCI_KINDS.get(blob.media_type, blob.media_type), blob.digest, blob.size)
        if layer.diff_id not in self._sizes:
            size = 0
            async for piece in self._layers.tar(layer.chain_id):
                size += len(piece)
            self._sizes[layer.diff_id] = size
        return Descriptor(OCI_LAYER, layer.diff_id, self._sizes[layer.diff_id])

    def _content(self, layer: Layer) -> ByteStream:
        if layer.blob is not None and self._blobs.has(layer.blob.digest):
            return read_file(self._blobs.path(layer.blob.digest))
        return self._layers.tar(layer.chain_id)

    async def _member(self, blob: Descriptor, content: ByteStream, image: Image) -> AsyncIterator[bytes]:
        yield _header(_path(blob.digest), blob.size, int(image.created))
        size = 0
        async with aclosing(cast(Any, content)) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > blob.size:
                    break
                yield piece
        if size != blob.size:
            raise Conflict(f"the layer {blob.digest} changed while it was saved: try again")
        yield bytes(-size % _BLOCK)


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _header(name: str, size: int, mtime: int, *, directory: bool = False) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, max(mtime, 0)
    info.mode = 0o755 if directory else 0o644
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    # GNU numbers, as a layer may have more than the 8 GiB that ustar's octal digits can tell.
    return info.tobuf(tarfile.GNU_FORMAT)


def _file(name: str, data: bytes, mtime: int) -> bytes:
    return _header(name, len(data), mtime) + data + bytes(-len(data) % _BLOCK)


def _manifest(image: Image, config: bytes, blobs: list[Descriptor]) -> bytes:
    return msgspec.json.encode(
        ManifestDocument(
            schema_version=2, media_type=OCI_MANIFEST, config=Descriptor(OCI_CONFIG, image.id, len(config)), layers=blobs
        )
    )


def _named(descriptor: Descriptor, references: list[Reference]) -> list[Descriptor]:
    names: list[dict[str, str] | None] = [
        {"io.containerd.image.name": str(reference), "org.opencontainers.image.ref.name": reference.tag or "latest"}
        for reference in references
    ]
    return [structs.replace(descriptor, annotations=annotations) for annotations in names or [None]]


def _docker_entry(image: Image, blobs: list[Descriptor], references: list[Reference]) -> dict[str, Any]:
    sources = zip(image.document.rootfs.diff_ids, blobs, strict=True)
    return {
        "Config": _path(image.id),
        "RepoTags": [reference.familiar for reference in references] or None,
        "Layers": [_path(blob.digest) for blob in blobs],
        "LayerSources": dict(sources),
    }
