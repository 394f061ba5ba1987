"""Volumes over the API."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from berth.client.engine import Engine, FilterMap, encode_filters
from berth.wire.volume import Volume


class VolumeCreate(Struct, kw_only=True, omit_defaults=True):
    """What POST /volumes/create takes. Without a name the engine makes one up."""

    name: str | None = field(name="Name", default=None)
    driver: str | None = field(name="Driver", default=None)
    driver_opts: dict[str, str] | None = field(name="DriverOpts", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)


class VolumeList(Struct, kw_only=True):
    """The answer of GET /volumes."""

    volumes: list[Volume] | None = field(name="Volumes", default=None)
    warnings: list[str] | None = field(name="Warnings", default=None)


class Volumes:
    """Volumes by name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list(self, *, filters: FilterMap | None = None) -> list[Volume]:
        """All that match."""
        return self._engine.typed(VolumeList, "GET", "/volumes", query={"filters": encode_filters(filters)}).volumes or []

    def inspect(self, name: str) -> Volume:
        """Everything about one."""
        return self._engine.typed(Volume, "GET", f"/volumes/{name}")

    def inspect_raw(self, name: str) -> Any:
        """As the engine wrote it, for display."""
        return self._engine.json("GET", f"/volumes/{name}")

    def create(self, body: VolumeCreate) -> Volume:
        """Create, or give the one of that name back when it is there."""
        return self._engine.typed(Volume, "POST", "/volumes/create", body=body)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove; Conflict while it is used."""
        self._engine.raw("DELETE", f"/volumes/{name}", query={"force": force or None})

    def prune(self, *, filters: FilterMap | None = None) -> Any:
        """Remove what is not used."""
        return self._engine.json("POST", "/volumes/prune", query={"filters": encode_filters(filters)})
