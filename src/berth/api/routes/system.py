"""Routes of the engine itself: ping, version, info, events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime

import msgspec
from aiohttp import web

from berth.api import versions
from berth.api.host import warnings
from berth.api.presence import while_connected
from berth.api.route import Handler, Route, api_version, json_response, query_bool, query_filters
from berth.engine.app import Engine
from berth.errors import InvalidArgument
from berth.model.filters import Filters
from berth.wire.system import EventMessage

_SEQUENCE = "application/json-seq"
# What an event is of, by name or id; of some there are none here.
_NAMED = ("config", "container", "daemon", "image", "network", "node", "plugin", "secret", "service", "volume")
_EVENT_FILTERS = (*_NAMED, "event", "label", "scope", "type")


def routes(engine: Engine, request_stop: Callable[[bool], None]) -> list[Route]:
    """`request_stop(stop_containers)` ends the engine."""
    return [
        Route("GET", "/_ping", _ping),
        Route("HEAD", "/_ping", _ping),
        Route("GET", "/version", _version(engine)),
        Route("GET", "/info", _info(engine)),
        Route("GET", "/events", _events(engine)),
        Route("POST", "/berth/stop", _stop(request_stop)),
    ]


async def _ping(request: web.Request) -> web.Response:
    headers = {
        "Builder-Version": "1",
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
    }
    return web.Response(text="OK" if request.method == "GET" else None, headers=headers)


def _version(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(engine.system.version(versions.text(versions.NEWEST), versions.text(versions.OLDEST)))

    return handle


def _info(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        info = engine.system.info(engine.containers.count_by_state(), engine.images.count())
        info.warnings = [*warnings(engine.config.hosts, engine.config.tls), *(info.warnings or [])]
        return json_response(info)

    return handle


def _stop(request_stop: Callable[[bool], None]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        # The answer goes out first: the engine ends as soon as the loop gets round to it.
        asyncio.get_running_loop().call_later(0.05, request_stop, query_bool(request, "containers"))
        return web.Response(status=202)

    return handle


def _time_ns(request: web.Request, name: str) -> int | None:
    """A point in time: seconds since the epoch with a fraction, or RFC 3339."""
    text = request.query.get(name)
    if not text:
        return None
    try:
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 1_000_000_000 + int((fraction + "000000000")[:9])
    except ValueError:
        pass
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        raise InvalidArgument(f"invalid value {text!r} for parameter {name}: give seconds since the epoch or RFC 3339") from None


def _matches(filters: Filters, message: EventMessage) -> bool:
    actor, action, kind = message.actor, message.action or "", message.type or ""
    attributes = (actor.attributes if actor else None) or {}
    identity = (actor.id if actor else None) or ""
    if "type" in filters and kind not in filters.get("type"):
        return False
    if "scope" in filters and message.scope not in filters.get("scope"):
        return False
    if "event" in filters and not any(action == e or action.startswith(e + ":") for e in filters.get("event")):
        return False
    for key in _NAMED:
        if key in filters and not _names_match(key, filters.get(key), kind, identity, attributes):
            return False
    return filters.match_labels(attributes)


def _names_match(key: str, wanted: tuple[str, ...], kind: str, identity: str, attributes: dict[str, str]) -> bool:
    if key == "image" and kind in ("container", "image"):
        called = [attributes.get("image" if kind == "container" else "name", ""), *([identity] if kind == "image" else [])]
        return not {*called, *map(_without_tag, called)}.isdisjoint(wanted)
    if kind != key:
        return False
    name = attributes.get("name", "")
    return any(identity.startswith(w) or name.startswith(w.removeprefix("/")) for w in wanted)


def _without_tag(image: str) -> str:
    name, colon, tag = image.rpartition(":")
    return name if colon and "/" not in tag else image


def _event(message: EventMessage) -> dict[str, object]:
    """An event with what clients before API 1.22 read: status, id, from. Docker has left them out since 1.52, but docker-compose
    1.29 takes the newest version that the server offers, and reads them all the same."""
    document: dict[str, object] = msgspec.to_builtins(message)
    if message.type in ("container", "image") and message.actor is not None:
        document |= {"status": message.action, "id": message.actor.id}
        if message.type == "container" and message.actor.attributes:
            document["from"] = message.actor.attributes.get("image", "")
    return document


def _event_form(request: web.Request) -> tuple[str, bytes]:
    """The content type that the client asks for, and what begins an event in it. The lines are the same in all of them."""
    accepted = request.headers.get("Accept", "")
    for kind in ("application/jsonl", "application/x-ndjson", _SEQUENCE):
        if kind in accepted and api_version(request) >= (1, 52):
            return kind, b"\x1e" if kind == _SEQUENCE else b""
    return "application/json", b""


def _events(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        filters = query_filters(request, _EVENT_FILTERS)
        since, until = _time_ns(request, "since"), _time_ns(request, "until")
        if since and until and since > until:
            asked = request.query
            raise InvalidArgument(f"`since` time ({asked['since']}) cannot be after `until` time ({asked['until']})")
        kind, before = _event_form(request)
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)

        async def work() -> None:
            async with aclosing(engine.events.listen(since, until)) as batches:  # type: ignore[type-var]  # it is a generator
                async for batch in batches:
                    asked = (_event(message) for message in batch if _matches(filters, message))
                    if lines := b"".join(before + msgspec.json.encode(event) + b"\n" for event in asked):
                        await response.write(lines)

        await while_connected(request, work())
        return response

    return handle
