"""Requests whose length can be read in two ways: SECURITY rows 44 and 45.

There are no authorization plugins that could be fooled, but a proxy in front of the socket may be one: what is ambiguous is
refused as a whole, and nothing that follows on the same connection is taken for a request of its own.
"""

from __future__ import annotations

import json
import re
import socket

import pytest

from support.engine import EngineProcess

NAME = "smuggled"


def exchange(engine: EngineProcess, data: bytes) -> bytes:
    """Everything the engine answers to these bytes, until it closes the connection."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(engine.socket)
        answer = b""
        try:
            sock.sendall(data)
            while piece := sock.recv(1 << 16):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            # It has said no, and does not read the rest.
            pass
        return answer


def give_up(engine: EngineProcess, data: bytes) -> None:
    """Send this, and go."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(engine.socket)
        sock.sendall(data)


def create(*headers: str, body: bytes, line: str = "POST /volumes/create HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: engine", "Content-Type: application/json", *headers, "", ""]).encode() + body


BODY = json.dumps({"Name": NAME}).encode()
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
SECOND = create(LENGTH, body=BODY)

AMBIGUOUS = {
    "two lengths": create(LENGTH, "Content-Length: 0", body=BODY),
    "the same length twice": create(LENGTH, LENGTH, body=BODY),
    "lengths in one line": create(f"{LENGTH}, {len(BODY)}", body=BODY),
    "length and chunks": create("Content-Length: 0", "Transfer-Encoding: chunked", body=CHUNKED),
    "chunks and length": create("Transfer-Encoding: chunked", LENGTH, body=CHUNKED),
    "a signed length": create(f"Content-Length: +{len(BODY)}", body=BODY),
    "a negative length": create("Content-Length: -1", body=BODY),
    "a length in hex": create(f"Content-Length: {len(BODY):#x}", body=BODY),
    "a length with an underscore": create("Content-Length: 2_0", body=BODY),
    "a length that is none": create("Content-Length: ", body=BODY),
    "an unknown coding": create("Transfer-Encoding: xchunked", body=CHUNKED),
    "chunked, but not last": create("Transfer-Encoding: chunked, identity", body=CHUNKED),
    "chunked twice": create("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED),
    "a space before the colon": create(f"Content-Length : {len(BODY)}", body=BODY),
    "a folded header": create("X-A: b\r\n Content-Length: 0", LENGTH, body=BODY),
    "a bare line feed": create("X-A: b\nTransfer-Encoding: chunked", LENGTH, body=CHUNKED),
    "a size that is no number": create("Transfer-Encoding: chunked", body=b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "a negative chunk": create("Transfer-Encoding: chunked", body=b"-1\r\n%s\r\n0\r\n\r\n" % BODY),
    "a chunk that is longer": create("Transfer-Encoding: chunked", body=b"1\r\n%s\r\n0\r\n\r\n" % BODY),
    "a NUL in a header": create("X-A: \0", LENGTH, body=BODY),
    "no method": create(LENGTH, body=BODY, line="/volumes/create HTTP/1.1"),
    "an old version": create(LENGTH, body=BODY, line="POST /volumes/create HTTP/9.9"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_row_44_requests_of_two_lengths_are_refused(engine: EngineProcess, name: str) -> None:
    answer = exchange(engine, AMBIGUOUS[name] + SECOND)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer
    assert len(re.findall(rb"HTTP/1\.[01] \d\d\d ", answer)) == 1, "what follows is no request any more"
    assert NAME not in engine.ok("volume", "ls", "-q").split()


@pytest.mark.parametrize("request_bytes", [create(LENGTH, body=BODY), create("Transfer-Encoding: chunked", body=CHUNKED)])
def test_row_44_requests_of_one_length_are_served(engine: EngineProcess, request_bytes: bytes) -> None:
    answer = exchange(engine, request_bytes + b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 201") and answer.count(b"HTTP/1.1 ") == 2, answer
    engine.ok("volume", "rm", NAME)


def test_row_45_a_body_that_is_too_large_is_refused_whole(engine: EngineProcess) -> None:
    """Never cut off and then acted on."""
    body = b'{"Name": "%s", "Labels": {"a": "' % NAME.encode() + b"x" * (64 << 20) + b'"}}'
    answer = exchange(engine, create(f"Content-Length: {len(body)}", "Connection: close", body=body))
    assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400")), answer[:300]
    assert NAME not in engine.ok("volume", "ls", "-q").split()


def test_row_45_a_body_that_stops_early_is_not_acted_on(engine: EngineProcess) -> None:
    give_up(engine, create(f"Content-Length: {len(BODY) + 1}", body=BODY))
    give_up(engine, create("Transfer-Encoding: chunked", body=CHUNKED[:-5]))
    assert NAME not in engine.ok("volume", "ls", "-q").split()
