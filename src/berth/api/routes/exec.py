"""Routes of execs."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import web

from berth.api import hijack
from berth.api.route import Handler, Route, json_response, query_size, read_body
from berth.api.routes.container_streams import wants_multiplexed
from berth.contract.runtime import AttachStream
from berth.engine.containers.attaching import parse_detach_keys
from berth.engine.containers.execution import ExecBody, Execution
from berth.errors import BerthError
from berth.wire.container import IDResponse

if TYPE_CHECKING:
    from berth.engine.app import Engine


def routes(engine: Engine) -> list[Route]:
    """Create, start, resize, inspect; end, which Docker does not have."""
    return [
        Route("POST", "/containers/{id}/exec", _create(engine)),
        Route("POST", "/exec/{id}/start", _start(engine)),
        Route("POST", "/exec/{id}/resize", _resize(engine)),
        Route("DELETE", "/exec/{id}", _end(engine)),
        Route("GET", "/exec/{id}/json", _inspect(engine)),
    ]


def _create(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        identifier = engine.execs.create(request.match_info["id"], await read_body(request, ExecBody))
        return json_response(IDResponse(id=identifier), 201)

    return handle


def _start(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = await read_body(request, ExecBody)
        height, width = engine.execs.terminal_size(request.match_info["id"], body)
        execution = engine.execs.claim(request.match_info["id"])
        if body.detach:
            await engine.execs.start(execution, [], (height, width))
            return web.Response()
        # Whether the stream is framed says the start, not the create: a client may leave its terminal out here.
        raw = bool(body.tty)
        connection = await hijack.take_over(request, multiplexed=wants_multiplexed(request, tty=raw))
        await _run(engine, execution, connection, (height, width), raw=raw)
        return connection.response

    return handle


async def _run(engine: Engine, execution: Execution, connection: hijack.Connection, size: tuple[int, int], *, raw: bool) -> None:
    """The head of the answer is out: what goes wrong now is written into the stream, where the client shows it."""
    wanted = execution.body
    stream = AttachStream(
        fd=connection.fd,
        stdin=bool(wanted.attach_stdin),
        stdout=bool(wanted.attach_stdout),
        stderr=bool(wanted.attach_stderr),
        framed=not raw,
        pending=connection.pending,
        detach_keys=parse_detach_keys(wanted.detach_keys) if execution.tty and wanted.attach_stdin else b"",
    )
    with socket.socket(fileno=os.dup(connection.fd)) as spare:
        try:
            await engine.execs.start(execution, [stream], size)
        except BerthError as error:
            text = (error.message + "\r\n").encode()
            spare.setblocking(False)
            head = b"" if raw else struct.pack(">BxxxL", 1, len(text))
            await asyncio.get_running_loop().sock_sendall(spare, head + text)


def _resize(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.execs.resize(request.match_info["id"], *query_size(request))
        return web.Response()

    return handle


def _end(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await engine.execs.end(request.match_info["id"])
        return web.Response(status=204)

    return handle


def _inspect(engine: Engine) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return json_response(engine.execs.inspect(request.match_info["id"]))

    return handle
