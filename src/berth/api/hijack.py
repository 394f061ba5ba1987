"""Taking a connection over from the HTTP server: attach and exec turn it into a raw stream in both directions.

    request ──> headers written by us (101 with Upgrade, else 200) ──> the socket's descriptor goes to the shim

On a plain socket (unix, TCP) the descriptor is duplicated, together with the bytes that the server had already read, and
the server's transport is closed: closing does not shut the connection down for the duplicate. From then on the engine is
out of the data path. With TLS, or for a websocket, the shim gets one end of a socketpair and the engine pumps.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_CHUNK = 65536
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,12})")


class _Tail:
    """Collects what the server reads after the request: bytes that belong to the stream."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.arrived = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """More bytes of the stream."""
        self.data += data
        self.arrived.set()
        return False, b""

    def feed_eof(self) -> None:
        """The client has closed its side: a duplicate sees that by itself, a pump is told."""
        self.arrived.set()


class Protocol(RequestHandler):
    """The server's protocol, which keeps the bytes behind an upgrade request away from the HTTP parser: it would drop those
    that came in the same packet, and take later ones for a request."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
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
    """Listens with Protocol."""

    async def start(self) -> None:
        """Like SockSite.start."""
        await super(web.SockSite, self).start()
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None
        self._server = await loop.create_server(
            lambda: Protocol(server, loop=loop, **server._kwargs),
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
        )


class Hijacked(web.StreamResponse):
    """Tells the server that the answer has been given: nothing more is written by it."""

    def __init__(self, pump: asyncio.Task[None] | None = None) -> None:
        super().__init__()
        self.force_close()
        self._pump = pump

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to write."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to write. The server closes the connection after this: a pump has to be done by then."""
        if self._pump is not None:
            await self._pump


class Connection:
    """A connection that was taken over. `fd` is the caller's; `pending` was read from the client already."""

    def __init__(self, fd: int, pending: bytes, pump: asyncio.Task[None] | None = None) -> None:
        self.fd = fd
        self.pending = pending
        self.response = Hijacked(pump)


def headers(*, upgrade: bool, multiplexed: bool) -> bytes:
    """The answer's head."""
    kind = MULTIPLEXED if multiplexed else RAW
    if upgrade:
        return f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode()


async def take_over(request: web.Request, *, multiplexed: bool) -> Connection:
    """Answer the request and take its connection away from the server. Return `Connection.response` from the handler.

    `multiplexed` names the content type (API 1.42 and newer tell framed streams from raw ones).
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
    if transport.get_extra_info("ssl_object") is not None:
        return _pumped(transport, tail, head)
    transport.pause_reading()
    fd = os.dup(transport.get_extra_info("socket").fileno())
    try:
        await _send(fd, head)
    except BaseException:
        os.close(fd)
        raise
    # Closing the transport closes the server's descriptor only; a shutdown would reach the duplicate, so none is made.
    transport.close()
    return Connection(fd, bytes(tail.data))


async def _send(fd: int, data: bytes) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(sock, data)


def _pumped(transport: asyncio.Transport, tail: _Tail, head: bytes) -> Connection:
    """For TLS: the engine copies between the transport and a socketpair."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport.write(head)
    pump = asyncio.create_task(_Pump(transport, ours, tail).run(), name="pump")
    return Connection(theirs.detach(), b"", pump)


class _Pump:
    """Both directions of one connection, with the back-pressure of each."""

    def __init__(self, transport: asyncio.Transport, sock: socket.socket, tail: _Tail) -> None:
        self._transport = transport
        self._sock = sock
        self._tail = tail

    async def run(self) -> None:
        """Until the container's side has ended, or the client has gone."""
        inwards = asyncio.create_task(self._in())
        try:
            await self._out()
        finally:
            inwards.cancel()
            self._sock.close()

    async def _out(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._sock, _CHUNK):
                self._transport.write(data)
                await self._drained()
        except OSError:
            return

    async def _drained(self) -> None:
        """A slow client holds the container's output back. The server's own flow control waits for its own writers only."""
        for _ in range(1 << 30):
            if self._transport.get_write_buffer_size() <= 4 * _CHUNK or self._transport.is_closing():
                return
            await asyncio.sleep(0.005)

    async def _in(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._tail.arrived.wait()
            self._tail.arrived.clear()
            data, self._tail.data = bytes(self._tail.data), bytearray()
            if not data:
                self._sock.shutdown(socket.SHUT_WR)
                return
            self._transport.pause_reading()
            await loop.sock_sendall(self._sock, data)
            self._transport.resume_reading()


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
