"""What the builder keeps, as records, and the removal of what nobody needs: POST /build/prune and GET /system/df."""

from __future__ import annotations

import time

from msgspec import Struct

from berth.build.cache import BuildCache, Listed
from berth.build.cache_mount import CacheMounts
from berth.build.state import timestamp
from berth.engine.events import Events
from berth.errors import NotFound
from berth.model.filters import Filters
from berth.model.instant import parse_moment
from berth.wire.image import BuildCache as CacheRecord

# What is kept has no labels: no label matches, and every `label!`.
FILTERS = ("label", "label!", "until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private")
LAYER, MOUNT = "regular", "exec.cachemount"


class Limits(Struct, frozen=True, kw_only=True):
    """What a prune leaves, in bytes: `reserved` of the cache are not touched, more than `most` are not kept, and as many go
    as leave `free` on the disk. All 0: nothing is kept."""

    reserved: int = 0
    most: int = 0
    free: int = 0

    def keep(self, used: int, available: int) -> int:
        """How many of the `used` bytes stay, when `available` are free on the disk."""
        kept = self.most
        if self.free:
            kept = min(self.most or used, used - max(0, self.free - available))
        return max(kept, self.reserved, 0)


class Pruner:
    """One per engine."""

    def __init__(self, cache: BuildCache, mounts: CacheMounts, events: Events) -> None:
        self._cache = cache
        self._mounts = mounts
        self._events = events

    async def records(self) -> list[CacheRecord]:
        """One record for each step that made a layer, and for each cache mount. Bytes are those of content."""
        layers: dict[str, CacheRecord] = {}
        for item, record in zip(self._cache.list(), self._layer_records(), strict=True):
            if item.record.chain_id is not None:
                layers.setdefault(item.record.chain_id, record)
        return [*layers.values(), *await self._mount_records()]

    async def prune(self, filters: Filters, *, everything: bool, limits: Limits, available: int) -> tuple[list[str], int]:
        """Forget what no running build uses; without `everything`, only what is in no image. What the limits keep is the most
        recently used. `available` bytes are free on the disk. The ids of the records, and the bytes that were freed."""
        now = time.time()
        records = self._layer_records() + await self._mount_records()
        keep = limits.keep(sum(record.size or 0 for record in records), available)
        layers: list[CacheRecord] = []
        mounts: list[CacheRecord] = []
        kept = 0
        for record in records:
            if record.in_use or (record.shared and not everything) or not _matches(record, filters, now):
                continue
            size = record.size or 0
            if keep and kept + size <= keep:
                kept += size
                continue
            (mounts if record.type == MOUNT else layers).append(record)
        freed = await self._cache.remove([record.id or "" for record in layers])
        for record in mounts:
            try:
                await self._mounts.remove(record.id or "")
            except NotFound:
                continue
            freed += record.size or 0
        self._events.publish("builder", "prune", "", {"reclaimed": str(freed)})
        return [record.id or "" for record in layers + mounts], freed

    def _layer_records(self) -> list[CacheRecord]:
        """A step that made no layer belongs to the layer that it stands on."""
        used, pinned = self._cache.in_images(), self._cache.pinned()
        found = []
        for item in self._cache.list():
            chain = item.record.chain_id or item.record.parent
            found.append(_layer_record(item, chain in pinned, chain in used))
        return found

    async def _mount_records(self) -> list[CacheRecord]:
        found = []
        for name, size, changed, busy in await self._mounts.all():
            when = timestamp(changed)
            found.append(
                CacheRecord(
                    id=name,
                    type=MOUNT,
                    description="cached mount of RUN",
                    in_use=busy,
                    shared=False,
                    size=size,
                    created_at=when,
                    last_used_at=when,
                    usage_count=1,
                )
            )
        return found


def _layer_record(item: Listed, in_use: bool, shared: bool) -> CacheRecord:
    """`size` is None for a step that made no layer."""
    record = item.record
    return CacheRecord(
        id=item.key,
        parents=[record.parent] if record.parent else None,
        type=LAYER,
        description=record.description,
        in_use=in_use,
        shared=shared,
        size=record.size if record.chain_id is not None else None,
        created_at=timestamp(item.created),
        last_used_at=timestamp(item.used),
        usage_count=record.uses,
    )


def _matches(record: CacheRecord, filters: Filters, now: float) -> bool:
    for key in ("until", "unused-for"):
        for value in filters.get(key):
            if (record.last_used_at or "") > timestamp(parse_moment(value, now)):
                return False
    for key, have in (("id", record.id), ("type", record.type), ("description", record.description)):
        if key in filters and have not in filters.get(key):
            return False
    if "label" in filters or ("parent" in filters and not set(record.parents or ()) & set(filters.get("parent"))):
        return False
    if "inuse" in filters and filters.flag("inuse") != record.in_use:
        return False
    if "shared" in filters and filters.flag("shared") != record.shared:
        return False
    return not ("private" in filters and filters.flag("private") == record.shared)
