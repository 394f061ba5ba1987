"""Routes of containers: their life and how they are looked at. Streams and files are in modules of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from msgspec import Struct, field

from berth.api.peer import client_of
from berth.api.presence import while_connected
from berth.api.route import (
    Handler,
    Route,
    api_version,
    json_response,
    query_bool,
    query_filters,
    query_int,
    query_size,
    read_body,
)
from berth.api.routes import container_files, container_streams
from berth.engine.containers.creation import CreateBody
from berth.engine.containers.listing import FILTERS
from berth.engine.containers.publishing import PortsBody
from berth.errors import InvalidArgument, NotFound
from berth.model import reference
from berth.wire.container import ContainerConfig, ContainerUpdateResponse, HostConfig

if TYPE_CHECKING:
    from berth.engine.app import Engine

_PRUNE_FILTERS = ("until", "label", "label!")


def routes(engine: Engine) -> list[Route]:
    """All routes below /containers, and /commit."""
    one = "/containers/{id}"
    return [
        Route("GET", "/containers/json", _list(engine)),
        Route("POST", "/containers/create", _create(engine)),
        Route("POST", "/containers/prune", _prune(engine)),
        Route("GET", one + "/json", _inspect(engine)),
        Route("GET", one + "/top", _top(engine)),
        Route("POST", one + "/start", _start(engine)),
        Route("POST", one + "/stop", _stop(engine)),
        Route("POST", one + "/restart", _restart(engine)),
        Route("POST", one + "/kill", _kill(engine)),
        Route("POST", one + "/pause", _pause(engine)),
        Route("POST", one + "/unpause", _unpause(engine)),
        Route("POST", one + "/rename", _rename(engine)),
        Route("POST", one + "/update", _update(engine)),
        Route("POST", one + "/resize", _resize(engine)),
        Route("POST", one + "/wait", _wait(engine)),
        Route("DELETE", one, _remove(engine)),
        Route("DELETE", one + "/{alias}", _remove_link(engine)),
        Route("GET", "/berth" + one + "/explain", _explain(engine)),
        Route("POST", "/berth" + one + "/ports", _ports(engine)),
        Route("POST", "/berth" + one + "/logs/rotate", _rotate_log(engine)),
        Route("POST", "/commit", _commit(engine)),
        *container_streams.routes(engine),
        *container_files.routes(engine),
    ]


def _list(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        found = await engine.containers.list(
            all=query_bool(request, "all"),
            limit=query_int(request, "limit", 0),
            size=query_bool(request, "size"),
            filters=query_filters(request, FILTERS),
        )
        return json_response(found)

    return handle


def _create(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        body = await read_body(request, CreateBody)
        if body.runtime:
            host = body.host_config = body.host_config or HostConfig()
            host.runtime = host.runtime or body.runtime
        _adapt_old(body, api_version(request))
        created = await engine.containers.create(request.query.get("name", ""), body, request.query.get("platform", ""))
        return json_response(created, 201)

    return handle


def _adapt_old(body: CreateBody, version: tuple[int, int]) -> None:
    """What older clients mean by leaving something out."""
    if version < (1, 44) and body.host_config is not None:
        for mount in body.host_config.mounts or []:
            if mount.bind_options is not None and mount.bind_options.read_only_non_recursive is None:
                # Read-only binds were not recursive before API 1.44.
                mount.bind_options.read_only_non_recursive = bool(mount.read_only)


def _prune(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(await engine.containers.prune(query_filters(request, _PRUNE_FILTERS)))

    return handle


def _inspect(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(await engine.containers.inspect(request.match_info["id"], size=query_bool(request, "size")))

    return handle


def _explain(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(engine.containers.explain(request.match_info["id"]))

    return handle


def _rotate_log(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.containers.rotate_log(request.match_info["id"])
        return web.Response(status=204)

    return handle


def _ports(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.containers.change_ports(request.match_info["id"], await read_body(request, PortsBody))
        return web.Response(status=204)

    return handle


def _top(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(await engine.containers.top(request.match_info["id"], request.query.get("ps_args", "")))

    return handle


def _start(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.containers.start(request.match_info["id"])
        return web.Response(status=204)

    return handle


def _timeout(request: web.Request) -> int | None:
    text = request.query.get("t")
    return None if text in (None, "") else query_int(request, "t", 0)


def _stop(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        name, signal = request.match_info["id"], request.query.get("signal", "")
        await engine.containers.stop(name, _timeout(request), signal, by=client_of(request))
        return web.Response(status=204)

    return handle


def _restart(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        name, signal = request.match_info["id"], request.query.get("signal", "")
        await engine.containers.restart(name, _timeout(request), signal, by=client_of(request))
        return web.Response(status=204)

    return handle


def _kill(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.containers.kill(request.match_info["id"], request.query.get("signal", ""), by=client_of(request))
        return web.Response(status=204)

    return handle


def _pause(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.containers.pause(request.match_info["id"])
        return web.Response(status=204)

    return handle


def _unpause(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.containers.unpause(request.match_info["id"])
        return web.Response(status=204)

    return handle


def _rename(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        name = request.query.get("name", "")
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        await engine.containers.rename(request.match_info["id"], name)
        return web.Response(status=204)

    return handle


def _update(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        warnings = await engine.containers.update(request.match_info["id"], await read_body(request, HostConfig))
        return json_response(ContainerUpdateResponse(warnings=warnings))

    return handle


def _resize(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.containers.resize(request.match_info["id"], *query_size(request))
        return web.Response(status=200)

    return handle


class _WaitError(Struct, kw_only=True):
    message: str = field(name="Message")


class _WaitResult(Struct, kw_only=True, omit_defaults=True):
    status_code: int = field(name="StatusCode")
    error: _WaitError | None = field(name="Error", default=None)


def _wait(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        future = engine.containers.wait(request.match_info["id"], request.query.get("condition", ""))
        # The head goes out at once: clients wait for it before they start the container.
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"")

        async def work() -> None:
            ended = await future
            error = _WaitError(message=ended.error) if ended.error else None
            await response.write(msgspec.json.encode(_WaitResult(status_code=ended.code, error=error)) + b"\n")
            await response.write_eof()

        await while_connected(request, work())
        return response

    return handle


def _remove(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        if query_bool(request, "link"):
            await engine.containers.unlink(request.match_info["id"])
            return web.Response(status=204)
        await engine.containers.remove(
            request.match_info["id"], force=query_bool(request, "force"), volumes=query_bool(request, "v")
        )
        return web.Response(status=204)

    return handle


def _remove_link(engine: Engine) -> Handler:
    """A link's name has a slash; nothing else below a container is removed."""

    async def handle(request: web.Request) -> web.Response:
        if not query_bool(request, "link"):
            raise NotFound("page not found")
        await engine.containers.unlink(f"{request.match_info['id']}/{request.match_info['alias']}")
        return web.Response(status=204)

    return handle


def _commit(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        query = request.query
        repository = query.get("repo", "")
        tag = None
        if repository:
            name = f"{repository}:{query['tag']}" if query.get("tag") else repository
            tag = reference.parse(name)
            if tag.digest is not None:
                raise InvalidArgument("cannot commit to digest reference")
        image = await engine.containers.committing.commit(
            engine.containers.get(query.get("container", "")),
            config=await read_body(request, ContainerConfig | None),  # type: ignore[arg-type]
            changes=query.getall("changes", []),
            tag=tag,
            author=query.get("author", ""),
            comment=query.get("comment", ""),
            pause=query_bool(request, "pause", True),
        )
        return json_response({"Id": image.id}, 201)

    return handle
