"""Taking a connection over from the HTTP server: attach and exec turn it into a raw stream in both directions.

    request ──> headers written by us (101 with Upgrade, else 200) ──> the socket's descriptor goes to the shim

The descriptor is duplicated, together with the bytes that the server had already read, and the server's transport is closed:
closing does not shut the connection down for the duplicate. From then on the engine is out of the data path. With TLS the
descriptor is one end of a socketpair, and `tls` stays between the other end and the client. For a websocket the engine pumps.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import select
import socket
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from berth.api.tls import Front

log = logging.getLogger("berth.api")
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_CHUNK = 65536
# Pauses between two looks at whether the head was read double up to this, in seconds; 25 ms in all.
_HEAD_PAUSE = 0.02
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,12})")


class _Tail:
    """Collects what the server reads after the request: bytes that belong to the stream."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """More bytes of the stream."""
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """The client has closed its side: the duplicate sees that by itself."""


class Protocol(RequestHandler):
    """The server's protocol, which keeps the bytes behind an upgrade request away from the HTTP parser: it would drop those
    that came in the same packet, and take later ones for a request."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, peer: str = "", **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        # Who is at the other end of TLS, in words; empty where the socket itself says it.
        self.peer = peer
        self._left: int | None = None
        self._early = bytearray()
        self._tail: _Tail | None = None
        self.gone = asyncio.Event()
        # Whether an answer is under way that may be given up (see presence): the engine's end does not wait for it.
        self.expendable = False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has closed the connection, or it was taken over."""
        self.gone.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Up to the end of an upgrade request to the parser, the rest to its taker."""
        if self._left is None:
            self._left = upgrade_length(data)
        if self._left is None:
            super().data_received(data)
            return
        request, rest = data[: self._left], data[self._left :]
        self._left -= len(request)
        if request:
            super().data_received(request)
        if rest and self._tail is not None:
            self._tail.feed_data(rest)
        elif rest:
            self._early += rest
            if len(self._early) > _CHUNK and self.transport is not None:
                self.transport.pause_reading()

    def hand_over(self, tail: _Tail) -> None:
        """The request is being taken over: what came and what comes goes to `tail`."""
        self._tail = tail
        if self._early:
            tail.feed_data(bytes(self._early))
            self._early.clear()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What is no HTTP is its sender's mistake, and has been answered with 400: one line, not a traceback."""
        error = kw.get("exc_info")
        if isinstance(error, HttpProcessingError):
            log.info("a request was refused: %s", " ".join(error.message.split())[:200])
        else:
            super().log_exception(*args, **kw)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """An upgrade that was refused: the next bytes are a request again."""
        if not isinstance(resp, Hijacked) and self._left is not None:
            self._left = None
            self._early.clear()
        answer: tuple[web.StreamResponse, bool] = await super().finish_response(request, resp, start_time)
        return answer


def upgrade_length(data: bytes) -> int | None:
    """The length of the request that the data begin with, if it asks for an upgrade to `tcp`; None for any other."""
    if not data.startswith(b"POST "):
        return None
    end = data.find(b"\r\n\r\n")
    head = data[:end].lower() if 0 < end < _CHUNK else b""
    if b"\r\nupgrade: tcp" not in head or b"\r\ntransfer-encoding:" in head:
        return None
    length = _LENGTH.search(head)
    return end + 4 + (int(length[1]) if length else 0)


class Site(web.SockSite):
    """Listens with Protocol, behind TLS when there is a context."""

    async def start(self) -> None:
        """Like SockSite.start."""
        await super(web.SockSite, self).start()
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None

        def protocol(peer: str = "") -> Protocol:
            return Protocol(server, loop=loop, peer=peer, **server._kwargs)

        context = self._ssl_context
        front = protocol if context is None else lambda: Front(context, protocol)
        self._server = await loop.create_server(front, sock=self._sock, backlog=self._backlog)


class Hijacked(web.StreamResponse):
    """Tells the server that the answer has been given: nothing more is written by it."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to write."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to write."""


class Connection:
    """A connection that was taken over. `fd` is the caller's; `pending` was read from the client already."""

    def __init__(self, fd: int, pending: bytes) -> None:
        self.fd = fd
        self.pending = pending
        self.response = Hijacked()


def headers(*, upgrade: bool, multiplexed: bool) -> bytes:
    """The answer's head."""
    kind = MULTIPLEXED if multiplexed else RAW
    if upgrade:
        return f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode()


async def take_over(
    request: web.Request, *, multiplexed: bool, before: Callable[[], Awaitable[None]] | None = None
) -> Connection:
    """Answer the request and take its connection away from the server. Return `Connection.response` from the handler.

    `multiplexed` names the content type (API 1.42 and newer tell framed streams from raw ones). `before` is done before the
    client has the answer, when the end of what it sends no longer ends the handler.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    await request.read()
    head = headers(upgrade="upgrade" in request.headers.get("Connection", "").lower(), multiplexed=multiplexed)
    tail = _Tail()
    request.protocol.set_parser(tail)  # type: ignore[arg-type]
    if isinstance(request.protocol, Protocol):
        request.protocol.hand_over(tail)
    transport.pause_reading()
    fd = os.dup(transport.get_extra_info("socket").fileno())
    try:
        if before is not None:
            await before()
        await _send(fd, head)
    except BaseException:
        os.close(fd)
        raise
    # Closing the transport closes the server's descriptor only; a shutdown would reach the duplicate, so none is made.
    transport.close()
    return Connection(fd, bytes(tail.data))


async def head_read(fd: int) -> None:
    """Until the client has taken the answer's head out of its socket, or a moment has passed.

    docker-py reads the head into a buffer and the stream past it: output that came along with the head would be lost to it.
    """
    pause = 0.0
    while pause < _HEAD_PAUSE:
        waiting = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4)
        if waiting == b"\0" * 4:
            return
        await asyncio.sleep(pause)
        pause = pause * 2 or 0.0002


async def _send(fd: int, data: bytes) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(sock, data)


async def pump(client: socket.socket, sock: socket.socket) -> None:
    """Between a client and our end of a socketpair, until what comes from there ends or the client hangs up."""
    inwards = asyncio.create_task(_inwards(client, sock))
    try:
        await _copy(sock, client)
    finally:
        inwards.cancel()
        await asyncio.gather(inwards, return_exceptions=True)


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while data := await loop.sock_recv(source, _CHUNK):
            await loop.sock_sendall(sink, data)


async def _inwards(client: socket.socket, sock: socket.socket) -> None:
    """A client that hangs up ends both directions, one that has no more to send only this one."""
    await _copy(client, sock)
    poll = select.poll()
    poll.register(client, select.POLLHUP | select.POLLERR)
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR if poll.poll(0) else socket.SHUT_WR)


async def pump_websocket(socket_: web.WebSocketResponse, sock: socket.socket) -> None:
    """Between a websocket and our end of a socketpair, until either ends."""
    loop = asyncio.get_running_loop()

    async def outwards() -> None:
        while data := await loop.sock_recv(sock, _CHUNK):
            await socket_.send_bytes(data)
        await socket_.close()

    async def inwards() -> None:
        async for message in socket_:
            if message.type in (web.WSMsgType.TEXT, web.WSMsgType.BINARY):
                data = message.data.encode() if isinstance(message.data, str) else message.data
                await loop.sock_sendall(sock, data)

    tasks = [asyncio.create_task(outwards()), asyncio.create_task(inwards())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
