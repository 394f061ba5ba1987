"""Garbage: content that nothing leads to any more, such as what a pull left that was killed.

`unreachable` is a pure function of one inventory: what there is, what stands on what, and what is wanted. `Collector` takes
the inventory in one transaction and removes what the function names. Removal has two phases everywhere: first the row goes
and the directory is renamed aside, then it is emptied; a crash in between leaves a directory that the sweep takes.

Wanted: images (their configuration and top layer), repository digests (manifests), indexes and what they keep, parents of
snapshots, and whatever a lease names. Edges: layer to its parent and to its blob, index to manifests, manifest to configuration
and layers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from berth.errors import BerthError, Conflict
from berth.model.digest import Digest, hex_of
from berth.storage.account import Census
from berth.storage.blob import BlobStore
from berth.storage.database import Database
from berth.storage.layer import LayerStore
from berth.storage.snapshot import SnapshotStore

GRACE = 24 * 3600.0
# What is as small as a document is fetched again more quickly than it is worth keeping.
SMALL = 64 << 10
_DOCUMENT_LIMIT = 4 << 20

# Manifests and indexes are named by repository digests, and by leases while they are fetched.
_DOCUMENTS = "SELECT substr(reference, instr(reference, '@') + 1) FROM repo_digests UNION SELECT resource FROM leases"
_WANTED = (
    f"{_DOCUMENTS} UNION SELECT id FROM images UNION SELECT chain_id FROM images WHERE chain_id IS NOT NULL"
    " UNION SELECT digest FROM indexes UNION SELECT digest FROM index_content"
    " UNION SELECT parent FROM snapshots WHERE parent IS NOT NULL"
)
_LAYER_BLOBS = "SELECT json_extract(CAST(blob AS TEXT), '$.digest') FROM layers WHERE blob IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Inventory:
    """One moment of the store. `layers`: chain id to (parent, blob). `edges`: from a manifest or index to what it names."""

    layers: Mapping[Digest, tuple[Digest | None, Digest | None]] = field(default_factory=dict)
    blobs: frozenset[Digest] = frozenset()
    wanted: frozenset[Digest] = frozenset()
    edges: Mapping[Digest, tuple[Digest, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Garbage:
    """What nothing leads to. Layers come before their parents."""

    layers: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()


def unreachable(inventory: Inventory) -> Garbage:
    """What may go. Digests of blobs and chain ids of layers are one name space: the lowest layer's may even be the same."""
    reached: set[Digest] = set()
    pending = list(inventory.wanted)
    while pending:
        digest = pending.pop()
        if digest in reached:
            continue
        reached.add(digest)
        parent, blob = inventory.layers.get(digest, (None, None))
        pending.extend(found for found in (parent, blob) if found is not None)
        pending.extend(inventory.edges.get(digest, ()))
    layers = [chain for chain in inventory.layers if chain not in reached]
    layers.sort(key=lambda chain: (-_depth(chain, inventory.layers), chain))
    return Garbage(tuple(layers), tuple(sorted(inventory.blobs - reached)))


def _depth(chain: Digest, layers: Mapping[Digest, tuple[Digest | None, Digest | None]]) -> int:
    depth = 0
    current: Digest | None = chain
    while current is not None and current in layers and depth <= len(layers):
        current = layers[current][0]
        depth += 1
    return depth


class _Named(msgspec.Struct):
    digest: str


class _Document(msgspec.Struct):
    """The parts of a manifest or an index that name other content."""

    manifests: list[_Named] = []
    layers: list[_Named] = []
    config: _Named | None = None


class Collector:
    """Takes inventories and removes garbage."""

    def __init__(self, database: Database, blobs: BlobStore, layers: LayerStore, snapshots: SnapshotStore) -> None:
        self._database = database
        self._blobs = blobs
        self._layers = layers
        self._snapshots = snapshots

    async def start(self, running: frozenset[str] = frozenset(), now: float | None = None) -> int:
        """At engine start, once recovery knows what runs: take what a crash left half done, then what nothing leads to and is
        older than a day, or small, or of our own making (a pull that is tried again is quicker with the rest). `running` are
        keys of snapshots that are mounted. Returns how many things went."""
        moment = time.time() if now is None else now
        swept = self._blobs.sweep(parts_before=moment - GRACE) + self._snapshots.sweep(running) + self._layers.sweep()
        return swept + await self.collect(moment - GRACE, SMALL)

    async def collect(self, before: float = float("inf"), small: int = -1) -> int:
        """Remove what nothing leads to and was written before that time (seconds since the epoch); with `small` also blobs
        of up to so many bytes, and layers that were made here. Returns how many."""
        inventory = self.inventory()
        garbage = unreachable(inventory)
        removed = 0
        for chain in garbage.layers:
            # A layer of our own making (no blob) is no use to whoever makes it again: its times would be others.
            goes = (small >= 0 and inventory.layers[chain][1] is None) or _goes(
                f"{self._layers.root}/{self._layers.directory(chain)}", before
            )
            if not goes or self._leased(chain):
                continue
            try:
                await self._layers.remove(chain)
            except Conflict:
                # Something began to stand on it while others were removed.
                continue
            removed += 1
        for digest in garbage.blobs:
            # One scan of the tables for each: what became wanted since the inventory was taken stays.
            goes = _goes(self._blobs.location(digest), before, small)
            if goes and digest not in self._digests(f"{_WANTED} UNION {_LAYER_BLOBS}"):
                self._blobs.delete(digest)
                removed += 1
            await asyncio.sleep(0)
        return removed

    def _leased(self, digest: Digest) -> bool:
        return self._database.row("SELECT 1 FROM leases WHERE resource = ?", (digest,)) is not None

    def inventory(self) -> Inventory:
        """The store at this moment."""
        blobs = frozenset(digest for digest, _, _ in self._blobs.walk())
        with self._database.transaction():
            rows = self._database.rows("SELECT chain_id, parent, json_extract(CAST(blob AS TEXT), '$.digest') FROM layers")
            wanted, documents = self._digests(_WANTED), self._digests(_DOCUMENTS)
        layers = {Digest(chain): (parent, blob) for chain, parent, blob in rows}
        return Inventory(layers, blobs, wanted, self._edges(documents & blobs))

    def census(self) -> Census:
        """What there should be, for `account`: whatever something leads to."""
        inventory = self.inventory()
        garbage = unreachable(inventory)
        with self._database.transaction():
            images = [Digest(chain) for (chain,) in self._database.rows("SELECT chain_id FROM images") if chain]
            containers = self._database.rows("SELECT id FROM containers UNION SELECT key FROM snapshots")
            volumes = self._database.rows("SELECT name FROM volumes")
        counts: Counter[str] = Counter()
        for top in images:
            chain: Digest | None = top
            while chain is not None and chain in inventory.layers:
                counts[hex_of(chain)] += 1
                chain = inventory.layers[chain][0]
        return Census(
            images=counts,
            layers=frozenset(map(hex_of, inventory.layers.keys() - set(garbage.layers))),
            blobs=frozenset(map(hex_of, inventory.blobs - set(garbage.blobs))),
            containers=frozenset(key for (key,) in containers),
            volumes=frozenset(name for (name,) in volumes),
        )

    def _digests(self, sql: str) -> frozenset[Digest]:
        return frozenset(Digest(text) for (text,) in self._database.rows(sql))

    def _edges(self, documents: Iterable[Digest]) -> dict[Digest, tuple[Digest, ...]]:
        """What manifests and indexes among these blobs name, and what those name in turn."""
        found: dict[Digest, tuple[Digest, ...]] = {}
        pending = list(documents)
        while pending:
            digest = pending.pop()
            if digest in found or not self._blobs.has(digest) or self._blobs.size(digest) > _DOCUMENT_LIMIT:
                continue
            found[digest] = named = self._named(digest)
            pending.extend(named)
        return found

    def _named(self, digest: Digest) -> tuple[Digest, ...]:
        try:
            document = msgspec.json.decode(self._blobs.read(digest), type=_Document)
        except (msgspec.MsgspecError, BerthError, UnicodeDecodeError):
            # A layer, or a document that is damaged: it names nothing.
            return ()
        named = [*document.manifests, *document.layers, *([document.config] if document.config is not None else [])]
        return tuple(Digest(entry.digest) for entry in named)


def _goes(path: str, before: float, small: int = -1) -> bool:
    """Whether it is older, or of that size at most, or gone already."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return True
    return status.st_ctime < before or status.st_size <= small
