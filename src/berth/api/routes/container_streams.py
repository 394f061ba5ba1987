"""Routes of a container's streams: attach (raw and websocket), logs, stats."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from berth.api import hijack
from berth.api.presence import copy
from berth.api.route import Handler, Route, api_version, query_bool
from berth.contract.runtime import AttachStream
from berth.engine.containers.attaching import parse_detach_keys
from berth.engine.containers.record import Container
from berth.engine.logs import LogQuery
from berth.errors import BerthError, InvalidArgument
from berth.model.instant import parse_instant
from berth.runtime.stream import frame

if TYPE_CHECKING:
    from berth.engine.app import Engine

MULTIPLEXED_SINCE = (1, 42)
_SYSTEM_ERROR = 3


def routes(engine: Engine) -> list[Route]:
    """See the module's docstring."""
    one = "/containers/{id}"
    return [
        Route("POST", one + "/attach", _attach(engine)),
        Route("GET", one + "/attach/ws", _attach_websocket(engine)),
        Route("GET", one + "/logs", _logs(engine)),
        Route("GET", one + "/stats", _stats(engine)),
    ]


def wants_multiplexed(request: web.Request, *, tty: bool) -> bool:
    """Whether the stream is named a framed one: older clients know one name for both."""
    return not tty and api_version(request) >= MULTIPLEXED_SINCE


def _wants(request: web.Request) -> dict[str, bool]:
    """What a client that attaches asks for."""
    wants = {name: query_bool(request, name) for name in ("logs", "stream", "stdin", "stdout", "stderr")}
    if not wants["logs"] and not wants["stream"]:
        raise InvalidArgument("Either the stream or the logs parameter must be given")
    # Who wants neither input nor output would wait for nothing.
    wants["stream"] = wants["stream"] and any(wants[name] for name in ("stdin", "stdout", "stderr"))
    return wants


def _past(engine: Engine, container: Container, wants: dict[str, bool], *, raw: bool) -> AsyncIterator[bytes] | None:
    """The log so far, if that is asked for and there may be one."""
    if not wants["logs"] or not (wants["stdout"] or wants["stderr"]) or not container.state.started_at:
        return None
    return engine.containers.logs(container.id, LogQuery(stdout=wants["stdout"], stderr=wants["stderr"]), raw=raw)


def _attach(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        container = engine.containers.check_attach(request.match_info["id"])
        keys = parse_detach_keys(request.query.get("detachKeys"))
        wants = _wants(request)
        past = _past(engine, container, wants, raw=False)
        waiting = container.live_task() is None and wants["stream"]

        def stream(fd: int, pending: bytes = b"") -> AttachStream:
            return AttachStream(
                fd=fd,
                stdin=wants["stdin"] and bool(container.record.config.open_stdin),
                stdout=wants["stdout"],
                stderr=wants["stderr"],
                framed=not container.tty,
                pending=pending,
                detach_keys=keys if container.tty and wants["stdin"] else b"",
            )

        if waiting and past is not None:
            return await _attach_with_past(engine, request, container, past, stream)
        connection = await hijack.take_over(request, multiplexed=wants_multiplexed(request, tty=container.tty))
        if not waiting:
            # Where a start is still to come, the client is attached at once: it starts as soon as it has the head.
            await hijack.head_read(connection.fd)
        if not await _replay(past, connection.fd) or not wants["stream"]:
            os.close(connection.fd)
            return connection.response
        await engine.containers.attach(container, stream(connection.fd, connection.pending))
        return connection.response

    return handle


async def _attach_with_past(
    engine: Engine, request: web.Request, container: Container, past: AsyncIterator[bytes], stream: Callable[[int], AttachStream]
) -> web.StreamResponse:
    """Of a container whose start is to come, the log of its earlier runs, then what it will write.

    It is attached, and the log is opened, before the head is out: its start may come, and its end, before the log has been read
    and sent. What it writes meanwhile waits in a socketpair, and is carried by the engine.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    first = b""

    async def attach() -> None:
        nonlocal first
        first = await anext(past, b"")
        await engine.containers.attach(container, stream(theirs.detach()))

    with ours, theirs:
        multiplexed = wants_multiplexed(request, tty=container.tty)
        connection = await hijack.take_over(request, multiplexed=multiplexed, before=attach)
        with socket.socket(fileno=connection.fd) as client:
            client.setblocking(False)
            if await _replay(past, connection.fd, first):
                with suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(ours, connection.pending)
                await hijack.pump(client, ours)
    return connection.response


async def _replay(past: AsyncIterator[bytes] | None, fd: int, first: bytes = b"") -> bool:
    """The log so far, written into the connection, what was read of it already first. Whether the client is still there."""
    if past is None:
        return True
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_sendall(sock, first)
            async for data in past:
                await asyncio.get_running_loop().sock_sendall(sock, data)
        except ConnectionError:
            return False
    return True


def _attach_websocket(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        container = engine.containers.check_attach(request.match_info["id"])
        keys = parse_detach_keys(request.query.get("detachKeys"))
        wants = _wants(request)
        past = _past(engine, container, wants, raw=True)
        response = web.WebSocketResponse()
        if not response.can_prepare(request):
            raise InvalidArgument("this endpoint speaks websocket: ask for it with Upgrade: websocket, or use /attach")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)

        async def attach() -> None:
            stream = AttachStream(
                fd=theirs.detach(),
                stdin=wants["stdin"] and bool(container.record.config.open_stdin),
                stdout=wants["stdout"],
                stderr=wants["stderr"],
                detach_keys=keys if container.tty else b"",
            )
            await engine.containers.attach(container, stream)

        waiting = container.live_task() is None and wants["stream"]
        with ours, theirs:
            first = await anext(past, b"") if past is not None else b""
            if waiting:
                # As above: before the client can have it started.
                await attach()
            await response.prepare(request)
            if past is not None:
                if first:
                    await response.send_bytes(first)
                async for data in past:
                    await response.send_bytes(data)
            if not wants["stream"]:
                await response.close()
                return response
            if not waiting:
                await attach()
            await hijack.pump_websocket(response, ours)
        return response

    return handle


def _instant(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    return parse_instant(text, time.time_ns()) if text not in ("", "0") else 0


def _tail(request: web.Request) -> int:
    text = request.query.get("tail", "all")
    return int(text) if text.isdigit() else -1


async def _told(pieces: AsyncIterator[bytes], *, framed: bool) -> AsyncIterator[bytes]:
    """The pieces; an error among them as Docker tells it, in a frame that is neither stdout nor stderr."""
    try:
        async with aclosing(pieces) as source:  # type: ignore[type-var]  # it is a generator
            async for piece in source:
                yield piece
    except BerthError as error:
        text = f"Error grabbing logs: {error.message}\n".encode()
        yield frame(_SYSTEM_ERROR, text) + text if framed else text


def _logs(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        container = engine.containers.get(request.match_info["id"])
        query = LogQuery(
            stdout=query_bool(request, "stdout"),
            stderr=query_bool(request, "stderr"),
            since=_instant(request, "since"),
            until=_instant(request, "until"),
            tail=_tail(request),
            timestamps=query_bool(request, "timestamps"),
            details=query_bool(request, "details"),
            follow=query_bool(request, "follow"),
        )
        pieces = _told(engine.containers.logs(container.id, query), framed=not container.tty)
        kind = hijack.MULTIPLEXED if wants_multiplexed(request, tty=container.tty) else hijack.RAW
        response = web.StreamResponse(headers={"Content-Type": kind})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"")
        await copy(request, pieces, response)
        return response

    return handle


def _stats(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        follow, one_shot = query_bool(request, "stream", True), query_bool(request, "one-shot")
        if follow and one_shot:
            raise InvalidArgument("cannot have stream=true and one-shot=true")
        container = engine.containers.get(request.match_info["id"])
        readings = engine.containers.stats(container.id, follow=follow, one_shot=one_shot)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        # It begins with the first reading: of an answer that breaks off the docker CLI waits for the rest for ever.
        encoded = (msgspec.json.encode(reading) + b"\n" async for reading in readings)
        await copy(request, encoded, response)
        return response

    return handle
