"""Save: images as one tar that is both a docker-archive and an OCI image layout, as Docker writes it today.

    blobs/sha256/<hex>    configurations, manifests, layers, each once
    index.json            the manifests, with their names as annotations
    manifest.json         what `docker load` reads       repositories   what it read long ago       oci-layout

Layers that came from elsewhere go out in the blob they came in; layers of our own as the plain tar whose digest is the
diff id. The size of a member stands before its content, so such a tar is written twice: once only to be measured.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from berth.contract.image import Image
from berth.contract.store import Blobs, ByteStream, Layer, Layers
from berth.engine.events import Events
from berth.engine.images.compress import read_file
from berth.engine.images.lease import Leases
from berth.engine.images.store import ImageStore, is_id_of
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
    Platform,
)
from berth.model.digest import Digest, digest_of, hex_of
from berth.model.reference import Reference, parse
from berth.wire.document import IndexDocument, ManifestDocument

_BLOCK = 512
_OCI_KINDS = {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP, DOCKER_LAYER: OCI_LAYER}


class Saver:
    """GET /images/get and /images/{name}/get."""

    def __init__(self, events: Events, blobs: Blobs, layers: Layers, store: ImageStore, leases: Leases) -> None:
        self._events = events
        self._blobs = blobs
        self._layers = layers
        self._store = store
        self._leases = leases
        self._sizes: dict[Digest, int] = {}

    def targets(self, names: Sequence[str]) -> list[tuple[Image, list[Reference]]]:
        """What the names mean: images, each once, with the tags to save. NotFound before anything is written."""
        found: dict[Digest, tuple[Image, list[Reference]]] = {}
        for name in names:
            for image, reference in self._meant(name):
                _, references = found.setdefault(image.id, (image, []))
                if reference is not None and reference not in references:
                    references.append(reference)
        return list(found.values())

    def _meant(self, name: str) -> list[tuple[Image, Reference | None]]:
        image = self._store.find(name)
        if image is not None and is_id_of(name, image.id) and name not in image.tags:
            return [(image, None)]
        bare = parse(name, default_tag=False)
        if bare.tag is None and bare.digest is None:
            tags = self._store.tags_of_repository(bare)
            images = [(self._store.by_id(image_id), reference) for reference, image_id in tags]
            if images:
                return [(found, reference) for found, reference in images if found is not None]
        found = self._store.get(name)
        return [(found, bare if bare.digest is None else None)]

    async def save(self, targets: list[tuple[Image, list[Reference]]]) -> AsyncGenerator[bytes, None]:
        """The archive."""
        written: set[str] = set()
        manifests: list[Descriptor] = []
        entries: list[dict[str, Any]] = []
        repositories: dict[str, dict[str, str]] = {}
        for directory in ("blobs", "blobs/sha256"):
            yield _header(directory, 0, 0, directory=True)
        for image, references in targets:
            stack = self._store.stack(image)
            with self._leases.hold(image.id, *(layer.chain_id for layer in stack)):
                blobs = [await self._describe(layer) for layer in stack]
                for layer, blob in zip(stack, blobs, strict=True):
                    if blob.digest not in written:
                        written.add(blob.digest)
                        async with aclosing(self._member(blob, self._content(layer), image)) as pieces:  # type: ignore[type-var]
                            async for piece in pieces:
                                yield piece
                config = self._store.document_bytes(image.id)
                manifest = _manifest(image, config, blobs)
                for data in (config, manifest):
                    if (digest := digest_of(data)) not in written:
                        written.add(digest)
                        yield _file(_path(digest), data, int(image.created))
            manifests += _index_entries(image, manifest, references)
            entries.append(_docker_entry(image, blobs, references))
            for reference in references:
                top = hex_of(stack[-1].diff_id if stack else image.id)
                repositories.setdefault(reference.familiar_name, {})[reference.tag or "latest"] = top
            self._events.publish("image", "save", image.id, {"name": references[0].familiar if references else image.id})
        yield _file(
            "index.json", msgspec.json.encode(IndexDocument(schema_version=2, media_type=OCI_INDEX, manifests=manifests)), 0
        )
        yield _file("manifest.json", msgspec.json.encode(entries), 0)
        yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0)
        if repositories:
            yield _file("repositories", msgspec.json.encode(repositories), 0)
        yield bytes(2 * _BLOCK)

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


def _index_entries(image: Image, manifest: bytes, references: list[Reference]) -> list[Descriptor]:
    document = image.document
    platform = Platform(architecture=document.architecture, os=document.os, variant=document.variant or "")
    names: list[dict[str, str] | None] = [
        {"io.containerd.image.name": str(reference), "org.opencontainers.image.ref.name": reference.tag or "latest"}
        for reference in references
    ]
    return [
        Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest), platform=platform, annotations=annotations)
        for annotations in names or [None]
    ]


def _docker_entry(image: Image, blobs: list[Descriptor], references: list[Reference]) -> dict[str, Any]:
    sources = zip(image.document.rootfs.diff_ids, blobs, strict=True)
    return {
        "Config": _path(image.id),
        "RepoTags": [reference.familiar for reference in references] or None,
        "Layers": [_path(blob.digest) for blob in blobs],
        "LayerSources": dict(sources),
    }
