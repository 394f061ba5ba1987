"""TLS to an engine, as a plain socket: a thread stands between it and the engine.

Python's TLS sockets cannot end one direction and go on in the other, which is what `run -i` and `exec -i` do at the end of their
input. Here the end of what we write becomes TLS's farewell, and reading goes on.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading

from berth.client.address import Tls
from berth.errors import InvalidArgument

_CHUNK = 65536


def context_of(tls: Tls) -> ssl.SSLContext:
    """InvalidArgument when a file is missing or damaged."""
    try:
        context = ssl.create_default_context(cafile=tls.ca if tls.verify else None)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if os.path.exists(tls.certificate):
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        files = f"{tls.ca}, {tls.certificate} and {tls.key}"
        hint = "set DOCKER_CERT_PATH, or --tlscacert, --tlscert and --tlskey"
        raise InvalidArgument(f"TLS needs the files {files}, and one cannot be used ({error}): {hint}") from error
    return context


def secured(sock: socket.socket, tls: Tls, host: str) -> socket.socket:
    """A plain socket for what goes through TLS on `sock`, which is taken over. OSError when the other side is not trusted."""
    try:
        tunnel = _Tunnel(sock, context_of(tls), host)
        tunnel.greet()
    except BaseException:
        sock.close()
        raise
    return tunnel.start()


class _Tunnel:
    def __init__(self, outer: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._ended = False

    def greet(self) -> None:
        """The handshake; blocks."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._take()
            else:
                self._flush()
                return

    def start(self) -> socket.socket:
        """The caller's end."""
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._run, args=(theirs,), name="tls", daemon=True).start()
        return ours

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._outer.sendall(data)

    def _take(self) -> None:
        data = self._outer.recv(_CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _run(self, inner: socket.socket) -> None:
        with self._outer, inner:
            writing = True
            try:
                # A certificate of ours that the engine refuses shows with the first byte that it sends, so the end is told then.
                while not self._ended:
                    ready, _, _ = select.select([self._outer, inner] if writing else [self._outer], [], [])
                    if inner in ready:
                        writing = self._send(inner)
                    if self._outer in ready:
                        self._take()
                        self._receive(inner)
            except (OSError, ssl.SSLError):
                # Both ends see it as the end of the connection.
                return

    def _send(self, inner: socket.socket) -> bool:
        """Whether there may be more."""
        data = inner.recv(_CHUNK)
        if data:
            self._tls.write(data)
        else:
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass
        self._flush()
        return bool(data)

    def _receive(self, inner: socket.socket) -> None:
        try:
            while data := self._tls.read(_CHUNK):
                inner.sendall(data)
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLZeroReturnError:
            pass
        self._ended = True
