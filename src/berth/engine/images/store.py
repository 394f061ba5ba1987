"""The images that are here: rows in the database, documents in the blobs, names that point at them.

    images        id (digest of the configuration), chain_id of the top layer, created, parent, size, tagged (when it last was)
    tags          domain/path:tag      -> image, and the index that the name means if it means several platforms
    repo_digests  domain/path@digest   -> likewise; the digest is that of the manifest or index it was pulled or pushed by

Indexes have rows of their own (index.py).

Documents are immutable, so their bytes are cached; they are decoded anew for each caller, who may change what it gets.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from berth import failpoint
from berth.contract.image import Image
from berth.contract.store import Blobs, Layer, Layers
from berth.engine.images.document import encode
from berth.engine.images.index import Indexes, leaves, platform_of
from berth.errors import BerthError, Conflict, DataLoss, InvalidArgument, NotFound
from berth.model.descriptor import Platform
from berth.model.digest import Digest, chain_id, digest_of, parse_digest
from berth.model.instant import document_time
from berth.model.reference import Reference, parse
from berth.registry.manifest import host_platform, matches, parse_config, parse_manifest, parse_platform, text_of
from berth.storage.database import Database
from berth.wire.document import ImageDocument, ManifestDocument

_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z")
log = logging.getLogger(__name__)
# More images than this are read from disk at every list. A configuration has some kilobytes.
_DOCUMENTS = 4096
_COLUMNS = "id, chain_id, created, parent, size, tagged"
# Images that are not only a platform of an index that another image stands for.
_LISTED = (
    "(id IN (SELECT image_id FROM tags UNION SELECT image_id FROM repo_digests UNION SELECT image_id FROM indexes)"
    " OR id NOT IN (SELECT image_id FROM index_content WHERE image_id IS NOT NULL))"
)
_ADOPT = "images.adopt-indexes"


@dataclass(frozen=True, slots=True)
class Names:
    """What points at an image, as parsed references."""

    tags: tuple[Reference, ...]
    digests: tuple[Reference, ...]

    @property
    def all(self) -> tuple[Reference, ...]:
        """Tags first."""
        return self.tags + self.digests


class ImageStore:
    """Look-up and recording. Everything here is quick and does not wait, but for the flush of durable transactions."""

    def __init__(self, database: Database, blobs: Blobs, layers: Layers) -> None:
        self._database = database
        self._blobs = blobs
        self._layers = layers
        self._document_bytes = lru_cache(maxsize=_DOCUMENTS)(blobs.read)
        self.indexes = Indexes(database, blobs)
        self._adopt_indexes()

    # Looking up

    def get(self, reference: str) -> Image:
        """By reference, id or unambiguous id prefix."""
        found = self.find(reference)
        if found is None:
            raise NotFound(f"No such image: {display_name(reference)}")
        return found

    def find(self, reference: str) -> Image | None:
        """Like get, or None. A name wins over an id prefix that is spelled the same."""
        found = self._resolve(reference)
        return self._load(*found) if found else None

    def by_id(self, image_id: Digest) -> Image | None:
        """By the complete id."""
        indexes = self.indexes.of_image(image_id)
        return self._load(image_id, indexes[0] if indexes else None)

    def _load(self, image_id: Digest, index: Digest | None) -> Image | None:
        row = self._database.row(f"SELECT {_COLUMNS} FROM images WHERE id = ?", (image_id,))
        return self._image(row, self.names(image_id), index) if row else None

    def platform(self, image: Image, want: Platform) -> Image | None:
        """The image for a platform: this one, or another of the index that it was found by."""
        if matches(platform_of(image.document), want):
            return image
        return next((found for found in self.platforms(image) if matches(platform_of(found.document), want)), None)

    def for_platform(self, image: Image, name: str, platform: str) -> Image:
        """Like platform, with the platform as a client gave it. NotFound in Docker's words, with `name` for the image."""
        want = parse_platform(platform)
        found = self.platform(image, want)
        if found is None:
            raise NotFound(f"image with reference {name} was found but does not provide the specified platform ({text_of(want)})")
        return found

    def platforms(self, image: Image) -> list[Image]:
        """The image, or all that are here of the index that it was found by, the one that stands for it first."""
        if image.index is None:
            return [image]
        members = dict.fromkeys(self.indexes.members(image.index).values())
        return [found for member in members if (found := self._load(member, image.index)) is not None]

    def is_name(self, text: str) -> bool:
        """Whether what the user typed is a tag or a repository digest, rather than the beginning of an id or digest."""
        match = _ID_PREFIX.match(text)
        if text.startswith("sha256:") or (match and len(match[1]) == 64):
            return False
        return self.target(parse(text)) is not None

    def by_reference(self, reference: Reference) -> Digest | None:
        """The id that a tag or repository digest points at."""
        found = self.target(reference)
        return found[0] if found else None

    def target(self, reference: Reference) -> tuple[Digest, Digest | None] | None:
        """What a tag or repository digest points at: an image's id, and the index that it stands for if the name means that."""
        if reference.digest is not None:
            row = self._database.row(
                "SELECT image_id, index_digest FROM repo_digests WHERE reference = ?",
                (f"{reference.repository}@{reference.digest}",),
            )
        else:
            row = self._database.row("SELECT image_id, index_digest FROM tags WHERE reference = ?", (str(reference),))
        return (Digest(row[0]), Digest(row[1]) if row[1] else None) if row else None

    def _resolve(self, text: str) -> tuple[Digest, Digest | None] | None:
        match = _ID_PREFIX.match(text)
        if match and len(match[1]) == 64:
            return self._by_prefix(match[1])
        if not text.startswith("sha256:"):
            found = self.target(parse(text))
            if found:
                return found
        return self._by_prefix(match[1]) if match else None

    def _by_prefix(self, digits: str) -> tuple[Digest, Digest | None] | None:
        """Ids come before digests of manifests and indexes."""
        low = f"sha256:{digits}"
        rows = self._database.rows("SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", (low, low + "g"))
        if rows:
            image_id = Digest(rows[0][0])
            return (image_id, next(iter(self.indexes.of_image(image_id)), None)) if len(rows) == 1 else None
        return self.indexes.find(digits)

    def all(self, *, members: bool = False) -> list[Image]:
        """All images that lists show, newest first; with `members` also those that another one stands for."""
        platforms: dict[str, list[str]] = {}
        for index, member in self._database.rows("SELECT index_digest, image_id FROM index_content WHERE image_id IS NOT NULL"):
            platforms.setdefault(index, []).append(member)
        names: dict[str, tuple[list[Reference], list[Reference]]] = {}
        for position, table in enumerate(("tags", "repo_digests")):
            for text, image_id, index in self._database.rows(
                f"SELECT reference, image_id, index_digest FROM {table} ORDER BY reference"
            ):
                reference = parse(text)
                for meant in {image_id, *platforms.get(index, ())}:
                    names.setdefault(meant, ([], []))[position].append(reference)
        standing: dict[str, Digest] = {}
        for index, image_id in self._database.rows("SELECT digest, image_id FROM indexes ORDER BY digest DESC"):
            standing[image_id] = Digest(index)
        where = "" if members else f" WHERE {_LISTED}"
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM images{where} ORDER BY created DESC, id")
        images: list[Image] = []
        for row in rows:
            tags, digests = names.get(row[0], ([], []))
            try:
                images.append(self._image(row, Names(tuple(tags), tuple(digests)), standing.get(row[0])))
            except (NotFound, DataLoss) as error:
                # One damaged image must not hide the others; pulling it again mends it.
                log.warning("the image %s is left out: %s", row[0], error.message)
        return images

    def names(self, image_id: Digest) -> Names:
        """Tags and repository digests of an image, sorted: those that mean it, and those that mean an index with it."""
        return Names(self._references("tags", image_id), self._references("repo_digests", image_id))

    def _references(self, table: str, image_id: Digest) -> tuple[Reference, ...]:
        sql = (
            f"SELECT reference FROM {table} WHERE image_id = ?1 UNION SELECT reference FROM {table}"
            " WHERE index_digest IN (SELECT index_digest FROM index_content WHERE image_id = ?1) ORDER BY reference"
        )
        return tuple(parse(row[0]) for row in self._database.rows(sql, (image_id,)))

    def tags_of_repository(self, repository: Reference) -> list[tuple[Reference, Digest]]:
        """All tags in one repository and the images they point at."""
        low = repository.repository + ":"
        sql = "SELECT reference, image_id FROM tags WHERE reference >= ? AND reference < ? ORDER BY reference"
        rows = self._database.rows(sql, (low, low + "\x7f"))
        return [(parse(reference), Digest(image_id)) for reference, image_id in rows]

    def children(self, image_id: Digest) -> list[Digest]:
        """Images that were made on top of this one, here."""
        return [Digest(row[0]) for row in self._database.rows("SELECT id FROM images WHERE parent = ?", (image_id,))]

    def uses_chain(self, chain: Digest) -> bool:
        """Whether an image has this layer on top."""
        return self._database.row("SELECT 1 FROM images WHERE chain_id = ? LIMIT 1", (chain,)) is not None

    def listed(self, image_id: Digest) -> bool:
        """Whether lists show the image, rather than one that stands for its index."""
        return self._database.row(f"SELECT 1 FROM images WHERE id = ? AND {_LISTED}", (image_id,)) is not None

    def count(self) -> int:
        """How many images lists show."""
        row = self._database.row(f"SELECT count(*) FROM images WHERE {_LISTED}")
        return int(row[0]) if row else 0

    def forget_cached(self) -> None:
        """Read documents from disk again."""
        self._document_bytes.cache_clear()

    def document_bytes(self, image_id: Digest) -> bytes:
        """The configuration exactly as it came."""
        return self._document_bytes(image_id)

    def manifests(self, image: Image) -> list[tuple[bytes, ManifestDocument]]:
        """The manifests that the image came or went by, as far as they are here and whole."""
        digests = [manifest for index in self.indexes.of_image(image.id) for manifest in self.indexes.members(index)]
        digests += [name.digest for name in self.names(image.id).digests if name.digest is not None]
        found: list[tuple[bytes, ManifestDocument]] = []
        for digest in dict.fromkeys(digests):
            try:
                data = self._blobs.read(digest)
                document = parse_manifest(data)
            except (NotFound, DataLoss):
                continue
            if isinstance(document, ManifestDocument) and document.config.digest == image.id:
                found.append((data, document))
        return found

    def stack(self, image: Image) -> list[Layer]:
        """The layers of an image, base first."""
        found: list[Layer] = []
        current = image.chain_id
        while current is not None:
            layer = self._layers.get(current)
            if layer is None:
                raise NotFound(f"the image {image.id} lacks the layer {current}: remove the image and pull it again")
            found.append(layer)
            current = layer.parent
        return found[::-1]

    def _image(self, row: tuple[object, ...], names: Names, index: Digest | None) -> Image:
        image_id, top, created, parent, size, tagged = row
        return Image(
            id=Digest(str(image_id)),
            document=parse_config(self._document_bytes(Digest(str(image_id)))),
            chain_id=Digest(str(top)) if top else None,
            size=int(str(size)),
            created=float(str(created)),
            tags=tuple(name.familiar for name in names.tags),
            digests=tuple(name.familiar for name in names.digests),
            parent=Digest(str(parent)) if parent else None,
            index=index,
            tagged=float(str(tagged)),
        )

    # Recording

    def add(
        self,
        data: bytes,
        *,
        tags: Iterable[Reference] = (),
        digests: Iterable[Reference] = (),
        parent: Digest | None = None,
    ) -> Image:
        """Record the configuration `data` as an image whose layers are in the store. Durable; idempotent."""
        image_id = self._write(data)
        with self._database.transaction(durable=True):
            self._insert(data, parent)
            for tag in tags:
                self._point("tags", tag, image_id)
            for digest in digests:
                self._point("repo_digests", digest, image_id)
        failpoint.hit("image.add.after-row")
        found = self.by_id(image_id)
        assert found is not None
        return found

    def add_index(
        self,
        index: Digest,
        manifests: Mapping[Digest, bytes],
        *,
        tags: Iterable[Reference] = (),
        digests: Iterable[Reference] = (),
    ) -> list[Image]:
        """Record images of an index whose documents and layers are in the store: their configurations by the digests of their
        manifests. What was here of the index stays. Durable; idempotent. The images, as they were given."""
        for data in manifests.values():
            self._write(data)
        known = {**self.indexes.members(index), **{manifest: digest_of(data) for manifest, data in manifests.items()}}
        members, others = leaves(self._blobs, index, self.indexes.walk(index), known)
        failpoint.hit("index.add.before-row")
        with self._database.transaction(durable=True):
            for data in manifests.values():
                self._insert(data, None)
            standing = self._standing_for(members.values())
            self.indexes.record(index, standing, members, others)
            for tag in tags:
                self._point("tags", tag, standing, index)
            for digest in digests:
                self._point("repo_digests", digest, standing, index)
        failpoint.hit("index.add.after-row")
        found = [self._load(digest_of(data), index) for data in manifests.values()]
        return [image for image in found if image is not None]

    def remove_member(self, index: Digest, manifest: Digest) -> list[Digest]:
        """Forget one platform of an index that has others, and its attestations. Durable. The documents and blobs that the index
        keeps no longer."""
        left = {digest: image for digest, image in self.indexes.members(index).items() if digest != manifest}
        before = self.indexes.content(index)
        members, others = leaves(self._blobs, index, self.indexes.walk(index), left)
        gone = [digest for digest in before if digest not in members and digest not in others]
        failpoint.hit("index.drop.before-row")
        with self._database.transaction(durable=True):
            self.indexes.drop_content(index, gone)
            self.indexes.record(index, self._standing_for(left.values()), members, others)
        failpoint.hit("index.drop.after-row")
        return gone

    def delete_index(self, index: Digest) -> None:
        """Forget an index. Durable. The images that are left over are the remover's business."""
        failpoint.hit("index.delete.before-row")
        with self._database.transaction(durable=True):
            self.indexes.delete(index)
        failpoint.hit("index.delete.after-row")

    def _standing_for(self, members: Iterable[Digest]) -> Digest:
        """Which of them stands for their index: the host's platform, else the first."""
        chosen: Digest | None = None
        for member in members:
            chosen = chosen or member
            if matches(platform_of(parse_config(self._document_bytes(member))), host_platform()):
                return member
        if chosen is None:
            raise NotFound("none of the index's images is here")
        return chosen

    def _write(self, data: bytes) -> Digest:
        failpoint.hit("image.add.before-document")
        image_id = self._blobs.write(data)
        failpoint.hit("image.add.before-row")
        return image_id

    def _insert(self, data: bytes, parent: Digest | None) -> None:
        document = parse_config(data)
        top = chain_id(tuple(document.rootfs.diff_ids)) if document.rootfs.diff_ids else None
        self._database.execute(
            "INSERT INTO images (id, chain_id, created, parent, size) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (digest_of(data), top, document_time(document.created), parent, self._size(top)),
        )

    def _adopt_indexes(self) -> None:
        """An older engine kept an index's document and one platform of it, but had no rows for that: write them."""
        if self._database.row("SELECT 1 FROM settings WHERE key = ?", (_ADOPT,)) is None:
            return
        rows = self._database.rows("SELECT reference, image_id FROM repo_digests")
        with self._database.transaction(durable=True):
            for text, image_id in rows:
                reference = parse(text)
                try:
                    self._adopt(reference, Digest(image_id))
                except BerthError as error:
                    # Without its index the image is what it was.
                    log.warning("the index of %s is not taken over: %s", reference.familiar, error.message)
            self._database.execute("DELETE FROM settings WHERE key = ?", (_ADOPT,))

    def _adopt(self, reference: Reference, image_id: Digest) -> None:
        index = reference.digest
        if index is None or not self._blobs.has(index) or not self.indexes.is_document(index):
            return
        walked = self.indexes.walk(index)
        known = {
            entry.descriptor.digest: image_id
            for entry in walked.entries
            if entry.manifest is not None and entry.manifest.config.digest == image_id
        }
        if not known:
            return
        self.indexes.record(index, image_id, *leaves(self._blobs, index, walked, known))
        key = f"{reference.repository}@{index}"
        self._database.execute("UPDATE repo_digests SET index_digest = ? WHERE reference = ?", (index, key))
        for tag in self.names(image_id).tags:
            if tag.repository == reference.repository:
                sql = "UPDATE tags SET index_digest = ? WHERE reference = ? AND image_id = ?"
                self._database.execute(sql, (index, str(tag), image_id))

    def create(
        self, document: ImageDocument, top: Digest | None, *, tags: tuple[Reference, ...] = (), parent: Digest | None = None
    ) -> Image:
        """Record an image of our own making."""
        diff_ids = tuple(document.rootfs.diff_ids)
        if (chain_id(diff_ids) if diff_ids else None) != top:
            raise InvalidArgument(f"the image's rootfs does not fit its layer {top}")
        return self.add(encode(document), tags=tags, parent=parent)

    def tag(self, image_id: Digest, reference: Reference, index: Digest | None = None) -> None:
        """Point the tag at the image, or at the index that it stands for. Durable."""
        if reference.digest is not None or reference.tag is None:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        failpoint.hit("image.tag.before-row")
        with self._database.transaction(durable=True):
            self._point("tags", reference, image_id, index)
        failpoint.hit("image.tag.after-row")

    def add_digest(self, image_id: Digest, reference: Reference, index: Digest | None = None) -> None:
        """Remember by which digest a repository knows the image, or the index that it stands for. Durable."""
        with self._database.transaction(durable=True):
            self._point("repo_digests", reference, image_id, index)

    def untag(self, reference: Reference) -> None:
        """Forget one name."""
        table = "repo_digests" if reference.digest else "tags"
        key = f"{reference.repository}@{reference.digest}" if reference.digest else str(reference)
        with self._database.transaction(durable=True):
            self._database.execute(f"DELETE FROM {table} WHERE reference = ?", (key,))
        failpoint.hit("image.untag.after-row")

    def delete(self, image_id: Digest) -> None:
        """Forget the image and its names. Its content is the remover's business."""
        failpoint.hit("image.delete.before-row")
        with self._database.transaction(durable=True):
            for table in ("tags", "repo_digests"):
                self._database.execute(f"DELETE FROM {table} WHERE image_id = ?", (image_id,))
            self._database.execute("DELETE FROM images WHERE id = ?", (image_id,))
        failpoint.hit("image.delete.after-row")

    def _point(self, table: str, reference: Reference, image_id: Digest, index: Digest | None = None) -> None:
        key = str(reference) if table == "tags" else f"{reference.repository}@{reference.digest}"
        self._database.execute(
            f"INSERT INTO {table} (reference, image_id, index_digest) VALUES (?, ?, ?) ON CONFLICT (reference)"
            " DO UPDATE SET image_id = excluded.image_id, index_digest = excluded.index_digest",
            (key, image_id, index),
        )
        if table == "tags":
            self._database.execute(
                "UPDATE images SET tagged = ?1 WHERE id = ?2"
                " OR id IN (SELECT image_id FROM index_content WHERE index_digest = ?3 AND image_id IS NOT NULL)",
                (time.time(), image_id, index),
            )

    def _size(self, top: Digest | None) -> int:
        size, current = 0, top
        while current is not None:
            layer = self._layers.get(current)
            if layer is None:
                raise Conflict(f"the layer {current} is not in the store any more: try again")
            size, current = size + layer.size, layer.parent
        return size


def display_name(text: str) -> str:
    """A name as Docker repeats it in errors: with :latest where no tag was given."""
    try:
        if not _ID_PREFIX.match(text) or not text.startswith("sha256:"):
            return parse(text).familiar
    except InvalidArgument:
        pass
    return text


def parse_id(text: str) -> Digest | None:
    """A complete image id, with or without sha256:."""
    match = _ID_PREFIX.match(text)
    return parse_digest("sha256:" + match[1]) if match and len(match[1]) == 64 else None


def is_id_of(text: str, image_id: Digest) -> bool:
    """Whether what the user typed is an id or id prefix of the image, rather than a name."""
    match = _ID_PREFIX.match(text)
    return bool(match) and image_id.startswith("sha256:" + match[1])  # type: ignore[index]
