"""Volumes as the container service sees them. Data lives in `volumes/<name>/_data`, with the ids that containers see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct, field

from berth.model.oci import Mount


class Volume(Struct, frozen=True, kw_only=True):
    """A volume. `created` in seconds since the epoch; `mountpoint` is the data directory on the host.

    An anonymous one belongs to the container `owner` that it was made for and goes with it, until that container is removed
    without its volumes: then it is `kept`.
    """

    name: str
    mountpoint: str
    created: float
    driver: str = "local"
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    anonymous: bool = False
    owner: str = ""
    kept: bool = False


class Held(Struct, frozen=True):
    """A volume's filesystem while it is used: the path that leads to it, and a descriptor that says so until its last copy is
    closed: whoever runs the container keeps it."""

    source: str
    connection: int


class Volumes(Protocol):
    """Implemented by engine.volumes."""

    def get(self, name: str) -> Volume:
        """NotFound: `get NAME: no such volume`."""
        ...

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        owner: str = "",
    ) -> Volume:
        """Idempotent for the same driver and options. Without a name an anonymous volume with 64 random hex digits, which
        belongs to the container `owner`. Durable."""
        ...

    def keep(self, names: Iterable[str]) -> None:
        """These anonymous volumes outlive their container. Idempotent; what is missing is passed over."""
        ...

    async def hold(self, volume: Volume) -> Held | None:
        """For a start: the filesystem of a volume in memory, which those who run at the same time share. None for volumes that
        are on disk, and where the kernel cannot show one tmpfs to containers with ids of their own (before Linux 6.3). The
        caller owns the descriptor."""
        ...

    def mount(self, volume: Volume, destination: str, *, read_only: bool, subpath: str = "", held: Held | None = None) -> Mount:
        """The OCI mount that shows the volume at `destination`: a bind of the data directory or of what is `held`, or what
        `type=tmpfs`, `o=bind` ... in the options of the local driver ask for."""
        ...

    def is_empty(self, volume: Volume) -> bool:
        """Whether image content should be copied up into it (local volumes without options, no entry yet)."""
        ...

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Conflict while used: `remove NAME: volume is in use - [ID, ...]`. With `force`, a missing one is fine."""
        ...
