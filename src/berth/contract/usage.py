"""Who uses what: the container service answers, so that images, volumes and networks in use are not removed."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from msgspec import Struct


class User(Struct, frozen=True, kw_only=True):
    """A container that uses something."""

    id: str
    name: str
    running: bool


class Usage(Protocol):
    """Implemented by engine.containers; handed to the other services when the engine is put together (attribute `usage`)."""

    def of_image(self, image_id: str) -> list[User]:
        """Containers made from the image."""
        ...

    def by_image(self) -> Counter[str]:
        """How many containers each image has: for lists, where asking for one after another would take long."""
        ...

    def by_volume(self) -> Counter[str]:
        """How many containers mount each volume."""
        ...

    def of_volume(self, name: str) -> list[User]:
        """Containers that mount the volume."""
        ...

    def of_network(self, network_id: str, name: str) -> list[User]:
        """Containers with an endpoint, running or not, in the network."""
        ...
