"""The engine itself: version, information, disk usage, registry log-in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from berth.client.engine import Engine
from berth.client.stream import json_lines
from berth.errors import NotFound

if TYPE_CHECKING:
    from berth.wire.system import SystemVersion


class System:
    """About the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ping(self) -> str:
        """The engine's highest API version; Unavailable when nobody answers."""
        response = self._engine.request("GET", "/_ping", versioned=False)
        response.read()
        return response.headers.get("api-version", "1.24")

    def version(self) -> SystemVersion:
        """Versions."""
        from berth.wire.system import SystemVersion

        return self._engine.typed(SystemVersion, "GET", "/version")

    def version_raw(self) -> Any:
        """As the engine wrote it, for display. One request: the versions need not be negotiated to be told."""
        return self._engine.json("GET", "/version", versioned=False)

    def info(self) -> Any:
        """Everything about the engine, as it wrote it: the shape differs much between engines."""
        return self._engine.json("GET", "/info")

    def disk_usage(self, *, verbose: bool = False) -> Any:
        """What uses the disk, as the engine wrote it."""
        return self._engine.json("GET", "/system/df", query={"verbose": verbose or None})

    def data_root(self) -> Any:
        """Every byte below the engine's data root, by area: Root, Size, Areas. None from an engine that is not berth's."""
        try:
            return self._engine.json("GET", "/berth/df")
        except NotFound:
            return None

    def verify(self, *, repair: bool = False) -> Iterator[dict[str, Any]]:
        """Check the files of all layers: one message for each that differs, and `Layers`, how many there are."""
        return json_lines(self._engine.request("POST", "/berth/verify", query={"repair": repair or None}))

    def login(self, username: str, password: str, server: str) -> Any:
        """Check credentials; Unauthenticated when they are wrong."""
        body = {"username": username, "password": password, "serveraddress": server}
        return self._engine.json("POST", "/auth", body=body)
