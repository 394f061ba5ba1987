"""Images: list, create (pull and import), inspect, history, push, tag, delete, search, prune, save, load; also the
distribution and the auth endpoints, which ask registries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiohttp import web

from berth.api.lines import JsonLines
from berth.api.route import Route, json_response, query_bool, query_filters
from berth.engine.images.remove import PRUNE_FILTERS
from berth.engine.images.service import reference_from
from berth.engine.images.view import LIST_FILTERS
from berth.errors import InvalidArgument
from berth.model.filters import Filters
from berth.model.reference import parse

if TYPE_CHECKING:
    from berth.engine.app import Engine

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
            filters, all_images=query_bool(request, "all"), shared_size=query_bool(request, "shared-size")
        )
        return json_response(summaries)

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /images/{name}/json."""
        if query_bool(request, "manifests") and request.query.get("platform"):
            raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
        return json_response(self._images.inspect(request.match_info["name"], request.query.get("platform", "")))

    async def history(self, request: web.Request) -> web.Response:
        """GET /images/{name}/history."""
        return json_response(self._images.history(request.match_info["name"], request.query.get("platform", "")))

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
            request.match_info["name"], force=query_bool(request, "force"), prune_parents=not query_bool(request, "noprune")
        )
        return json_response(records)

    async def prune(self, request: web.Request) -> web.Response:
        """POST /images/prune."""
        records, freed = await self._images.prune(query_filters(request, PRUNE_FILTERS))
        return json_response({"ImagesDeleted": records or None, "SpaceReclaimed": freed})

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /images/create: a pull with fromImage, an import with fromSrc."""
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
        image = await self._images.import_tar(
            body_stream(request),
            reference=reference,
            message=request.query.get("message", ""),
            changes=request.query.getall("changes", []),
            platform=request.query.get("platform", ""),
            source=source,
        )
        await lines.send({"status": image.id})
        return await lines.close()

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        parse(request.query["fromImage"])
        raise InvalidArgument("pull")


def routes(engine: Engine) -> list[Route]:
    """The routes of images."""
    handlers = ImageRoutes(engine)
    return [
        Route("GET", "/images/json", handlers.list),
        Route("POST", "/images/create", handlers.create),
        Route("POST", "/images/prune", handlers.prune),
        Route("GET", "/images/{name:.+}/json", handlers.inspect),
        Route("GET", "/images/{name:.+}/history", handlers.history),
        Route("POST", "/images/{name:.+}/tag", handlers.tag),
        Route("DELETE", "/images/{name:.+}", handlers.remove),
    ]
