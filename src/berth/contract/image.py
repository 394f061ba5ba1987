"""Images as the container service and the builder see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from msgspec import Struct

from berth.model.digest import Digest
from berth.model.reference import Reference
from berth.wire.document import ImageDocument
from berth.wire.image import AuthConfig

Progress = Callable[[dict[str, Any]], Awaitable[None]]
"""Receives Docker's progress messages ({"status": ..., "id": ..., "progressDetail": ...}) one by one."""


class Image(Struct, frozen=True, kw_only=True):
    """An image in the store. `id` is the digest of the configuration; `chain_id` that of the top layer, None without layers.
    `size` in bytes, unpacked; `tags` and `digests` are familiar references (debian:trixie, debian@sha256:...). `index` is the
    digest of the index that it was found by, when it is one of several platforms. `tagged` is when it last got a tag here, by
    whatever operation, 0 if it never did."""

    id: Digest
    document: ImageDocument
    chain_id: Digest | None
    size: int
    created: float
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    parent: Digest | None = None
    index: Digest | None = None
    tagged: float = 0.0


class Images(Protocol):
    """Implemented by engine.images."""

    def get(self, reference: str) -> Image:
        """By reference, id or unambiguous id prefix. NotFound says `No such image: NAME`."""
        ...

    def find(self, reference: str) -> Image | None:
        """Like get, or None."""
        ...

    def get_for(self, reference: str, platform: str) -> Image:
        """Like get, for a platform (os/architecture[/variant], or JSON; empty is any, the host's before others). NotFound in
        Docker's words when none that is here is for it."""
        ...

    def find_for(self, reference: str, platform: str) -> Image | None:
        """Like get_for, or None."""
        ...

    def platforms(self, reference: str) -> list[Image]:
        """What the reference means, one for each platform that is here, the one that `find` gives first. Empty without one."""
        ...

    def list(self) -> list[Image]:
        """All images, newest first."""
        ...

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: AuthConfig | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """From its registry, if it is newer there. NotFound and Unavailable in Docker's words."""
        ...

    async def create(
        self,
        document: ImageDocument,
        chain_id: Digest | None,
        *,
        tags: tuple[Reference, ...] = (),
        parent: Digest | None = None,
    ) -> Image:
        """Record an image whose layers are in the store; `rootfs` of the document must fit. Durable when this returns."""
        ...

    def tag(self, image: Image, reference: Reference) -> None:
        """Point the tag at the image; an image that had it keeps existing without."""
        ...
