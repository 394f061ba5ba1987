"""Routes of volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from berth.api.route import Handler, Route, api_version, json_response, query_bool, query_filters, read_body
from berth.contract.volume import Volume
from berth.engine.volumes import LIST_FILTERS, PRUNE_FILTERS, VolumeService
from berth.errors import NotImplementedKind
from berth.wire.volume import VolumeCreateRequest

if TYPE_CHECKING:
    from berth.engine.app import Engine

_ALL_BY_DEFAULT_BEFORE = (1, 42)


def routes(engine: Engine) -> list[Route]:
    """All of /volumes."""
    volumes = engine.volumes
    return [
        Route("GET", "/volumes", _list(volumes)),
        Route("POST", "/volumes/create", _create(volumes)),
        Route("POST", "/volumes/prune", _prune(volumes)),
        Route("GET", "/volumes/{name}", _inspect(volumes)),
        Route("PUT", "/volumes/{name}", _update),
        Route("DELETE", "/volumes/{name}", _remove(volumes)),
    ]


def _shown(volumes: VolumeService, volume: Volume) -> dict[str, Any]:
    """Empty labels and options are null, and there."""
    document: dict[str, Any] = msgspec.to_builtins(volumes.describe(volume))
    document["Labels"] = volume.labels or None
    document["Options"] = volume.options or None
    return document


def _list(volumes: VolumeService) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        found = volumes.list(query_filters(request, LIST_FILTERS))
        return json_response({"Volumes": [_shown(volumes, volume) for volume in found], "Warnings": None})

    return handle


def _create(volumes: VolumeService) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        body = await read_body(request, VolumeCreateRequest)
        if body.cluster_volume_spec:
            raise NotImplementedKind("cluster volumes need Swarm, which berth does not have")
        volume = volumes.create(
            body.name or "", driver=body.driver or "local", options=body.driver_opts or {}, labels=body.labels or {}
        )
        return json_response(_shown(volumes, volume), 201)

    return handle


def _inspect(volumes: VolumeService) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(_shown(volumes, volumes.get(request.match_info["name"])))

    return handle


def _remove(volumes: VolumeService) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await volumes.remove(request.match_info["name"], force=query_bool(request, "force"))
        return web.Response(status=204)

    return handle


async def _update(request: web.Request) -> web.StreamResponse:
    raise NotImplementedKind("only cluster volumes can be updated, and they need Swarm, which berth does not have")


def _prune(volumes: VolumeService) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        filters = query_filters(request, PRUNE_FILTERS)
        # Older clients know no filter `all`: with them every unused volume goes, as they were told.
        anonymous_only = api_version(request) >= _ALL_BY_DEFAULT_BEFORE
        names, freed = await volumes.prune(filters, anonymous_only=anonymous_only)
        return json_response({"VolumesDeleted": names, "SpaceReclaimed": freed})

    return handle
