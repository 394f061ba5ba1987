"""The images that are here: rows in the database, documents in the blobs, names that point at them.

    images        id (digest of the configuration), chain_id of the top layer, created, parent, size
    tags          domain/path:tag      -> image
    repo_digests  domain/path@digest   -> image; the digest is that of the manifest or index it was pulled or pushed by

Documents are immutable, so their bytes are cached; they are decoded anew for each caller, who may change what it gets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from berth import failpoint
from berth.contract.image import Image
from berth.contract.store import Blobs, Layer, Layers
from berth.engine.images.document import encode
from berth.errors import Conflict, DataLoss, InvalidArgument, NotFound
from berth.model.digest import Digest, chain_id, digest_of, parse_digest
from berth.model.instant import document_time
from berth.model.reference import Reference, parse
from berth.registry.manifest import parse_config
from berth.storage.database import Database
from berth.wire.document import ImageDocument

_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z")
log = logging.getLogger(__name__)
# More images than this are read from disk at every list. A configuration has some kilobytes.
_DOCUMENTS = 4096
_COLUMNS = "id, chain_id, created, parent, size"


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

    # Looking up

    def get(self, reference: str) -> Image:
        """By reference, id or unambiguous id prefix."""
        found = self.find(reference)
        if found is None:
            raise NotFound(f"No such image: {display_name(reference)}")
        return found

    def find(self, reference: str) -> Image | None:
        """Like get, or None. A name wins over an id prefix that is spelled the same."""
        image_id = self._resolve(reference)
        return self.by_id(image_id) if image_id else None

    def by_id(self, image_id: Digest) -> Image | None:
        """By the complete id."""
        row = self._database.row(f"SELECT {_COLUMNS} FROM images WHERE id = ?", (image_id,))
        return self._image(row, self.names(image_id)) if row else None

    def by_reference(self, reference: Reference) -> Digest | None:
        """The id that a tag or repository digest points at."""
        if reference.digest is not None:
            row = self._database.row(
                "SELECT image_id FROM repo_digests WHERE reference = ?", (f"{reference.repository}@{reference.digest}",)
            )
        else:
            row = self._database.row("SELECT image_id FROM tags WHERE reference = ?", (str(reference),))
        return Digest(row[0]) if row else None

    def _resolve(self, text: str) -> Digest | None:
        match = _ID_PREFIX.match(text)
        if match and len(match[1]) == 64:
            return self._by_prefix(match[1])
        if not text.startswith("sha256:"):
            found = self.by_reference(parse(text))
            if found:
                return found
        return self._by_prefix(match[1]) if match else None

    def _by_prefix(self, digits: str) -> Digest | None:
        low = f"sha256:{digits}"
        rows = self._database.rows("SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", (low, low + "g"))
        return Digest(rows[0][0]) if len(rows) == 1 else None

    def all(self) -> list[Image]:
        """All images, newest first."""
        names: dict[str, tuple[list[Reference], list[Reference]]] = {}
        for position, table in enumerate(("tags", "repo_digests")):
            for reference, image_id in self._database.rows(f"SELECT reference, image_id FROM {table} ORDER BY reference"):
                names.setdefault(image_id, ([], []))[position].append(parse(reference))
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM images ORDER BY created DESC, id")
        images: list[Image] = []
        for row in rows:
            tags, digests = names.get(row[0], ([], []))
            try:
                images.append(self._image(row, Names(tuple(tags), tuple(digests))))
            except (NotFound, DataLoss) as error:
                # One damaged image must not hide the others; pulling it again mends it.
                log.warning("the image %s is left out: %s", row[0], error.message)
        return images

    def names(self, image_id: Digest) -> Names:
        """Tags and repository digests of an image, sorted."""
        return Names(self._references("tags", image_id), self._references("repo_digests", image_id))

    def _references(self, table: str, image_id: Digest) -> tuple[Reference, ...]:
        rows = self._database.rows(f"SELECT reference FROM {table} WHERE image_id = ? ORDER BY reference", (image_id,))
        return tuple(parse(row[0]) for row in rows)

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

    def count(self) -> int:
        """How many images there are."""
        row = self._database.row("SELECT count(*) FROM images")
        return int(row[0]) if row else 0

    def forget_cached(self) -> None:
        """Read documents from disk again."""
        self._document_bytes.cache_clear()

    def document_bytes(self, image_id: Digest) -> bytes:
        """The configuration exactly as it came."""
        return self._document_bytes(image_id)

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

    def _image(self, row: tuple[object, ...], names: Names) -> Image:
        image_id, top, created, parent, size = row
        return Image(
            id=Digest(str(image_id)),
            document=parse_config(self._document_bytes(Digest(str(image_id)))),
            chain_id=Digest(str(top)) if top else None,
            size=int(str(size)),
            created=float(str(created)),
            tags=tuple(name.familiar for name in names.tags),
            digests=tuple(name.familiar for name in names.digests),
            parent=Digest(str(parent)) if parent else None,
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
        document = parse_config(data)
        top = chain_id(tuple(document.rootfs.diff_ids)) if document.rootfs.diff_ids else None
        size = self._size(top)
        image_id = digest_of(data)
        failpoint.hit("image.add.before-document")
        self._blobs.write(data)
        failpoint.hit("image.add.before-row")
        with self._database.transaction(durable=True):
            self._database.execute(
                "INSERT INTO images (id, chain_id, created, parent, size) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (image_id, top, document_time(document.created), parent, size),
            )
            for tag in tags:
                self._point("tags", tag, image_id)
            for digest in digests:
                self._point("repo_digests", digest, image_id)
        failpoint.hit("image.add.after-row")
        found = self.by_id(image_id)
        assert found is not None
        return found

    def create(
        self, document: ImageDocument, top: Digest | None, *, tags: tuple[Reference, ...] = (), parent: Digest | None = None
    ) -> Image:
        """Record an image of our own making."""
        diff_ids = tuple(document.rootfs.diff_ids)
        if (chain_id(diff_ids) if diff_ids else None) != top:
            raise InvalidArgument(f"the image's rootfs does not fit its layer {top}")
        return self.add(encode(document), tags=tags, parent=parent)

    def tag(self, image_id: Digest, reference: Reference) -> None:
        """Point the tag at the image. Durable."""
        if reference.digest is not None or reference.tag is None:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        failpoint.hit("image.tag.before-row")
        with self._database.transaction(durable=True):
            self._point("tags", reference, image_id)
        failpoint.hit("image.tag.after-row")

    def add_digest(self, image_id: Digest, reference: Reference) -> None:
        """Remember by which digest a repository knows the image. Durable."""
        with self._database.transaction(durable=True):
            self._point("repo_digests", reference, image_id)

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

    def _point(self, table: str, reference: Reference, image_id: Digest) -> None:
        key = str(reference) if table == "tags" else f"{reference.repository}@{reference.digest}"
        self._database.execute(
            f"INSERT INTO {table} (reference, image_id) VALUES (?, ?)"
            " ON CONFLICT (reference) DO UPDATE SET image_id = excluded.image_id",
            (key, image_id),
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
