"""Streams: hijacked connections, Docker's frames (8 bytes of header: stream, three zeros, length), JSON lines."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from berth.client.wireline import Wire
from berth.errors import BerthError, DataLoss

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
Frame = tuple[int, bytes]

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"


class ProgressFailed(BerthError):
    """The engine reported an error as the last line of a progress stream. `code` is a build step's exit code, or 0."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def demultiplex(pieces: Iterable[bytes]) -> Iterator[Frame]:
    """Frames as (stream, payload) from pieces cut anywhere. A frame that is cut off by the end is given as far as it came."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= 8:
            stream, size = buffer[0], int.from_bytes(buffer[4:8], "big")
            if stream > SYSTEM_ERROR or buffer[1] or buffer[2] or buffer[3]:
                raise DataLoss(f"unrecognized stream: {stream}; the engine sent a raw stream where frames were expected")
            if len(buffer) < 8 + size:
                break
            payload = bytes(buffer[8 : 8 + size])
            del buffer[: 8 + size]
            yield stream, payload
    if len(buffer) > 8:
        yield buffer[0], bytes(buffer[8:])


class Hijacked:
    """A two-way stream to a container's process. With `tty` the bytes are raw, without they come in frames."""

    def __init__(self, wire: Wire, *, tty: bool) -> None:
        self._wire = wire
        self.tty = tty

    def fileno(self) -> int:
        """For select. Look at `pending` first: bytes that were read already do not make the descriptor readable."""
        return self._wire.socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether bytes are there that select cannot see."""
        return bool(self._wire.pending)

    def send(self, data: bytes) -> None:
        """Send to the process's standard input."""
        self._wire.socket.sendall(data)

    def half_close(self) -> None:
        """End of standard input; output goes on."""
        try:
            self._wire.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def recv(self, size: int = 65536) -> bytes:
        """Raw bytes as they come, empty at the end."""
        try:
            return self._wire.recv(size)
        except ConnectionResetError:
            return b""

    def frames(self) -> Iterator[Frame]:
        """Output as (stream, payload) until the end; with a tty everything is stream 1."""
        pieces = iter(self.recv, b"")
        if self.tty:
            return ((STDOUT, piece) for piece in pieces)
        return demultiplex(pieces)

    def close(self) -> None:
        """Close the connection. May be called twice."""
        self._wire.close()

    def __enter__(self) -> Hijacked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def json_lines(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """JSON values, one after another, separated by line ends or by nothing visible but their own end."""
    buffer = b""
    for piece in pieces:
        buffer += piece
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if line.strip():
                yield _message(line)
    if buffer.strip():
        yield _message(buffer)


def _message(line: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except msgspec.MsgspecError as error:
        raise DataLoss(f"the engine sent something that is not JSON: {line[:80]!r}: it may have ended in the middle") from error
    if not isinstance(found, dict):
        raise DataLoss(f"the engine sent {line[:80]!r} where a message was expected")
    return found


def progress(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The messages of a pull, push, build or load. Raises ProgressFailed at the error line."""
    for message in json_lines(pieces):
        if message.get("error") or message.get("errorDetail"):
            detail = message.get("errorDetail") or {}
            raise ProgressFailed(str(detail.get("message") or message.get("error")), int(detail.get("code") or 0))
        yield message
