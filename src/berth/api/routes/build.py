"""POST /build, POST /build/prune: the builder as Docker's classic builder looks from outside."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import secrets
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from berth.api.error import of_host
from berth.api.presence import while_connected
from berth.api.route import Route, json_response, query_bool, query_filters, query_int
from berth.build.context import Context
from berth.build.download import download, is_git, redacted
from berth.build.options import BuildOptions
from berth.build.prune import FILTERS, Limits
from berth.build.runner import CommandFailed
from berth.build.service import BuildService
from berth.build.stream import ByteStream
from berth.errors import BerthError, InvalidArgument, NotImplementedKind
from berth.model.malformed import MALFORMED
from berth.registry.manifest import parse_platform
from berth.wire.container import HostConfig, HostConfigUlimits
from berth.wire.image import AuthConfig

log = logging.getLogger("berth.api")

_BUILDKIT = (
    "this engine has no BuildKit session: use its builder through the classic API by setting DOCKER_BUILDKIT=0 "
    "(docker build, docker-compose), or run berth build"
)


def routes(engine: object, builds: BuildService) -> list[Route]:
    """The builder's routes. The engine itself is not needed."""
    return [
        Route("POST", "/build", lambda request: _build(builds, request)),
        Route("POST", "/build/prune", lambda request: _prune(builds, request)),
        Route("POST", "/session", _no_session),
        Route("POST", "/grpc", _no_session),
    ]


async def _no_session(request: web.Request) -> web.StreamResponse:
    raise NotImplementedKind(_BUILDKIT)


async def _prune(builds: BuildService, request: web.Request) -> web.StreamResponse:
    filters = query_filters(request, FILTERS)
    limits = Limits(
        # The name up to API 1.47, and the one that came after it.
        reserved=max(query_int(request, "keep-storage", 0), query_int(request, "reserved-space", 0)),
        most=query_int(request, "max-used-space", 0),
        free=query_int(request, "min-free-space", 0),
    )
    ids, freed = await builds.prune(filters, everything=query_bool(request, "all"), limits=limits)
    return json_response({"CachesDeleted": ids or None, "SpaceReclaimed": freed})


async def _build(builds: BuildService, request: web.Request) -> web.StreamResponse:
    options = read_options(request)
    async with _context(builds, request, options) as context:
        planned = builds.plan(context, options)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)

        async def send(message: dict[str, Any]) -> None:
            await response.write(msgspec.json.encode(message) + b"\n")

        async def work() -> None:
            try:
                await builds.build(context, options, planned, send)
            except BerthError as error:
                await send(error_line(error))
            except ConnectionError:
                raise
            except Exception as error:  # once the stream has begun, its last line is the only place for an error
                refused = of_host(error, "building:") if isinstance(error, OSError) else None
                if refused is not None:
                    await send(error_line(refused))
                    return
                number = secrets.token_hex(4)
                log.exception("error %s in a build", number)
                await send(error_line(BerthError(f"berth: internal error {number}; the engine's log has the details")))

        stayed = await while_connected(request, work())
    if stayed:
        await response.write_eof()
    return response


def error_line(error: BerthError) -> dict[str, Any]:
    """The last line of a stream that failed."""
    detail: dict[str, Any] = {"message": error.message}
    if isinstance(error, CommandFailed):
        detail = {"code": error.code, "message": error.message}
    return {"errorDetail": detail, "error": error.message}


def read_options(request: web.Request) -> BuildOptions:
    """The query and the headers. InvalidArgument, and NotImplementedKind for what this builder is not."""
    query = request.query
    if query.get("version", "1") not in ("", "1"):
        raise NotImplementedKind(f"BuildKit builds are not supported: {_BUILDKIT}")
    if query.get("securityopt") not in (None, "", "null", "[]"):
        raise InvalidArgument("The daemon on this platform does not support setting security options on build")
    if query_bool(request, "squash"):
        raise NotImplementedKind("--squash is not supported: leave it out, or make one stage copy from another")
    if query.get("outputs") not in (None, "", "null", "[]"):
        raise NotImplementedKind("--output is not supported: build an image and copy out of a container made from it")
    platform = query.get("platform", "").lower()
    # What is none is refused before the stream begins.
    parse_platform(platform)
    return BuildOptions(
        dockerfile=_dockerfile_path(query.get("dockerfile") or "Dockerfile"),
        tags=tuple(tag for tag in query.getall("t", []) if tag),
        quiet=query_bool(request, "q"),
        no_cache=query_bool(request, "nocache"),
        pull=query_bool(request, "pull"),
        build_args={name: value for name, value in _json(query, "buildargs", dict[str, str | None]).items() if value is not None},
        labels=_json(query, "labels", dict[str, str]),
        target=query.get("target", ""),
        platform=platform,
        cache_from=tuple(_json(query, "cachefrom", list[str])),
        host_config=_host_config(request),
        credentials=_credentials(request.headers.get("X-Registry-Config", "")),
    )


def _dockerfile_path(path: str) -> str:
    """Relative to the context; `..` is refused rather than cleaned away."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise InvalidArgument(f"The Dockerfile ({path}) must be within the build context")
    return "/".join(parts)


def _host_config(request: web.Request) -> HostConfig:
    query = request.query
    # One parameter for each, as Docker's clients send them; a list in JSON, or with commas, is understood as well.
    hosts = [host for text in query.getall("extrahosts", []) for host in _list(text)]
    ulimits = _json(query, "ulimits", list[HostConfigUlimits]) if query.get("ulimits") else None
    return HostConfig(
        network_mode=query.get("networkmode") or "default",
        memory=query_int(request, "memory", 0) or None,
        memory_swap=query_int(request, "memswap", 0) or None,
        cpu_shares=query_int(request, "cpushares", 0) or None,
        cpu_period=query_int(request, "cpuperiod", 0) or None,
        cpu_quota=query_int(request, "cpuquota", 0) or None,
        cpuset_cpus=query.get("cpusetcpus") or None,
        cpuset_mems=query.get("cpusetmems") or None,
        shm_size=query_int(request, "shmsize", 0) or None,
        extra_hosts=hosts or None,
        ulimits=ulimits or None,
    )


def _list(text: str) -> list[str]:
    if text.startswith("["):
        return list(_json({"extrahosts": text}, "extrahosts", list[str]))
    return [part for part in text.split(",") if part]


def _json(query: Any, name: str, kind: Any) -> Any:
    """A parameter in JSON; empty and null are an empty value."""
    text = query.get(name) or ""
    if text in ("", "null"):
        return msgspec.convert([] if str(kind).startswith("list") else {}, kind)
    try:
        return msgspec.json.decode(text, type=kind)
    except MALFORMED as error:
        raise InvalidArgument(f"invalid value of the parameter {name}: {error}") from error


def _credentials(header: str) -> dict[str, AuthConfig]:
    """By registry. A header that cannot be read counts as none, as with Docker."""
    try:
        data = base64.b64decode(header.replace("-", "+").replace("_", "/") + "=" * (-len(header) % 4), validate=True)
        found: dict[str, AuthConfig] = msgspec.json.decode(data or b"{}", type=dict[str, AuthConfig])
    except (binascii.Error, ValueError, *MALFORMED):
        return {}
    return {_host(key): value for key, value in found.items()}


def _host(key: str) -> str:
    """Registries are keyed by name, and the default one by an old address."""
    return urllib.parse.urlsplit(key).netloc if "://" in key else key


@asynccontextmanager
async def _context(builds: BuildService, request: web.Request, options: BuildOptions) -> AsyncIterator[Context]:
    """From the body, or from the address that `remote` names."""
    remote = request.query.get("remote", "")
    if not remote:
        async with builds.context(_body(request), options.dockerfile) as context:
            yield context
        return
    if not remote.startswith(("http://", "https://")) or is_git(remote.partition("#")[0]):
        if remote == "client-session":
            raise NotImplementedKind(f"BuildKit builds are not supported: {_BUILDKIT}")
        raise NotImplementedKind(
            f"a git repository as the build context is not supported ({redacted(remote)}): clone it, and give its folder"
        )
    async with builds.scratch() as directory:
        fetched = await download(remote, os.path.join(directory, "context"), "build")
        async with builds.context(_file(fetched.path), options.dockerfile) as context:
            yield context


async def _body(request: web.Request) -> ByteStream:
    async for piece in request.content.iter_any():
        yield piece


async def _file(path: str) -> ByteStream:
    with open(path, "rb") as file:
        while piece := await asyncio.to_thread(file.read, 1024 * 1024):
            yield piece
