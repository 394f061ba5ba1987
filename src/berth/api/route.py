"""What every route module uses: Route values, reading of parameters and bodies, JSON answers.

A module of `routes/` exports `routes(engine) -> list[Route]`. Paths carry no version: the server serves each path bare and
under /v1.NN, and `api_version(request)` tells which was asked for. Handlers raise berth's error kinds; the server maps them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from berth.api.members import rename
from berth.errors import InvalidArgument
from berth.model.filters import Filters
from berth.model.malformed import MALFORMED

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")

# Integers of more than 64 bits, and texts with a NUL, are looked for only where there may be some.
_SUSPICIOUS = re.compile(rb"\d{19}|\\u0000")

API_VERSION = web.RequestKey("api_version", tuple[int, int])


@dataclass(frozen=True, slots=True)
class Route:
    """`path` in aiohttp's syntax, with a regular expression where a name may hold slashes: /images/{name:.+}/json."""

    method: str
    path: str
    handler: Handler


def api_version(request: web.Request) -> tuple[int, int]:
    """The version asked for in the path, the newest without one."""
    return request[API_VERSION]


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A value (Structs, dicts, lists) as JSON with Docker's content type."""
    return web.Response(body=msgspec.json.encode(value) + b"\n", status=status, content_type="application/json", headers=headers)


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The JSON body as `kind`, names in any case. An empty body is an empty object."""
    data = await request.read()
    try:
        document = msgspec.json.decode(data or b"{}")
        if _SUSPICIOUS.search(data):
            _check_values(document)
        return msgspec.convert(rename(document, kind), kind)
    except MALFORMED as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error


def _check_values(value: Any) -> None:
    """InvalidArgument for an integer that no client could read back (all of the API's have 64 bits), and for a text that the
    kernel could not take: its texts end at a NUL."""
    if isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_values(inner)
    elif isinstance(value, str) and "\0" in value:
        raise InvalidArgument(f"invalid JSON: {value!r} contains a NUL character, which no name, path or argument may")
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidArgument(f"invalid JSON: the number {value} does not fit into 64 bits")


def query_bool(request: web.Request, name: str, default: bool = False) -> bool:
    """As Go's client and Docker's server read it: anything but "", 0, no, false and none is true."""
    value = request.query.get(name)
    if value is None:
        return default
    return value.strip().lower() not in ("", "0", "no", "false", "none")


def query_int(request: web.Request, name: str, default: int) -> int:
    """An integer parameter."""
    value = request.query.get(name)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except ValueError:
        raise InvalidArgument(f"invalid value {value!r} for parameter {name}: it must be an integer") from None


def query_size(request: web.Request) -> tuple[int, int]:
    """A terminal's height and width: both have to be given."""
    for name, word in (("h", "height"), ("w", "width")):
        if not request.query.get(name):
            raise InvalidArgument(f"invalid resize {word}: the parameter {name} is missing")
    return query_int(request, "h", 0), query_int(request, "w", 0)


def query_filters(request: web.Request, allowed: Iterable[str]) -> Filters:
    """The `filters` parameter."""
    return Filters.parse(request.query.get("filters"), allowed)
