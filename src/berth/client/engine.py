"""The face of an engine: requests, version negotiation, errors, and one object per noun.

A connection is used by one request at a time and kept for the next. Threads may share an Engine.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from berth.client.address import Address, Tls
from berth.client.decode import decode
from berth.client.stream import Hijacked
from berth.client.wireline import Body, Response, Wire, send_request
from berth.errors import (
    BerthError,
    Conflict,
    Forbidden,
    Internal,
    InvalidArgument,
    NotFound,
    NotImplementedKind,
    NotModified,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from berth.client.build import Builds
    from berth.client.containers import Containers
    from berth.client.events import EventStream
    from berth.client.exec import Execs
    from berth.client.images import Images
    from berth.client.networks import Networks
    from berth.client.system import System
    from berth.client.volumes import Volumes

MAX_VERSION = (1, 55)
MIN_VERSION = (1, 24)
_KINDS: Mapping[int, type[BerthError]] = {
    304: NotModified,
    400: InvalidArgument,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: ResourceExhausted,
    501: NotImplementedKind,
    503: Unavailable,
}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")
_SAFE_PATH = _UNRESERVED | frozenset(b"/:@!$&'()*+,;=")
Scalar = str | int | bool
Query = Mapping[str, Scalar | list[str] | None]
FilterMap = Mapping[str, list[str]]
Progress = Iterator[dict[str, Any]]
Strings = list[str]
Headers = Mapping[str, str]
T = TypeVar("T")


class EngineFailed(Internal):
    """The engine answered with an error that has no kind of its own (500)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Engine:
    """An engine at an address. Nothing is sent until the first call."""

    def __init__(self, address: Address, *, version: str | None = None) -> None:
        self.address = address
        self._idle: deque[Wire] = deque()
        self._asked_version = version

    @cached_property
    def version(self) -> str:
        """The API version both sides speak, such as 1.41. Asks the engine once."""
        if self._asked_version:
            return self._asked_version
        with_header = self.request("GET", "/_ping", versioned=False)
        with_header.read()
        offered = with_header.headers.get("api-version", "1.24")
        ours, theirs = MAX_VERSION, _version(offered)
        return ".".join(map(str, min(ours, theirs)))

    def at_least(self, version: str) -> bool:
        """Whether the negotiated version is this one or a later one."""
        return _version(self.version) >= _version(version)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Body = None,
        headers: Headers | None = None,
        versioned: bool = True,
    ) -> Response:
        """Send a request; the answer's body is not read yet. Raises the kind that fits an error status."""
        prefix = f"/v{self.version}" if versioned else ""
        target = prefix + percent(path, _SAFE_PATH) + encode_query(query or {})
        response = self._exchange(method, target, headers or {}, body)
        if response.status >= 400 or response.status == 304:
            raise _failure(response)
        return response

    def json(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Headers | None = None,
        versioned: bool = True,
    ) -> Any:
        """The decoded answer of a request with a JSON body (a Struct, or plain values); None when it is empty."""
        raw = self.raw(method, path, query=query, body=body, headers=headers, versioned=versioned)
        try:
            return msgspec.json.decode(raw) if raw.strip() else None
        except msgspec.MsgspecError as error:
            raise Internal(f"the engine's answer to {method} {path} is not JSON: {raw[:80]!r}") from error

    def typed(self, kind: type[T], method: str, path: str, *, query: Query | None = None, body: object = None) -> T:
        """As `json`, decoded into a type of `wire`."""
        raw = self.raw(method, path, query=query, body=body)
        try:
            return decode(raw, kind)
        except msgspec.MsgspecError as error:
            raise Internal(f"the engine's answer to {method} {path} is not what the API describes: {error}") from error

    def raw(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Headers | None = None,
        versioned: bool = True,
    ) -> bytes:
        """The answer's bytes of a request with a JSON body."""
        sent = dict(headers or {})
        data: bytes | None = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
        return self.request(method, path, query=query, body=data, headers=sent, versioned=versioned).read()

    def hijack(self, path: str, *, tty: bool, query: Query | None = None, body: object = None) -> Hijacked:
        """POST and take the connection over as a two-way stream."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}
        data = msgspec.json.encode(body) if body is not None else b""
        response = self.request("POST", path, query=query, body=data, headers=headers)
        return Hijacked(response.detach(), tty=tty)

    def close(self) -> None:
        """Close the kept connections. The engine may be used again."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: Body) -> Response:
        # A kept connection may have been closed by the engine meanwhile: an answer that never began may be asked for
        # again on a new one, if the body can be sent twice. Kept connections are only tried for such requests.
        if self._idle and (body is None or isinstance(body, bytes)):
            try:
                wire = self._idle.pop()
            except IndexError:
                wire = None
            if wire is not None:
                try:
                    send_request(wire, method, target, headers, body)
                    if wire.fill():
                        return Response(wire, method, self._idle.append)
                except OSError:
                    pass
                wire.close()
        wire = Wire(self.address.open())
        try:
            send_request(wire, method, target, headers, body)
            return Response(wire, method, self._idle.append)
        except OSError as error:
            wire.close()
            raise Unavailable(f"the connection to the engine at {self.address} broke: {error}") from error
        except BaseException:
            wire.close()
            raise

    @cached_property
    def containers(self) -> Containers:
        """Containers."""
        from berth.client.containers import Containers

        return Containers(self)

    @cached_property
    def execs(self) -> Execs:
        """Processes started in running containers."""
        from berth.client.exec import Execs

        return Execs(self)

    @cached_property
    def images(self) -> Images:
        """Images."""
        from berth.client.images import Images

        return Images(self)

    @cached_property
    def builds(self) -> Builds:
        """Building images."""
        from berth.client.build import Builds

        return Builds(self)

    @cached_property
    def networks(self) -> Networks:
        """Networks."""
        from berth.client.networks import Networks

        return Networks(self)

    @cached_property
    def volumes(self) -> Volumes:
        """Volumes."""
        from berth.client.volumes import Volumes

        return Volumes(self)

    @cached_property
    def system(self) -> System:
        """The engine itself."""
        from berth.client.system import System

        return System(self)

    @cached_property
    def events(self) -> EventStream:
        """What happens in the engine."""
        from berth.client.events import EventStream

        return EventStream(self)


def address(host: str | None = None, tls: Tls | None = None) -> Address:
    """Where the engine is: at `host`, else at BERTH_HOST or DOCKER_HOST, else berth's own. Docker's is never guessed."""
    from berth.client.address import BERTH_SOCKET, from_environment, parse_host

    named = host or os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST")
    return from_environment(parse_host(named), tls) if named else Address(path=BERTH_SOCKET)


def connect(host: str | None = None, *, autostart: bool = True, tls: Tls | None = None) -> Engine:
    """The engine at `address(host)`. When none is named and berth's own does not run, it is started (client/autostart.py).

    DOCKER_API_VERSION pins the API version; DOCKER_TLS_VERIFY and DOCKER_CERT_PATH are used for tcp.
    """
    from berth.client.address import listens

    found = address(host, tls)
    named = host or os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST")
    if not named and autostart and not listens(found.path or ""):
        from berth.client.autostart import start_engine

        start_engine()
    return Engine(found, version=os.environ.get("DOCKER_API_VERSION") or None)


def percent(text: str, safe: frozenset[int] = _UNRESERVED) -> str:
    """Percent-encoding (RFC 3986). Own code: urllib.parse imports more than a short command needs in all."""
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in raw)


def encode_query(query: Query) -> str:
    """`?a=1&b=true`: booleans as Docker writes them, lists repeated, None left out."""
    parts: list[str] = []
    for name, value in query.items():
        if value is None:
            continue
        for item in value if isinstance(value, list) else [value]:
            text = ("true" if item else "false") if isinstance(item, bool) else str(item)
            parts.append(f"{percent(name)}={percent(text)}")
    return "?" + "&".join(parts) if parts else ""


def encode_filters(filters: FilterMap | None) -> str | None:
    """The `filters` parameter, None when there are none."""
    return msgspec.json.encode(filters).decode() if filters else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _failure(response: Response) -> BerthError:
    raw = response.read()
    message = raw.decode(errors="replace").strip()
    try:
        found = msgspec.json.decode(raw)
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            message = found["message"]
    except msgspec.MsgspecError:
        pass
    message = message or f"the engine answered with status {response.status}"
    kind = _KINDS.get(response.status)
    if kind is not None:
        return kind(message)
    if response.status < 500:
        return InvalidArgument(message)
    return EngineFailed(message, response.status)
