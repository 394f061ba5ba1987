"""Routes of a container's streams: attach (raw and websocket), logs, stats."""

from __future__ import annotations

import asyncio
import os
import socket
import time
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
from berth.errors import InvalidArgument
from berth.model.instant import parse_instant

if TYPE_CHECKING:
    from berth.engine.app import Engine

MULTIPLEXED_SINCE = (1, 42)


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


def _attach(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        container = engine.containers.check_attach(request.match_info["id"])
        keys = parse_detach_keys(request.query.get("detachKeys"))
        wants = {name: query_bool(request, name) for name in ("logs", "stream", "stdin", "stdout", "stderr")}
        if not wants["logs"] and not wants["stream"]:
            raise InvalidArgument("Either the stream or the logs parameter must be given")
        connection = await hijack.take_over(request, multiplexed=wants_multiplexed(request, tty=container.tty))
        if wants["logs"]:
            await _replay(engine, container, connection.fd, wants)
        if not wants["stream"]:
            os.close(connection.fd)
            return connection.response
        stream = AttachStream(
            fd=connection.fd,
            stdin=wants["stdin"] and bool(container.record.config.open_stdin),
            stdout=wants["stdout"],
            stderr=wants["stderr"],
            framed=not container.tty,
            pending=connection.pending,
            detach_keys=keys if container.tty and wants["stdin"] else b"",
        )
        await engine.containers.attach(container, stream)
        return connection.response

    return handle


async def _replay(engine: Engine, container: Container, fd: int, wants: dict[str, bool]) -> None:
    """The log so far, written into the connection."""
    query = LogQuery(stdout=wants["stdout"], stderr=wants["stderr"])
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(False)
        async for data in engine.containers.logs(container.id, query):
            await asyncio.get_running_loop().sock_sendall(sock, data)


def _attach_websocket(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        container = engine.containers.check_attach(request.match_info["id"])
        keys = parse_detach_keys(request.query.get("detachKeys"))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            response = web.WebSocketResponse()
            await response.prepare(request)
            stream = AttachStream(
                fd=theirs.detach(),
                stdin=query_bool(request, "stdin") and bool(container.record.config.open_stdin),
                stdout=query_bool(request, "stdout"),
                stderr=query_bool(request, "stderr"),
                detach_keys=keys if container.tty else b"",
            )
            await engine.containers.attach(container, stream)
            await hijack.pump_websocket(response, ours)
        return response

    return handle


def _instant(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    return parse_instant(text, time.time_ns()) if text not in ("", "0") else 0


def _tail(request: web.Request) -> int:
    text = request.query.get("tail", "all")
    return int(text) if text.isdigit() else -1


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
        pieces = engine.containers.logs(container.id, query)
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
        follow = query_bool(request, "stream", True)
        container = engine.containers.get(request.match_info["id"])
        readings = engine.containers.stats(container.id, follow=follow, one_shot=query_bool(request, "one-shot"))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        encoded = (msgspec.json.encode(reading) + b"\n" async for reading in readings)
        await copy(request, encoded, response)
        return response

    return handle
