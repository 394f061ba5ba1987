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


# The type of a mount in a launch's spec that shows an image: `image_mount` writes it, the runtime reads it. Not of the OCI's.
IMAGE_MOUNT = "berth.image"
# The same for a filesystem that is mounted by the host's root, before the container's user namespace: it has the options
# type=, and frozen when the filesystem itself is to be read-only.
FILESYSTEM_MOUNT = "berth.filesystem"


class Change(Struct, frozen=True, kw_only=True):
    """One difference between a snapshot and its parent: kind 0 modified, 1 added, 2 deleted, as in the API."""

    path: str
    kind: int
