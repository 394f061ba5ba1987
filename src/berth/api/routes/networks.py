"""Routes of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from berth.api.route import Handler, Route, json_response, query_filters, read_body
from berth.engine.networks import LIST_FILTERS, PRUNE_FILTERS
from berth.errors import InvalidArgument, NotFound
from berth.wire.network import (
    EndpointSettings,
    NetworkConnectRequest,
    NetworkCreateRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
)

if TYPE_CHECKING:
    from berth.engine.app import Engine


def routes(engine: Engine) -> list[Route]:
    """All of /networks."""
    return [
        Route("GET", "/networks", _list(engine)),
        Route("POST", "/networks/create", _create(engine)),
        Route("POST", "/networks/prune", _prune(engine)),
        Route("GET", "/networks/{reference}", _inspect(engine)),
        Route("DELETE", "/networks/{reference}", _remove(engine)),
        Route("POST", "/networks/{reference}/connect", _connect(engine)),
        Route("POST", "/networks/{reference}/disconnect", _disconnect(engine)),
    ]


def _list(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(engine.networks.list(query_filters(request, LIST_FILTERS)))

    return handle


def _create(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        identifier, warning = await engine.networks.create(await read_body(request, NetworkCreateRequest))
        return json_response(NetworkCreateResponse(id=identifier, warning=warning), 201)

    return handle


def _prune(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        gone = await engine.networks.prune(query_filters(request, PRUNE_FILTERS))
        return json_response({"NetworksDeleted": list(gone) or None})

    return handle


def _inspect(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        reference, scope = request.match_info["reference"], request.query.get("scope") or "local"
        if scope != "local":
            # Those of a swarm have another scope, and there is none.
            raise NotFound(f"network {reference} not found in scope {scope}")
        return json_response(engine.networks.inspect(reference))

    return handle


def _remove(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.networks.remove(request.match_info["reference"])
        return web.Response(status=204)

    return handle


def _connect(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        body = await read_body(request, NetworkConnectRequest)
        if not body.container:
            raise InvalidArgument("a container to connect is needed")
        settings = body.endpoint_config or EndpointSettings()
        await engine.containers.connect(body.container, request.match_info["reference"], settings)
        return web.Response(status=200)

    return handle


def _disconnect(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        body = await read_body(request, NetworkDisconnectRequest)
        if not body.container:
            raise InvalidArgument("a container to disconnect is needed")
        await engine.containers.disconnect(body.container, request.match_info["reference"], force=bool(body.force))
        return web.Response(status=200)

    return handle
