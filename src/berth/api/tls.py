"""TLS in front of the HTTP server.

    client ══TLS══ Front ──socketpair── the server's protocol, and after attach and exec a shim

asyncio's own TLS ends a connection when the client has ended its direction (close_notify), as `docker run -i` does at the end
of its input while it still waits for output. Here each direction ends by itself; and since the server has a plain socket, it
can hand that over as with any other client.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

log = logging.getLogger("berth.api")
_CHUNK = 65536
HANDSHAKE_SECONDS = 15.0


def server_context(*, certificate: str, key: str, ca: str | None) -> ssl.SSLContext:
    """A server's context; with `ca`, only for clients whose certificate that authority has signed. OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A key with a password would be asked for on the terminal.
    context.load_cert_chain(certificate, key, password=lambda: "")
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Front(asyncio.Protocol):
    """One connection. `serve(peer)` makes the protocol that gets the plain side."""

    def __init__(self, context: ssl.SSLContext, serve: Callable[[str], asyncio.Protocol]) -> None:
        self._serve = serve
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._transport: asyncio.Transport | None = None
        self._inner: _Inner | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's hello, for so long."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Encrypted bytes."""
        self._incoming.write(data)
        self._advance()

    def eof_received(self) -> bool:
        """Without a farewell before it: the client is gone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The plain side ends too."""
        if self._timer is not None:
            self._timer.cancel()
        if self._inner is not None:
            self._inner.transport.abort()

    def pause_writing(self) -> None:
        """A slow client holds the server, or the container's output, back."""
        if self._inner is not None:
            self._inner.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._inner is not None:
            self._inner.transport.resume_reading()

    def _advance(self) -> None:
        assert self._transport is not None
        try:
            if self._opening is None:
                self._tls.do_handshake()
                self._transport.pause_reading()
                self._opening = asyncio.create_task(self._open(), name="tls")
            elif self._inner is not None:
                self._decrypt(self._inner)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            log.debug("TLS of %s: %s", self._transport.get_extra_info("peername"), error)
            self.flush()
            self._transport.close()
            return
        self.flush()

    def _decrypt(self, inner: _Inner) -> None:
        # Ends by SSLWantReadError, or at the client's farewell.
        try:
            while data := self._tls.read(_CHUNK):
                inner.transport.write(data)
        except ssl.SSLZeroReturnError:
            pass
        if not inner.transport.is_closing() and inner.transport.can_write_eof():
            inner.transport.write_eof()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._transport is not None
        if self._timer is not None:
            self._timer.cancel()
        ours, theirs = socket.socketpair()
        await loop.connect_accepted_socket(lambda: self._serve(self._peer()), theirs)
        _, self._inner = await loop.connect_accepted_socket(lambda: _Inner(self), ours)
        if self._transport.is_closing():
            self._inner.transport.abort()
            return
        self._advance()
        self._transport.resume_reading()

    def _peer(self) -> str:
        """Its address, and the name in its certificate."""
        assert self._transport is not None
        address = (self._transport.get_extra_info("peername") or ("?",))[0]
        subject: Any = (self._tls.getpeercert() or {}).get("subject", ())
        # ((("commonName", "x"),), ...)
        names = [value for part in subject for key, value in part if key == "commonName"]
        return f"from {address}" + "".join(f", certificate {name}" for name in names)

    def encrypt(self, data: bytes) -> None:
        """What the server says."""
        self._tls.write(data)
        self.flush()

    def flush(self) -> None:
        """Send what TLS has to send."""
        if self._transport is not None and not self._transport.is_closing() and (data := self._outgoing.read()):
            self._transport.write(data)

    def end(self) -> None:
        """The server, or the container, has said all: farewell, and close when it has been sent."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            # The client's farewell is not waited for.
            pass
        self.flush()
        if self._transport is not None:
            self._transport.close()


class _Inner(asyncio.Protocol):
    """Our end of the socketpair."""

    transport: asyncio.Transport

    def __init__(self, front: Front) -> None:
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._front.encrypt(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.end()

    def pause_writing(self) -> None:
        transport = self._front._transport
        if transport is not None:
            transport.pause_reading()

    def resume_writing(self) -> None:
        transport = self._front._transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()
