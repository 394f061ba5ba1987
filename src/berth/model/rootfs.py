"""How a container's root filesystem is put together: values that a snapshotter returns and the runtime mounts."""

from __future__ import annotations

from msgspec import Struct


class Overlay(Struct, frozen=True, kw_only=True):
    """An overlay mount. All paths are relative to `store`, a directory on one filesystem; `layers` is top first.

    On disk every id is the one the container sees. Without `upper` the mount is read-only.
    """

    store: str
    layers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None


class Change(Struct, frozen=True, kw_only=True):
    """One difference between a snapshot and its parent: kind 0 modified, 1 added, 2 deleted, as in the API."""

    path: str
    kind: int
