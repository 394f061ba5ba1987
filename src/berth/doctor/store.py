"""The data root from end to end: database, layers, images, content, containers, volumes. Reads only.

Works beside a running engine: what is missing is looked for a second time before it is reported, since the engine may have
removed it meanwhile. Nothing is repaired here; each finding says what repairs it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import msgspec

from berth.doctor.check import Scene, listed, note, ok, problem, warning
from berth.errors import DataLoss
from berth.model.digest import hex_of, parse_digest
from berth.model.malformed import MALFORMED
from berth.model.units import human_size
from berth.storage.database import MIGRATIONS
from berth.storage.layer import LayerStore
from berth.wire.doctor import Finding
from berth.wire.document import ImageDocument, IndexDocument, ManifestDocument

_PIECE = 1 << 20
_AGAIN = "pull, load or build it again (berth rmi -f first)"
_RESTORE = "stop the engine, move the data root away and put back a copy, or begin with an empty one"


class Reader:
    """The database, opened so that nothing can be written."""

    def __init__(self, scene: Scene) -> None:
        scene.need_root("what is in the store")
        self.root = scene.host.path(scene.root)
        self._path = f"{self.root}/berth.db"
        self.exists = os.path.exists(self._path)

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows. DataLoss when the file cannot be read."""
        # SQLite makes files beside the database to read it, unless it is told that nobody writes to it.
        how = "mode=ro" if os.path.exists(f"{self._path}-wal") else "immutable=1"
        try:
            with closing(sqlite3.connect(f"file:{quote(self._path)}?{how}", uri=True)) as connection:
                return connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise DataLoss(f"{self._path}: {error}") from error

    def column(self, sql: str, *parameters: object) -> list[Any]:
        """The first column of all rows."""
        return [row[0] for row in self.rows(sql, *parameters)]

    def names(self, directory: str) -> list[str]:
        """Entries of a directory below the root, sorted."""
        try:
            return sorted(os.listdir(f"{self.root}/{directory}"))
        except FileNotFoundError:
            return []

    def has(self, path: str) -> bool:
        """Whether there is something below the root."""
        return os.path.lexists(f"{self.root}/{path}")

    def has_directory(self, path: str) -> bool:
        """Whether it is a directory: something else in its place is as bad as nothing."""
        return os.path.isdir(f"{self.root}/{path}")

    def confirmed(self, missing: Iterable[str], still_listed: Callable[[str], bool]) -> list[str]:
        """Those that are missing although the database, asked again, still has them."""
        return [name for name in missing if still_listed(name)]


def database(scene: Scene) -> Iterator[Finding]:
    """SQLite's own check, references between tables, the schema."""
    reader = Reader(scene)
    if not reader.exists:
        yield note(f"there is no database in {scene.root} yet: the engine makes it when it first starts")
        return
    try:
        (version,) = reader.column("PRAGMA user_version")
        said = reader.column("PRAGMA integrity_check(5)")
        dangling = reader.rows("PRAGMA foreign_key_check")
    except DataLoss as error:
        yield problem(f"the database cannot be read: {error.message}", why="The engine does not start.", change=_RESTORE)
        return
    if version > len(MIGRATIONS):
        yield problem(
            f"the database was written by a newer berth (schema {version}, this one knows {len(MIGRATIONS)})",
            why="This berth refuses it, lest it loses what it does not understand.",
            change="upgrade berth",
            facts={"schema": version},
        )
    if said != ["ok"]:
        yield problem(
            f"the database is damaged: {listed(map(str, said), 2)}",
            why="The engine does not start.",
            change=_RESTORE,
            facts={"said": said},
        )
    elif dangling:
        yield problem(
            f"{len(dangling)} tags or digests in the database name images that it does not have",
            why="They cannot be run and cannot be removed.",
            change=_RESTORE,
            facts={"rows": [list(map(str, row)) for row in dangling]},
        )
    elif version <= len(MIGRATIONS):
        yield ok(f"the database is whole (schema {version})", facts={"schema": version})


def layers(scene: Scene) -> Iterator[Finding]:
    """Rows without a directory, directories without a row, parents that are not there."""
    reader = Reader(scene)
    if not reader.exists:
        return
    chains = set(reader.column("SELECT chain_id FROM layers"))
    lost = [chain for chain in chains if not reader.has_directory(f"layers/{hex_of(parse_digest(chain))}/fs")]
    lost = reader.confirmed(sorted(lost), lambda chain: bool(reader.column("SELECT 1 FROM layers WHERE chain_id = ?", chain)))
    if lost:
        yield problem(
            f"{len(lost)} layers have lost their files: {listed(lost, 3)}",
            why="Images and containers that stand on them do not start.",
            change=f"for each image that uses one: {_AGAIN}",
            facts={"lost": lost},
        )
    orphans = reader.column(
        "SELECT chain_id FROM layers WHERE parent IS NOT NULL AND parent NOT IN (SELECT chain_id FROM layers)"
    )
    if orphans:
        yield problem(
            f"{len(orphans)} layers stand on layers that are not in the store: {listed(orphans, 3)}",
            why="They cannot be mounted.",
            change=f"for each image that uses one: {_AGAIN}",
            facts={"orphans": orphans},
        )
    known = {hex_of(parse_digest(chain)) for chain in chains} | {os.path.basename(path) for path in LayerStore.fixed}
    stray = [name for name in reader.names("layers") if not name.startswith(".") and name not in known]
    stray = [name for name in stray if not reader.column("SELECT 1 FROM layers WHERE chain_id = ?", f"sha256:{name}")]
    if stray:
        yield note(
            f"{len(stray)} directories of layers belong to nothing: {listed(stray, 3)}",
            why="They only use room. The engine removes them when it starts.",
            change="berth engine stop && berth engine start (containers go on)",
            facts={"stray": stray},
        )
    if not lost and not orphans:
        yield ok(f"all {len(chains)} layers have their files", facts={"layers": len(chains)})


def images(scene: Scene) -> Iterator[Finding]:
    """The configuration, the top layer, and what tags and digests lead to."""
    reader = Reader(scene)
    if not reader.exists:
        return
    chains = set(reader.column("SELECT chain_id FROM layers"))
    broken: dict[str, str] = {}
    rows = reader.rows("SELECT id, chain_id FROM images")
    for identifier, chain in rows:
        if not reader.has(f"blobs/sha256/{hex_of(parse_digest(identifier))}"):
            broken[identifier] = "its configuration is missing"
        elif chain is not None and chain not in chains:
            broken[identifier] = f"its top layer {chain} is missing"
        else:
            broken |= _unreadable(reader, identifier)
    gone = [name for name in broken if not reader.column("SELECT 1 FROM images WHERE id = ?", name)]
    for identifier in gone:
        del broken[identifier]
    for identifier, what in broken.items():
        tags = reader.column("SELECT reference FROM tags WHERE image_id = ?", identifier)
        yield problem(
            f"image {listed(tags) or identifier} is damaged: {what}",
            why="Containers cannot be made from it.",
            change=_AGAIN,
            facts={"image": identifier, "tags": tags, "reason": what},
        )
    incomplete = list(_indexes(reader))
    yield from incomplete
    if not broken and not incomplete:
        yield ok(f"all {len(rows)} images have their configuration and layers", facts={"images": len(rows)})


def _indexes(reader: Reader) -> Iterator[Finding]:
    """Indexes whose document, or something that they keep, is not there."""
    try:
        wanted = reader.rows("SELECT digest, digest FROM indexes UNION SELECT index_digest, digest FROM index_content")
    except DataLoss:
        # A database of an older schema: its next engine makes the tables.
        return
    missing: dict[str, list[str]] = {}
    for index, digest in wanted:
        if not reader.has(f"blobs/sha256/{hex_of(parse_digest(digest))}"):
            missing.setdefault(index, []).append(digest)
    for index, digests in missing.items():
        if not reader.column("SELECT 1 FROM indexes WHERE digest = ?", index):
            continue
        tags = reader.column("SELECT reference FROM tags WHERE index_digest = ?", index)
        yield problem(
            f"the index of {listed(tags) or index} is incomplete: {listed(digests, 2)} is missing",
            why="Its platforms run, but cannot be told, saved or pushed together.",
            change="pull or load it again",
            facts={"index": index, "tags": tags, "missing": digests},
        )


def _unreadable(reader: Reader, identifier: str) -> dict[str, str]:
    try:
        with open(f"{reader.root}/blobs/sha256/{hex_of(parse_digest(identifier))}", "rb") as file:
            msgspec.json.decode(file.read(), type=ImageDocument)
    except (OSError, *MALFORMED) as error:
        return {identifier: f"its configuration cannot be read ({error})"}
    return {}


def content(scene: Scene) -> Iterator[Finding]:
    """Every blob is hashed again; manifests lead to blobs that are there."""
    reader = Reader(scene)
    if not reader.exists:
        return
    damaged: dict[str, str] = {}
    size = 0
    names = reader.names("blobs/sha256")
    for name in names:
        try:
            found, length = _hash(f"{reader.root}/blobs/sha256/{name}")
        except FileNotFoundError:
            continue
        except OSError as error:
            damaged[f"sha256:{name}"] = f"cannot be read any more ({error.strerror})"
            continue
        size += length
        if found != name:
            damaged[f"sha256:{name}"] = "does not match its digest any more"
    for digest, what in damaged.items():
        yield problem(
            f"content {digest} {what}",
            why="The disk, or somebody, has changed it. Images with it are refused when they are unpacked or pushed.",
            change=f"rm {scene.root}/blobs/sha256/{digest[7:]}, then {_AGAIN}; and look at the disk's health (smartctl)",
            facts={"digest": digest},
        )
    yield from _incomplete(reader)
    if not damaged:
        yield ok(
            f"all content matches its digests: {len(names)} files, {human_size(size)}", facts={"files": len(names), "bytes": size}
        )


def _hash(path: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _incomplete(reader: Reader) -> Iterator[Finding]:
    """Repository digests whose manifest is there while a part that it names is not: a push of it would fail."""
    for reference in reader.column("SELECT reference FROM repo_digests"):
        digest = reference.rpartition("@")[2]
        path = f"blobs/sha256/{hex_of(parse_digest(digest))}"
        if not reader.has(path):
            continue
        missing = [
            name for name in _named(f"{reader.root}/{path}") if not reader.has(f"blobs/sha256/{hex_of(parse_digest(name))}")
        ]
        if missing:
            yield note(
                f"{reference} names content that is not here: {listed(missing, 2)}",
                why="The image runs; pushing it under this digest is not possible.",
                change="pull it again",
                facts={"reference": reference, "missing": missing},
            )


def _named(path: str) -> list[str]:
    """The parts of a manifest; of an index nothing, since only one platform of it is kept."""
    with open(path, "rb") as file:
        raw = file.read()
    try:
        msgspec.json.decode(raw, type=IndexDocument)
    except MALFORMED:
        try:
            manifest = msgspec.json.decode(raw, type=ManifestDocument)
        except MALFORMED:
            return []
        return [str(part.digest) for part in (manifest.config, *manifest.layers)]
    return []


def containers(scene: Scene) -> Iterator[Finding]:
    """Rows and directories of containers."""
    reader = Reader(scene)
    if not reader.exists:
        return
    rows = dict(reader.rows("SELECT id, name FROM containers"))
    lost = [key for key in rows if not reader.has_directory(f"containers/{key}/upper")]
    lost = reader.confirmed(lost, lambda key: bool(reader.column("SELECT 1 FROM containers WHERE id = ?", key)))
    if lost:
        yield problem(
            f"containers have lost their files: {listed(rows[key] for key in lost)}",
            why="They do not start.",
            change=f"berth rm -f {' '.join(rows[key] for key in lost[:6])}, and make them again",
            facts={"lost": lost},
        )
    keys = set(reader.column("SELECT key FROM snapshots"))
    stray = [name for name in reader.names("containers") if name not in keys and name not in rows]
    stray = [name for name in stray if not reader.column("SELECT 1 FROM containers WHERE id = ?", name)]
    if stray and scene.engine is None:
        yield note(
            f"{len(stray)} directories belong to containers that are not there: {listed(stray, 3)}",
            why="They only use room. The engine removes them when it starts.",
            change="berth engine start",
            facts={"stray": stray},
        )
    if not lost:
        yield ok(f"all {len(rows)} containers have their files", facts={"containers": len(rows)})


def volumes(scene: Scene) -> Iterator[Finding]:
    """Rows and directories of volumes."""
    reader = Reader(scene)
    if not reader.exists:
        return
    rows = reader.column("SELECT name FROM volumes")
    lost = [name for name in rows if not reader.has(f"volumes/{name}/_data")]
    lost = reader.confirmed(lost, lambda name: bool(reader.column("SELECT 1 FROM volumes WHERE name = ?", name)))
    if lost:
        yield problem(
            f"volumes have lost their data: {listed(lost)}",
            why="Containers that use them do not start.",
            change=f"put the data back into {scene.root}/volumes/NAME/_data, or remove the volume: berth volume rm NAME",
            facts={"lost": lost},
        )
    stray = [name for name in reader.names("volumes") if not name.startswith(".") and name not in rows]
    stray = [name for name in stray if not reader.column("SELECT 1 FROM volumes WHERE name = ?", name)]
    if stray:
        yield warning(
            f"{len(stray)} directories look like volumes and belong to none: {listed(stray)}",
            why="There may be data in them that somebody misses.",
            change="to use one again: move it aside, `berth volume create NAME`, and move its _data back",
            facts={"stray": stray},
        )
    if not lost:
        yield ok(f"all {len(rows)} volumes have their directories", facts={"volumes": len(rows)})


def leftovers(scene: Scene) -> Iterator[Finding]:
    """Downloads that were broken off, directories on their way out. With a running engine they may be work in progress."""
    reader = Reader(scene)
    if not reader.exists:
        return
    parts = reader.names("ingest")
    halves = [
        name for place in ("layers", "volumes") for name in reader.names(place) if name.startswith((".staging-", ".trash-"))
    ]
    facts = {"downloads": parts, "directories": halves}
    if scene.engine is None and halves:
        yield note(
            f"{len(halves)} directories were left half made or half removed",
            why="They only use room. The engine removes them when it starts.",
            change="berth engine start",
            facts=facts,
        )
    else:
        yield ok(f"{len(parts)} downloads can be continued, and {len(halves)} directories are being made or removed", facts=facts)
