"""Requests against an engine that plays a script on a unix socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from berth.client.address import Address, parse_host
from berth.client.engine import Engine, EngineFailed, encode_query
from berth.errors import Conflict, InvalidArgument, NotFound, NotImplementedKind, Unavailable

Connections = list[list[bytes]]


@contextmanager
def scripted(path: Path, connections: Connections) -> Iterator[tuple[Engine, list[bytes]]]:
    """Each connection answers its requests with the given bytes, then closes. Requests are kept."""
    seen: list[bytes] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        for answers in connections:
            connection, _ = server.accept()
            with connection, suppress(ConnectionError):
                for answer in answers:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        piece = connection.recv(65536)
                        if not piece:
                            break
                        request += piece
                    seen.append(request)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with Engine(Address(path=str(path)), version="1.41") as engine:
            yield engine, seen
    finally:
        server.close()
        thread.join(5)


def _answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_connection_is_kept_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    ok = _answer("200 OK", b"[]")
    with scripted(tmp_path / "s", [[ok, ok], [ok]]) as (engine, seen):
        for _ in range(3):
            assert engine.containers.list(all=True) == []
    assert len(seen) == 3
    assert seen[0].startswith(b"GET /v1.41/containers/json?all=true HTTP/1.1\r\n")


def test_chunks_are_put_together(tmp_path: Path) -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
    with scripted(tmp_path / "s", [[body]]) as (engine, _):
        assert engine.raw("GET", "/x") == b"hello world"


def test_a_body_that_ends_early_is_an_error(tmp_path: Path) -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"
    with scripted(tmp_path / "s", [[body]]) as (engine, _), pytest.raises(Unavailable, match="in the middle"):
        engine.raw("GET", "/x")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("404 Not Found", NotFound),
        ("409 Conflict", Conflict),
        ("400 Bad Request", InvalidArgument),
        ("501 Not Implemented", NotImplementedKind),
        ("500 Internal Server Error", EngineFailed),
    ],
)
def test_errors_become_kinds_with_dockers_message(tmp_path: Path, status: str, kind: type[Exception]) -> None:
    with (
        scripted(tmp_path / "s", [[_answer(status, b'{"message":"No such container: x"}')]]) as (engine, _),
        pytest.raises(kind) as caught,
    ):
        engine.containers.inspect("x")
    assert str(caught.value) == "No such container: x"


def test_start_tells_that_it_ran_already(tmp_path: Path) -> None:
    with scripted(tmp_path / "s", [[b"HTTP/1.1 304 Not Modified\r\n\r\n", _answer("204 No Content", b"")]]) as (engine, _):
        assert engine.containers.start("x") is False
        assert engine.containers.start("x") is True


def test_the_lower_version_is_spoken(tmp_path: Path) -> None:
    ping = _answer("200 OK", b"OK", "API-Version: 1.41")
    with scripted(tmp_path / "s", [[ping]]) as (engine, _):
        fresh = Engine(engine.address)
        assert fresh.version == "1.41" and fresh.at_least("1.9") and not fresh.at_least("1.44")
        fresh.close()


def test_a_hijacked_stream_gives_what_was_read_too_many(tmp_path: Path) -> None:
    upgraded = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n\x01\x00\x00\x00\x00\x00\x00\x02hi"
    with scripted(tmp_path / "s", [[upgraded]]) as (engine, _), engine.containers.attach("x", tty=False) as stream:
        assert list(stream.frames()) == [(1, b"hi")]


def test_an_interrupted_stream_ends_without_an_error(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n"
    with scripted(tmp_path / "s", [[head, b""]]) as (engine, _):
        response = engine.events.open()
        pieces = iter(response)
        assert next(pieces) == b"{}\n"
        response.interrupt()
        assert list(pieces) == []


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Cannot connect to the Docker daemon at unix://"):
        Engine(Address(path=str(tmp_path / "none"))).system.ping()


def test_hosts() -> None:
    assert parse_host("unix:///x/y.sock") == Address(path="/x/y.sock")
    assert parse_host("tcp://h:99") == Address(host="h", port=99)
    assert parse_host("tcp://[::1]:99") == Address(host="::1", port=99)
    with pytest.raises(InvalidArgument, match="unable to parse docker host"):
        parse_host("nonsense")


def test_queries_are_written_as_docker_writes_them() -> None:
    assert encode_query({"a": True, "b": False, "c": None, "t": ["x:1", "y/z"], "n": 3}) == "?a=true&b=false&t=x%3A1&t=y%2Fz&n=3"
    assert encode_query({"c": None}) == ""
