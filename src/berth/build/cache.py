"""The build cache: what each step made of its parent, in the table `build_cache`, shared by all builds, kept over restarts.

    key      = sha256 of (parent's chain id, the parent's whole configuration, platform, the instruction with variables
               replaced, digests of what it copies or mounts, build arguments that it sees)
    document = the layer it added, if any, the configuration after it, its line of history and its time

Every field of the configuration is part of the key, so two parents that differ in anything never share a step. Times are
not part of it, and a hit brings back the recorded time: a build that hits throughout gives the same image id again. An
entry whose layer is gone counts as not there. A copy from another stage has two keys: by the stage's chain id, and by content.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from berth import failpoint
from berth.build.state import State
from berth.contract.image import Images
from berth.contract.store import Layer, Layers
from berth.errors import Conflict
from berth.model.digest import Digest
from berth.storage.database import Database
from berth.wire.container import ContainerConfig

_VERSION = 1


class Record(Struct, frozen=True, kw_only=True):
    """`chain_id` of the layer that the step added, None when it added none. `description` is the line of history."""

    chain_id: Digest | None
    parent: Digest | None
    config: ContainerConfig
    description: str
    created: str
    size: int = 0
    uses: int = 0


class Listed(Struct, frozen=True, kw_only=True):
    """A record as it is stored."""

    key: str
    created: float
    used: float
    record: Record


def cache_key(state: State, instruction: str, inputs: Sequence[str] = ()) -> str:
    """The key of a step on a state. `inputs` are digests and arguments, in a fixed order."""
    config = msgspec.json.encode(state.config, order="sorted").decode()
    parts = [_VERSION, state.chain_id, config, state.os, state.architecture, state.variant, instruction, list(inputs)]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


class BuildCache:
    """The table and the layers behind it."""

    def __init__(self, database: Database, layers: Layers, images: Images) -> None:
        self._database = database
        self._layers = layers
        self._images = images

    def find(self, key: str) -> tuple[Record, Layer | None] | None:
        """The record and its layer; None when there is none, or the layer is gone. Counts as a use."""
        row = self._database.row("SELECT document FROM build_cache WHERE key = ?", (key,))
        if row is None:
            return None
        record = msgspec.json.decode(row[0], type=Record)
        layer = self._layers.get(record.chain_id) if record.chain_id is not None else None
        if record.chain_id is not None and layer is None:
            self._database.execute("DELETE FROM build_cache WHERE key = ?", (key,))
            return None
        used = msgspec.structs.replace(record, uses=record.uses + 1)
        self._database.execute(
            "UPDATE build_cache SET used = ?, document = ? WHERE key = ?", (time.time(), msgspec.json.encode(used), key)
        )
        return record, layer

    def store(self, keys: Iterable[str], before: State, after: State, layer: Layer | None) -> None:
        """Record a step under its keys; the layers are kept until the records are pruned."""
        record = Record(
            chain_id=layer.chain_id if layer is not None else None,
            parent=before.chain_id,
            config=after.config,
            description=after.history[-1].created_by or "",
            created=after.created or "",
            size=layer.size if layer is not None else 0,
        )
        failpoint.hit("build.cache.before-row")
        now = time.time()
        with self._database.transaction():
            for key in keys:
                self._database.execute(
                    "INSERT OR REPLACE INTO build_cache (key, created, used, document) VALUES (?, ?, ?, ?)",
                    (key, now, now, msgspec.json.encode(record)),
                )
                self._release(key)
                if record.chain_id is not None:
                    self._database.execute(
                        "INSERT OR REPLACE INTO leases (id, created, resource) VALUES (?, ?, ?)",
                        (_lease(key), now, record.chain_id),
                    )

    def pin(self, build: str, chain_id: Digest | None) -> None:
        """A running build stands on this layer: nobody removes it until `unpin`."""
        if chain_id is not None:
            self._database.execute(
                "INSERT OR REPLACE INTO leases (id, created, resource) VALUES (?, ?, ?)",
                (f"build:{build}:{chain_id}", time.time(), chain_id),
            )

    def unpin(self, build: str) -> None:
        """The build has ended."""
        self._database.execute("DELETE FROM leases WHERE id LIKE ?", (f"build:{build}:%",))

    def pinned(self) -> set[Digest]:
        """The layers that running builds stand on."""
        return {Digest(row[0]) for row in self._database.rows("SELECT resource FROM leases WHERE id LIKE 'build:%'")}

    def list(self) -> list[Listed]:
        """All records, the last used first."""
        rows = self._database.rows("SELECT key, created, used, document FROM build_cache ORDER BY used DESC, key")
        return [
            Listed(key=key, created=created, used=used, record=msgspec.json.decode(document, type=Record))
            for key, created, used, document in rows
        ]

    def in_images(self) -> set[Digest]:
        """The chain ids that some image has, whole stacks."""
        found: set[Digest] = set()
        for image in self._images.list():
            chain = image.chain_id
            while chain is not None and chain not in found:
                found.add(chain)
                layer = self._layers.get(chain)
                chain = layer.parent if layer is not None else None
        return found

    async def remove(self, keys: Iterable[str]) -> int:
        """Forget records, and remove the layers that nothing else needs. The bytes that this gave back."""
        chains: set[Digest] = set()
        with self._database.transaction():
            for key in keys:
                row = self._database.row("SELECT document FROM build_cache WHERE key = ?", (key,))
                if row is None:
                    continue
                chain = msgspec.json.decode(row[0], type=Record).chain_id
                if chain is not None:
                    chains.add(chain)
                self._database.execute("DELETE FROM build_cache WHERE key = ?", (key,))
                self._release(key)
        return await self._remove_layers(chains)

    def _release(self, key: str) -> None:
        self._database.execute("DELETE FROM leases WHERE id = ?", (_lease(key),))

    async def _remove_layers(self, chains: set[Digest]) -> int:
        kept = (
            self.in_images() | self.pinned() | {item.record.chain_id for item in self.list() if item.record.chain_id is not None}
        )
        todo = {chain for chain in chains if chain not in kept}
        freed, progress = 0, True
        while todo and progress:
            progress = False
            for chain in sorted(todo):
                layer = self._layers.get(chain)
                try:
                    await self._layers.remove(chain)
                except Conflict:
                    continue
                todo.discard(chain)
                freed += layer.size if layer is not None else 0
                progress = True
        return freed


def _lease(key: str) -> str:
    return f"build-cache:{key}"
