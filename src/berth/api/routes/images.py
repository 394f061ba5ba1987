"""Images: list, create (pull and import), inspect, history, push, tag, delete, search, prune, save, load; also the
distribution and the auth endpoints, which ask registries."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiohttp import web

from berth.api.lines import JsonLines
from berth.api.presence import copy
from berth.api.route import Route, json_response, query_bool, query_filters, query_int, read_body
from berth.engine.images.distribution import SEARCH_FILTERS
from berth.engine.images.remove import PRUNE_FILTERS
from berth.engine.images.service import reference_from
from berth.engine.images.view import LIST_FILTERS
from berth.errors import BerthError, InvalidArgument
from berth.model.filters import Filters
from berth.model.reference import parse
from berth.registry.credential import decode_auth
from berth.registry.download import download
from berth.registry.manifest import parse_platform
from berth.wire.image import AuthConfig

if TYPE_CHECKING:
    from berth.engine.app import Engine

log = logging.getLogger("berth.api")
_CHUNK = 1 << 18


async def body_stream(request: web.Request) -> AsyncIterator[bytes]:
    """The request's body in pieces."""
    async for piece in request.content.iter_chunked(_CHUNK):
        yield piece


class ImageRoutes:
    """The handlers."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.images

    async def list(self, request: web.Request) -> web.Response:
        """GET /images/json."""
        filters = query_filters(request, LIST_FILTERS)
        if request.query.get("filter"):
            filters = Filters({**filters.values, "reference": (request.query["filter"],)})
        summaries = self._images.summaries(
            filters,
            all_images=query_bool(request, "all"),
            shared_size=query_bool(request, "shared-size"),
            manifests=query_bool(request, "manifests"),
        )
        return json_response(summaries)

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /images/{name}/json."""
        platform, manifests = request.query.get("platform", ""), query_bool(request, "manifests")
        if manifests and platform:
            raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
        return json_response(self._images.inspect(request.match_info["name"], platform, manifests=manifests))

    async def history(self, request: web.Request) -> web.Response:
        """GET /images/{name}/history."""
        return json_response(self._images.history(request.match_info["name"], request.query.get("platform", "")))

    async def attestations(self, request: web.Request) -> web.Response:
        """GET /images/{name}/attestations."""
        platforms = request.query.getall("platform", [])
        if len(platforms) > 1:
            raise InvalidArgument("only one platform can be asked for at a time")
        statements = self._images.attestations(
            request.match_info["name"],
            platforms[0] if platforms else "",
            frozenset(request.query.getall("type", [])),
            statement=query_bool(request, "statement"),
        )
        return json_response(statements)

    async def tag(self, request: web.Request) -> web.Response:
        """POST /images/{name}/tag."""
        repository = request.query.get("repo", "")
        reference = reference_from(repository, request.query.get("tag", ""))
        if reference.digest is not None:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        self._images.tag(self._images.get(request.match_info["name"]), reference)
        return web.Response(status=201)

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /images/{name}."""
        records = await self._images.remove(
            request.match_info["name"],
            force=query_bool(request, "force"),
            prune_parents=not query_bool(request, "noprune"),
            platforms=request.query.getall("platforms", []),
        )
        return json_response(records)

    async def prune(self, request: web.Request) -> web.Response:
        """POST /images/prune."""
        records, freed = await self._images.prune(query_filters(request, PRUNE_FILTERS))
        return json_response({"ImagesDeleted": records or None, "SpaceReclaimed": freed})

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /images/create: a pull with fromImage, an import with fromSrc."""
        parse_platform(request.query.get("platform", ""))
        if request.query.get("fromImage"):
            return await self._pull(request)
        if "fromSrc" in request.query:
            return await self._import(request)
        raise InvalidArgument("fromImage or fromSrc is needed: tell which image to pull, or where to import from")

    async def _import(self, request: web.Request) -> web.StreamResponse:
        source = request.query["fromSrc"]
        repository, tag = request.query.get("repo", ""), request.query.get("tag", "")
        reference = reference_from(repository, tag) if repository else None
        if reference is not None and reference.digest is not None:
            raise InvalidArgument("cannot import digest reference")
        lines = JsonLines(request)
        try:
            image = await self._images.import_tar(
                body_stream(request) if source == "-" else await self._from_address(source, lines),
                reference=reference,
                message=request.query.get("message", ""),
                changes=request.query.getall("changes", []),
                platform=request.query.get("platform", ""),
                source=source,
            )
            await lines.send({"status": image.id})
        except BerthError as error:
            await lines.fail(error)
        return await lines.close()

    async def _from_address(self, source: str, lines: JsonLines) -> AsyncIterator[bytes]:
        await lines.send({"status": f"Downloading from {source}"})
        return download(source)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        name, tag = request.query["fromImage"], request.query.get("tag", "")
        auth = _credentials(request)
        platform = request.query.get("platform", "")
        bare = parse(name, default_tag=False)
        lines = JsonLines(request)
        try:
            if tag or bare.tag or bare.digest:
                await self._images.pull(reference_from(name, tag), platform=platform, auth=auth, progress=lines.send)
            else:
                await self._images.pull_all(bare, platform=platform, auth=auth, progress=lines.send)
        except BerthError as error:
            await lines.fail(error)
        return await lines.close()

    async def push(self, request: web.Request) -> web.StreamResponse:
        """POST /images/{name}/push."""
        repository = parse(request.match_info["name"], default_tag=False)
        tag = request.query.get("tag") or repository.tag
        if tag is not None:
            repository = parse(f"{repository.repository}:{tag}")
        platform = request.query.get("platform", "")
        auth = _credentials(request)
        lines = JsonLines(request)
        try:
            await self._images.push(repository, tag, platform=platform, auth=auth, progress=lines.send)
        except BerthError as error:
            await lines.fail(error)
        return await lines.close()

    async def load(self, request: web.Request) -> web.StreamResponse:
        """POST /images/load. What is wrong with the archive is told in the stream, as its clients expect of this one."""
        lines = JsonLines(request)
        await lines.start()
        try:
            await self._images.load(
                body_stream(request),
                quiet=query_bool(request, "quiet"),
                platforms=_platforms(request),
                progress=lines.send,
            )
        except BerthError as error:
            await lines.fail(error)
        return await lines.close()

    async def save(self, request: web.Request) -> web.StreamResponse:
        """GET /images/get and /images/{name}/get."""
        name = request.match_info.get("name")
        names = [name] if name else [part for text in request.query.getall("names", []) for part in text.split(",") if part]
        if not names:
            raise InvalidArgument("names is needed: tell which images to save")
        stream = self._images.save(names, _platforms(request))
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        await copy(request, stream, response)
        return response

    async def search(self, request: web.Request) -> web.Response:
        """GET /images/search."""
        auth = _credentials(request)
        filters = query_filters(request, SEARCH_FILTERS)
        found = await self._images.search(request.query.get("term", ""), query_int(request, "limit", 0), filters, auth)
        return json_response(found)

    async def distribution(self, request: web.Request) -> web.Response:
        """GET /distribution/{name}/json."""
        auth = _credentials(request)
        return json_response(await self._images.distribution(parse(request.match_info["name"]), auth))

    async def auth(self, request: web.Request) -> web.Response:
        """POST /auth."""
        return json_response(await self._images.login(await read_body(request, AuthConfig)))


def _credentials(request: web.Request) -> AuthConfig | None:
    """X-Registry-Auth. One that cannot be read counts as none, as with Docker: clients send `placeholder` for nobody."""
    try:
        return decode_auth(request.headers.get("X-Registry-Auth"))
    except InvalidArgument as error:
        log.info("%s %s goes on without credentials: %s", request.method, request.path, error.message)
        return None


def _platforms(request: web.Request) -> list[str]:
    """Given once for each platform; an empty one is none."""
    return [text for text in request.query.getall("platform", []) if text]


def routes(engine: Engine) -> list[Route]:
    """The routes of images."""
    handlers = ImageRoutes(engine)
    return [
        Route("GET", "/images/json", handlers.list),
        Route("GET", "/images/search", handlers.search),
        Route("GET", "/images/get", handlers.save),
        Route("GET", "/images/{name:.+}/get", handlers.save),
        Route("POST", "/images/load", handlers.load),
        Route("POST", "/images/create", handlers.create),
        Route("POST", "/images/prune", handlers.prune),
        Route("GET", "/images/{name:.+}/json", handlers.inspect),
        Route("GET", "/images/{name:.+}/history", handlers.history),
        Route("GET", "/images/{name:.+}/attestations", handlers.attestations),
        Route("POST", "/images/{name:.+}/tag", handlers.tag),
        Route("POST", "/images/{name:.+}/push", handlers.push),
        Route("DELETE", "/images/{name:.+}", handlers.remove),
        Route("GET", "/distribution/{name:.+}/json", handlers.distribution),
        Route("POST", "/auth", handlers.auth),
    ]
