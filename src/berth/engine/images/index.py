"""Indexes (manifest lists) that are kept whole: their documents as they came, and what of their content is here.

    indexes         digest -> image_id                  the image that stands for it: the host's platform if it is here, else
                                                        the first
    index_content   index_digest, digest -> image_id    what the index keeps: manifests of images that are here, with the
                                                        image; nested indexes, attestations, blobs, without one
    tags, repo_digests: index_digest                    which names mean the index, and not only one image

An image of an index that does not stand for it has no place of its own in lists: it comes and goes with the index. Rows alone
decide what is run and what is removed; documents are read for what is shown, pushed and saved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from berth.contract.store import Blobs
from berth.errors import BerthError, DataLoss
from berth.model.descriptor import DOCKER_CONFIG, INDEXES, MANIFESTS, OCI_CONFIG, Descriptor, Platform
from berth.model.digest import Digest
from berth.registry.manifest import parse_manifest
from berth.storage.database import Database
from berth.wire.document import ImageDocument, IndexDocument, ManifestDocument

MAX_NESTING = 3
IMAGE, ATTESTATION, UNKNOWN = "image", "attestation", "unknown"
_TYPE, _SUBJECT = "vnd.docker.reference.type", "vnd.docker.reference.digest"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest that an index names, itself or through another index in it. `manifest` is the document, if it is here."""

    descriptor: Descriptor
    manifest: ManifestDocument | None

    @property
    def kind(self) -> str:
        """IMAGE, ATTESTATION or UNKNOWN (an artifact)."""
        if subject_of(self.descriptor) is not None:
            return ATTESTATION
        platform = self.descriptor.platform
        if platform is not None and "unknown" in (platform.os, platform.architecture):
            return UNKNOWN
        if self.descriptor.artifact_type or self.descriptor.media_type not in MANIFESTS:
            return UNKNOWN
        is_image = self.manifest is None or self.manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG)
        return IMAGE if is_image else UNKNOWN

    @property
    def blobs(self) -> list[Descriptor]:
        """Its configuration and its layers, as far as they are known."""
        return [self.manifest.config, *self.manifest.layers] if self.manifest is not None else []


def subject_of(descriptor: Descriptor) -> Digest | None:
    """The manifest that an attestation is about (BuildKit's attestation storage, docs/attestations); None for anything else."""
    annotations = descriptor.annotations or {}
    if annotations.get(_TYPE) != "attestation-manifest":
        return None
    return Digest(annotations.get(_SUBJECT, ""))


def platform_of(document: ImageDocument) -> Platform:
    """What a configuration says that it is for."""
    return Platform(architecture=document.architecture, os=document.os, variant=document.variant or "")


@dataclass(frozen=True, slots=True)
class Walked:
    """An index read to its leaves. `nested` are the indexes in it that are here, outermost first."""

    nested: tuple[Digest, ...]
    entries: tuple[Entry, ...]


def walk(index: IndexDocument, read: Callable[[Descriptor], bytes | None]) -> Walked:
    """All manifests that an index leads to, each once. `read` gives a document by its descriptor, or None when it is not there.
    DataLoss for documents that are no manifests, or nested too deep."""
    nested: list[Digest] = []
    entries: dict[Digest, Entry] = {}

    def follow(document: IndexDocument, depth: int) -> None:
        for descriptor in document.manifests:
            if descriptor.digest in entries or descriptor.digest in nested:
                continue
            data = read(descriptor) if descriptor.media_type in (INDEXES | MANIFESTS) else None
            found = parse_manifest(data, descriptor.media_type) if data is not None else None
            if isinstance(found, IndexDocument):
                if depth == MAX_NESTING:
                    raise DataLoss(f"the index {descriptor.digest} is nested too deep")
                nested.append(descriptor.digest)
                follow(found, depth + 1)
            elif descriptor.media_type not in INDEXES:
                entries[descriptor.digest] = Entry(descriptor, found)

    follow(index, 1)
    return Walked(tuple(nested), tuple(entries.values()))


class Indexes:
    """The rows, and the documents behind them."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    # Documents

    def document(self, index: Digest) -> IndexDocument:
        """NotFound or DataLoss when it is missing or damaged on disk."""
        document = parse_manifest(self._blobs.read(index))
        if not isinstance(document, IndexDocument):
            raise DataLoss(f"blob {index} is no index: remove the image and pull it again")
        return document

    def is_document(self, digest: Digest) -> bool:
        """Whether the blob is an index, rather than a manifest."""
        return isinstance(parse_manifest(self._blobs.read(digest)), IndexDocument)

    def walk(self, index: Digest) -> Walked:
        """What the index leads to. A damaged document in it counts as one that is not here."""
        return walk(self.document(index), self._read)

    def _read(self, descriptor: Descriptor) -> bytes | None:
        if not self._blobs.has(descriptor.digest):
            return None
        try:
            return self._blobs.read(descriptor.digest)
        except BerthError as error:
            log.warning("a stored manifest is damaged: %s", error.message)
            return None

    # Rows

    def names(self, digest: Digest) -> bool:
        """Whether this is an index that is kept."""
        return self._database.row("SELECT 1 FROM indexes WHERE digest = ?", (digest,)) is not None

    def has_manifest(self, digest: Digest) -> bool:
        """Whether this is the manifest of an image of some index."""
        sql = "SELECT 1 FROM index_content WHERE digest = ? AND image_id IS NOT NULL LIMIT 1"
        return self._database.row(sql, (digest,)) is not None

    def of_image(self, image_id: Digest) -> list[Digest]:
        """The indexes of an image; those that it stands for come first."""
        sql = (
            "SELECT digest, 0 AS place FROM indexes WHERE image_id = ?1"
            " UNION SELECT index_digest, 1 FROM index_content WHERE image_id = ?1 ORDER BY place, digest"
        )
        return list(dict.fromkeys(Digest(row[0]) for row in self._database.rows(sql, (image_id,))))

    def represented_by(self, image_id: Digest) -> list[Digest]:
        """The indexes that the image stands for."""
        rows = self._database.rows("SELECT digest FROM indexes WHERE image_id = ? ORDER BY digest", (image_id,))
        return [Digest(row[0]) for row in rows]

    def members(self, index: Digest) -> dict[Digest, Digest]:
        """Image ids by the digests of their manifests, the one that stands for the index first, then as they came."""
        sql = (
            "SELECT c.digest, c.image_id FROM index_content c JOIN indexes i ON i.digest = c.index_digest"
            " WHERE c.index_digest = ? AND c.image_id IS NOT NULL ORDER BY c.image_id != i.image_id, c.rowid"
        )
        return {Digest(digest): Digest(image) for digest, image in self._database.rows(sql, (index,))}

    def content(self, index: Digest) -> list[Digest]:
        """All documents and blobs that the index keeps."""
        rows = self._database.rows("SELECT digest FROM index_content WHERE index_digest = ?", (index,))
        return [Digest(row[0]) for row in rows]

    def is_named(self, index: Digest) -> bool:
        """Whether a tag or a repository digest means it."""
        sql = "SELECT 1 FROM tags WHERE index_digest = ?1 UNION SELECT 1 FROM repo_digests WHERE index_digest = ?1 LIMIT 1"
        return self._database.row(sql, (index,)) is not None

    def find(self, digits: str) -> tuple[Digest, Digest] | None:
        """Image and index by the beginning of an index's digest, or of a manifest's; None when it is ambiguous."""
        low = f"sha256:{digits}"
        sql = (
            "SELECT digest, image_id, digest FROM indexes WHERE digest >= ?1 AND digest < ?2"
            " UNION SELECT digest, image_id, index_digest FROM index_content"
            " WHERE digest >= ?1 AND digest < ?2 AND image_id IS NOT NULL ORDER BY 3"
        )
        rows = self._database.rows(sql, (low, low + "g"))
        return (Digest(rows[0][1]), Digest(rows[0][2])) if len({row[0] for row in rows}) == 1 else None

    # Writing, inside a transaction of the caller

    def record(self, index: Digest, image_id: Digest, members: Mapping[Digest, Digest], others: Iterable[Digest]) -> None:
        """Keep the index, with `image_id` standing for it; `members` are image ids by manifest, `others` what else it keeps."""
        execute = self._database.execute
        execute(
            "INSERT INTO indexes (digest, image_id) VALUES (?, ?)"
            " ON CONFLICT (digest) DO UPDATE SET image_id = excluded.image_id",
            (index, image_id),
        )
        rows: dict[Digest, Digest | None] = {**dict.fromkeys(others), **members}
        for digest, member in rows.items():
            execute(
                "INSERT INTO index_content (index_digest, digest, image_id) VALUES (?, ?, ?)"
                " ON CONFLICT (index_digest, digest) DO UPDATE SET image_id = excluded.image_id",
                (index, digest, member),
            )
        for table in ("tags", "repo_digests"):
            execute(f"UPDATE {table} SET image_id = ? WHERE index_digest = ?", (image_id, index))

    def drop_content(self, index: Digest, digests: Iterable[Digest]) -> None:
        """Keep these no longer."""
        for digest in digests:
            self._database.execute("DELETE FROM index_content WHERE index_digest = ? AND digest = ?", (index, digest))

    def delete(self, index: Digest) -> None:
        """Forget the index; names that are left mean the image that stood for it."""
        for table in ("tags", "repo_digests"):
            self._database.execute(f"UPDATE {table} SET index_digest = NULL WHERE index_digest = ?", (index,))
        self._database.execute("DELETE FROM index_content WHERE index_digest = ?", (index,))
        self._database.execute("DELETE FROM indexes WHERE digest = ?", (index,))


def leaves(
    blobs: Blobs, index: Digest, walked: Walked, images: Mapping[Digest, Digest]
) -> tuple[dict[Digest, Digest], list[Digest]]:
    """What is here of an index, for its rows: image ids by manifest, where `images` (manifest to id) has them, and everything
    else that it should keep."""
    members = {
        entry.descriptor.digest: images[entry.descriptor.digest] for entry in walked.entries if entry.descriptor.digest in images
    }
    others = [digest for digest in walked.nested if digest != index]
    for entry in walked.entries:
        others += _kept(blobs, entry, members)
    return members, others


def _kept(blobs: Blobs, entry: Entry, members: Mapping[Digest, Digest]) -> Iterator[Digest]:
    if entry.manifest is None:
        return
    if entry.descriptor.digest in members:
        # The blobs of its layers: a layer that was here before may have come in another one.
        yield from (blob.digest for blob in entry.manifest.layers if blobs.has(blob.digest))
        return
    subject = subject_of(entry.descriptor)
    if entry.kind == IMAGE or (subject is not None and subject not in members):
        return
    yield entry.descriptor.digest
    yield from (blob.digest for blob in entry.blobs if blobs.has(blob.digest))
