"""POST /berth/verify: whether the files of all layers are what they should be. An extension; Docker does not look.

The answer is a stream of JSON objects, one a line: one for each layer that is not, and at last how many were looked at.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from berth.api.lines import JsonLines
from berth.api.route import Route, query_bool
from berth.engine.app import Engine
from berth.errors import BerthError
from berth.model.digest import Digest
from berth.storage.layer import Verified


def routes(engine: Engine) -> list[Route]:
    """The route. With `repair`, what can be mended is."""

    async def handle(request: web.Request) -> web.StreamResponse:
        repair, lines, count = query_bool(request, "repair"), JsonLines(request), 0
        for layer in engine.layers.all():
            count += 1
            try:
                found = await engine.layers.verified(layer.chain_id, repair=repair)
            except BerthError as error:
                # Of one that has been removed meanwhile there is nothing to say.
                gone = engine.layers.get(layer.chain_id) is None
                found = None if gone else Verified(layer, (), error=error.message)
            if found is not None:
                await lines.send(_described(engine, found))
        await lines.send({"Layers": count})
        return await lines.close()

    return [Route("POST", "/berth/verify", handle)]


def _described(engine: Engine, found: Verified) -> dict[str, Any]:
    return {
        "Layer": found.layer.chain_id,
        "Images": _images(engine, found.layer.chain_id),
        "Files": ["/" + name.decode(errors="replace").removeprefix("./") for name in found.names],
        "Mended": found.mended,
        "Source": found.source,
        "Error": found.error,
    }


def _images(engine: Engine, chain: Digest) -> list[str]:
    """Names of the images that stand on the layer, ids of those without."""
    found: list[str] = []
    for image in engine.images.store.all(members=True):
        current = image.chain_id
        while current is not None and current != chain:
            layer = engine.layers.get(current)
            current = layer.parent if layer is not None else None
        if current is not None:
            found += list(image.tags) or [image.id]
    return found
