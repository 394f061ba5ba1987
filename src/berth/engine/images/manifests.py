"""What the API tells of an image's manifests: its descriptor, a summary of each manifest of its index, its attestations."""

from __future__ import annotations

from typing import Any

import msgspec

from berth.contract.image import Image
from berth.contract.store import Blobs
from berth.contract.usage import Usage
from berth.engine.images.index import ATTESTATION, IMAGE, Entry, platform_of, subject_of
from berth.engine.images.store import ImageStore
from berth.errors import DataLoss, NotFound
from berth.model.descriptor import Descriptor
from berth.model.digest import Digest
from berth.model.malformed import MALFORMED
from berth.model.reference import parse
from berth.registry.manifest import media_type_of, parse_manifest
from berth.wire.document import ManifestDocument

_PREDICATE = "in-toto.io/predicate-type"


class Manifests:
    """Reads documents; the rows say what is here."""

    def __init__(self, blobs: Blobs, store: ImageStore, usage: Usage | None) -> None:
        self._blobs = blobs
        self._store = store
        self._usage = usage

    def descriptor(self, image: Image) -> dict[str, Any] | None:
        """Of the index that the image was found by, else of the manifest it came or went by. None for an image made here that
        was never pushed: it has no manifest yet. NotFound, DataLoss when the document is damaged."""
        digest = image.index or self._manifest_digest(image)
        if digest is None:
            return None
        data = self._blobs.read(digest)
        return _plain(Descriptor(media_type_of(parse_manifest(data)), digest, len(data)))

    def _manifest_digest(self, image: Image) -> Digest | None:
        digests = (parse(name).digest for name in image.digests)
        return next((digest for digest in digests if digest is not None and self._blobs.has(digest)), None)

    def summaries(self, image: Image) -> list[dict[str, Any]]:
        """An ImageManifestSummary for each manifest that the image's index names, here or not; of a single image its own, if it
        has one."""
        if image.index is None:
            digest = self._manifest_digest(image)
            if digest is None:
                return []
            data = self._blobs.read(digest)
            document = parse_manifest(data)
            if not isinstance(document, ManifestDocument):
                return []
            return [self._summary(Entry(Descriptor(media_type_of(document), digest, len(data)), document), image)]
        images = {found.id: found for found in self._store.platforms(image)}
        members = {manifest: images.get(member) for manifest, member in self._store.indexes.members(image.index).items()}
        entries = self._store.indexes.walk(image.index).entries
        return [self._summary(entry, members.get(entry.descriptor.digest)) for entry in entries]

    def _summary(self, entry: Entry, image: Image | None) -> dict[str, Any]:
        digest = entry.descriptor.digest
        parts = {digest: entry.descriptor.size, **{blob.digest: blob.size for blob in entry.blobs}}
        content = sum(size for part, size in parts.items() if self._blobs.has(part))
        kind = IMAGE if image is not None else entry.kind
        summary: dict[str, Any] = {
            "ID": digest,
            "Descriptor": _plain(entry.descriptor),
            # An image can be run when its layers are here unpacked, whatever blobs they came in.
            "Available": image is not None
            if kind == IMAGE
            else entry.manifest is not None and all(self._blobs.has(part) for part in parts),
            "Size": {"Content": content, "Total": content + (image.size if image is not None else 0)},
            "Kind": kind,
        }
        if kind == IMAGE:
            platform = entry.descriptor.platform or (platform_of(image.document) if image is not None else None)
            users = self._usage.of_image(image.id) if image is not None and self._usage is not None else []
            summary["ImageData"] = {
                "Platform": _plain(platform) if platform is not None else {"os": "", "architecture": ""},
                "Containers": [user.id for user in users],
                "Size": {"Unpacked": image.size if image is not None else 0},
            }
        elif kind == ATTESTATION:
            summary["AttestationData"] = {"For": subject_of(entry.descriptor)}
        return summary

    def attestations(self, image: Image, types: frozenset[str], *, statement: bool) -> list[dict[str, Any]]:
        """GET /images/{name}/attestations: the in-toto statements about the image, of these predicate types, or of all."""
        if image.index is None:
            return []
        members = self._store.indexes.members(image.index)
        own = {manifest for manifest, member in members.items() if member == image.id}
        found: list[dict[str, Any]] = []
        for entry in self._store.indexes.walk(image.index).entries:
            if subject_of(entry.descriptor) not in own or entry.manifest is None:
                continue
            for layer in entry.manifest.layers:
                predicate = (layer.annotations or {}).get(_PREDICATE, "")
                if predicate and (not types or predicate in types):
                    one = {"Descriptor": _plain(layer), "PredicateType": predicate}
                    found.append({**one, "Statement": self._statement(layer)} if statement else one)
        return found

    def _statement(self, layer: Descriptor) -> Any:
        if not self._blobs.has(layer.digest):
            raise NotFound(f"the attestation statement {layer.digest} is not here: pull the image again")
        try:
            return msgspec.json.decode(self._blobs.read(layer.digest))
        except MALFORMED as error:
            raise DataLoss(f"the attestation statement {layer.digest} is not JSON: {error}") from error


def _plain(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found
