"""Connections to an engine as clients open them, byte by byte: requests that become streams, and websockets."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Stream:
    """A connection whose request has been sent. `status` and `headers` (lower case) are those of the answer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._early = b""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            assert piece, f"the connection ended in the head: {data!r}"
            data += piece
        head, self._early = data.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def receive(self) -> bytes:
        """What comes next; nothing at the end."""
        early, self._early = self._early, b""
        return early or self.sock.recv(65536)

    def exactly(self, count: int) -> bytes:
        """So many bytes; fewer at the end."""
        data = b""
        while len(data) < count and (piece := self.receive()):
            data += piece
        data, self._early = data[:count], data[count:] + self._early
        return data

    def until(self, text: bytes) -> bytes:
        """Everything up to this text, which has to come."""
        data = b""
        while text not in data:
            piece = self.receive()
            assert piece, f"the connection ended before {text!r}: {data!r}"
            data += piece
        return data

    def rest(self) -> bytes:
        """Everything, until the engine ends the connection."""
        data = b""
        while piece := self.receive():
            data += piece
        return data

    def frames(self) -> list[tuple[int, bytes]]:
        """The frames of a multiplexed stream until its end; neighbours of the same output are put together."""
        found: list[tuple[int, bytes]] = []
        while head := self.exactly(8):
            number, length = struct.unpack(">BxxxL", head)
            data = self.exactly(length)
            if found and found[-1][0] == number:
                data = found.pop()[1] + data
            found.append((number, data))
        return found

    def body(self) -> Any:
        """The JSON of an answer that is no stream."""
        return json.loads(self.exactly(int(self.headers["content-length"])))

    def send(self, data: bytes) -> None:
        """Standard input."""
        self.sock.sendall(data)

    def end(self) -> None:
        """Half-close: no more input."""
        self.sock.shutdown(socket.SHUT_WR)


@contextmanager
def opened(
    path_of_socket: str, path: str, *, head: tuple[str, ...] = UPGRADE, body: Any = None, method: str = "POST"
) -> Iterator[Stream]:
    """A request on a connection of its own."""
    data = b"" if body is None else json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path_of_socket)
        lines = [f"{method} {path} HTTP/1.1", "Host: engine", *head]
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
        yield Stream(sock)


@contextmanager
def websocket(path_of_socket: str, path: str) -> Iterator[Stream]:
    """A websocket, after its handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    head = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
    with opened(path_of_socket, path, head=(*head, "Origin: http://engine"), method="GET") as stream:
        yield stream


def put_frame(stream: Stream, kind: int, data: bytes) -> None:
    """Send one whole frame of a websocket, masked as a client has to."""
    mask = os.urandom(4)
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    stream.send(bytes([0x80 | kind]) + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))


def get_frame(stream: Stream) -> tuple[int, bytes]:
    """The next frame's kind and content; (0, b"") at the end of the connection."""
    head = stream.exactly(2)
    if len(head) < 2:
        return 0, b""
    length = head[1] & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", stream.exactly(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", stream.exactly(8))
    return head[0] & 0x0F, stream.exactly(length)
