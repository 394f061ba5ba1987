"""Networks over the API."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from berth.client.engine import Engine, FilterMap, encode_filters
from berth.wire.network import (
    IPAM,
    EndpointSettings,
    NetworkConnectRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
    NetworkInspect,
)


class NetworkCreate(Struct, kw_only=True, omit_defaults=True):
    """What POST /networks/create takes."""

    name: str = field(name="Name")
    check_duplicate: bool | None = field(name="CheckDuplicate", default=None)
    driver: str | None = field(name="Driver", default=None)
    internal: bool | None = field(name="Internal", default=None)
    attachable: bool | None = field(name="Attachable", default=None)
    enable_ipv4: bool | None = field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = field(name="EnableIPv6", default=None)
    ipam: IPAM | None = field(name="IPAM", default=None)
    options: dict[str, str] | None = field(name="Options", default=None)
    labels: dict[str, str] | None = field(name="Labels", default=None)


class Networks:
    """`name` is a name or an id."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list(self, *, filters: FilterMap | None = None) -> list[NetworkInspect]:
        """All that match."""
        return self._engine.typed(list[NetworkInspect], "GET", "/networks", query={"filters": encode_filters(filters)})

    def inspect(self, name: str) -> NetworkInspect:
        """Everything about one."""
        return self._engine.typed(NetworkInspect, "GET", f"/networks/{name}")

    def inspect_raw(self, name: str, *, verbose: bool = False) -> Any:
        """As the engine wrote it, for display."""
        return self._engine.json("GET", f"/networks/{name}", query={"verbose": verbose or None})

    def create(self, body: NetworkCreate) -> NetworkCreateResponse:
        """Create. A name that is taken is a Conflict."""
        return self._engine.typed(NetworkCreateResponse, "POST", "/networks/create", body=body)

    def remove(self, name: str) -> None:
        """Remove; Forbidden while endpoints are attached."""
        self._engine.raw("DELETE", f"/networks/{name}")

    def connect(self, name: str, container: str, endpoint: EndpointSettings | None = None) -> None:
        """Attach a container."""
        self._engine.raw(
            "POST", f"/networks/{name}/connect", body=NetworkConnectRequest(container=container, endpoint_config=endpoint)
        )

    def disconnect(self, name: str, container: str, *, force: bool = False) -> None:
        """Detach a container."""
        self._engine.raw("POST", f"/networks/{name}/disconnect", body=NetworkDisconnectRequest(container=container, force=force))

    def prune(self, *, filters: FilterMap | None = None) -> Any:
        """Remove what is not used."""
        return self._engine.json("POST", "/networks/prune", query={"filters": encode_filters(filters)})
