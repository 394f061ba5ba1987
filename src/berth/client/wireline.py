"""One HTTP/1.1 connection to an engine, on a socket that may later be hijacked.

Own code and not `http.client`: that one imports the mail parser, which costs the command line more than a whole
request, and hides the bytes that it has read too many, which a hijacked stream needs.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping

from berth.errors import Unavailable

_CHUNK = 65536
_MAX_HEAD = 1 << 20

Body = bytes | Iterable[bytes] | None


class Wire:
    """A socket with what has been read from it and not been used yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.pending = bytearray()

    def recv(self, size: int = _CHUNK) -> bytes:
        """Up to `size` bytes, at once when some are pending; empty at the end of the stream."""
        if self.pending:
            data = bytes(self.pending[:size])
            del self.pending[:size]
            return data
        return self.socket.recv(size)

    def fill(self) -> bool:
        """Read more into `pending`; False at the end of the stream."""
        data = self.socket.recv(_CHUNK)
        self.pending += data
        return bool(data)

    def line(self) -> bytes:
        """One line without its end. Raises Unavailable when the stream ends inside it."""
        start = 0
        while True:
            end = self.pending.find(b"\n", start)
            if end >= 0:
                line = bytes(self.pending[:end])
                del self.pending[: end + 1]
                return line.rstrip(b"\r")
            start = len(self.pending)
            if start > _MAX_HEAD or not self.fill():
                raise Unavailable("the engine closed the connection in the middle of an answer")

    def exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises Unavailable when the stream ends before."""
        while len(self.pending) < size:
            if not self.fill():
                raise Unavailable("the engine closed the connection in the middle of an answer")
        data = bytes(self.pending[:size])
        del self.pending[:size]
        return data

    def close(self) -> None:
        """Close the socket. May be called twice."""
        self.socket.close()


class Response:
    """An answer: status, headers (lower case) and a body that is read once, by `read` or by iterating."""

    def __init__(self, wire: Wire, method: str, release: Callable[[Wire], None]) -> None:
        self.wire = wire
        self._release = release
        self._done = False
        status = wire.line()
        parts = status.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise Unavailable(f"the engine's answer is not HTTP: {status[:80]!r}")
        self.status = int(parts[1])
        self.headers = _read_headers(wire)
        self.keep = parts[0] == b"HTTP/1.1" and self.headers.get("connection", "").lower() != "close"
        self._interrupted = False
        self.bodiless = method == "HEAD" or self.status in (101, 204, 304)
        if self.bodiless and self.status != 101:
            self._finish()

    def __iter__(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive. The connection is given back at the end."""
        if self._done:
            return
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                yield from self._chunked()
            elif "content-length" in self.headers:
                yield from self._counted(int(self.headers["content-length"]))
            else:
                self.keep = False
                while data := self.wire.recv():
                    yield data
        except (OSError, ValueError, Unavailable) as error:
            if self._interrupted:
                return
            if isinstance(error, ValueError):
                raise Unavailable(f"the engine's answer is not HTTP: {error}") from error
            text = error.message if isinstance(error, Unavailable) else (error.strerror or str(error)).lower()
            raise Unavailable(f"the connection to the engine broke: {text}") from error
        else:
            self._finish()
        finally:
            self.close()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self)

    def close(self) -> None:
        """Give the connection up, whatever is left of the body. May be called twice."""
        if not self._done:
            self._done = True
            self.wire.close()

    def interrupt(self) -> None:
        """End the stream from another thread: whoever reads it sees its end, and no error."""
        self._interrupted = True
        try:
            self.wire.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def detach(self) -> Wire:
        """The bare stream, for a hijacked connection."""
        self._done = True
        return self.wire

    def _counted(self, left: int) -> Iterator[bytes]:
        while left:
            data = self.wire.recv(min(left, _CHUNK))
            if not data:
                raise Unavailable("the engine closed the connection in the middle of an answer")
            left -= len(data)
            yield data

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size = int(self.wire.line().split(b";")[0] or b"0", 16)
            if not size:
                while self.wire.line():
                    pass
                return
            yield self.wire.exactly(size)
            self.wire.exactly(2)

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            if self.keep:
                self._release(self.wire)
            else:
                self.wire.close()


def _read_headers(wire: Wire) -> dict[str, str]:
    headers: dict[str, str] = {}
    while line := wire.line():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def send_request(wire: Wire, method: str, target: str, headers: Mapping[str, str], body: Body) -> None:
    """Write a request. An iterable body is sent in chunks.

    A server that refuses the request early closes its side while we still write: that is not an error here, its
    answer is there to be read.
    """
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", "User-Agent: berth"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if isinstance(body, bytes):
        lines.append(f"Content-Length: {len(body)}")
    elif body is not None:
        lines.append("Transfer-Encoding: chunked")
    elif method in ("POST", "PUT"):
        lines.append("Content-Length: 0")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    if body is None or isinstance(body, bytes):
        wire.socket.sendall(head + (body or b""))
        return
    wire.socket.sendall(head)
    try:
        for piece in body:
            if piece:
                wire.socket.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        wire.socket.sendall(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        return
