"""Routes of a container's filesystem: archive, export, changes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from berth.api.presence import copy, while_connected
from berth.api.route import Handler, Route, json_response, query_bool
from berth.contract.store import PathStat
from berth.errors import InvalidArgument
from berth.wire.container import FilesystemChange

if TYPE_CHECKING:
    from berth.engine.app import Engine

_PIECE = 1 << 18


def routes(engine: Engine) -> list[Route]:
    """See the module's docstring."""
    one = "/containers/{id}"
    return [
        Route("GET", one + "/changes", _changes(engine)),
        Route("GET", one + "/export", _export(engine)),
        Route("HEAD", one + "/archive", _stat(engine)),
        Route("GET", one + "/archive", _get(engine)),
        Route("PUT", one + "/archive", _put(engine)),
    ]


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    return path


def _stat_header(stat: PathStat) -> dict[str, str]:
    document = msgspec.json.encode(stat)
    return {"X-Docker-Container-Path-Stat": base64.b64encode(document).decode()}


def _changes(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        found = await engine.containers.files.changes(engine.containers.get(request.match_info["id"]))
        return json_response([FilesystemChange(path=c.path, kind=c.kind) for c in found])

    return handle


def _export(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        container = engine.containers.get(request.match_info["id"])
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.enable_chunked_encoding()
        await copy(request, engine.containers.files.export(container), response)
        return response

    return handle


def _stat(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        container = engine.containers.get(request.match_info["id"])
        stat = await engine.containers.files.stat(container, _path(request))
        return web.Response(headers=_stat_header(stat))

    return handle


def _get(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        container = engine.containers.get(request.match_info["id"])
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        path = _path(request)

        async def work() -> None:
            async with aclosing(engine.containers.files.get(container, path)) as pieces:  # type: ignore[type-var]  # it is a generator
                async for piece in pieces:
                    if isinstance(piece, PathStat):
                        response.headers.update(_stat_header(piece))
                        response.enable_chunked_encoding()
                        continue
                    if not response.prepared:
                        # Not before there is something: a file that cannot be read is told as any error.
                        await response.prepare(request)
                    await response.write(piece)
            await response.write_eof()

        await while_connected(request, work())
        return response

    return handle


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_chunked(_PIECE):
        yield piece


def _put(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        container = engine.containers.get(request.match_info["id"])
        await engine.containers.files.put(
            container,
            _path(request),
            _body(request),
            no_overwrite=query_bool(request, "noOverwriteDirNonDir"),
            keep_owners=query_bool(request, "copyUIDGID"),
        )
        return web.Response()

    return handle
