"""Streams of containers over the API: raw connections as clients open them, on the real kernel."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from support.engine import EngineProcess

UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")


@contextmanager
def request(
    engine: EngineProcess, path: str, *, head: tuple[str, ...] = UPGRADE, body: bytes = b"", early: bytes = b""
) -> Iterator[socket.socket]:
    """A POST on a connection of its own; `early` are stream bytes in the same packet."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(engine.socket)
        lines = [f"POST {path} HTTP/1.1", "Host: x", *head, "Content-Type: application/json", f"Content-Length: {len(body)}"]
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body + early)
        yield sock


def head_of(sock: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        assert piece, f"the connection ended in the head: {data!r}"
        data += piece
    return data.decode()


def rest_of(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def frame(number: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", number, len(data)) + data


def descriptors(engine: EngineProcess) -> int:
    assert engine.process is not None
    return len(os.listdir(f"/proc/{engine.process.pid}/fd"))


def settled_descriptors(engine: EngineProcess, at_most: int) -> int:
    for _ in range(100):
        if descriptors(engine) <= at_most:
            break
        time.sleep(0.02)
    return descriptors(engine)


def test_attach_before_start_sees_everything_and_sends_what_came_with_the_request(engine: EngineProcess) -> None:
    engine.ok("create", "-i", "--name", "box", "busybox", "sh", "-c", "echo begin; cat; echo err >&2")
    with request(engine, "/v1.47/containers/box/attach?stream=1&stdin=1&stdout=1&stderr=1", early=b"first\n") as sock:
        head = head_of(sock)
        assert head.startswith("HTTP/1.1 101 UPGRADED\r\n") and "application/vnd.docker.multiplexed-stream" in head
        engine.ok("start", "box")
        sock.sendall(b"second\n")
        sock.shutdown(socket.SHUT_WR)
        data = rest_of(sock)
    out = b"".join(data[i + 8 : i + 8 + n] for i, k, n in frames(data) if k == 1)
    assert out == b"begin\nfirst\nsecond\n"
    assert [data[i + 8 : i + 8 + n] for i, k, n in frames(data) if k == 2] == [b"err\n"]


def frames(data: bytes) -> list[tuple[int, int, int]]:
    """(offset, stream, length) of each frame."""
    found, at = [], 0
    while at < len(data):
        number, length = struct.unpack_from(">BxxxL", data, at)
        found.append((at, number, length))
        at += 8 + length
    return found


def test_attach_without_upgrade_and_of_an_old_client(engine: EngineProcess) -> None:
    engine.ok("create", "--name", "box", "busybox", "echo", "hi")
    with request(engine, "/v1.41/containers/box/attach?stream=1&stdout=1", head=()) as sock:
        head = head_of(sock)
        assert head.startswith("HTTP/1.1 200 OK\r\n") and "application/vnd.docker.raw-stream" in head
        engine.ok("start", "box")
        assert rest_of(sock) == frame(1, b"hi\n")


def test_attach_with_logs_gives_the_past_and_ends(engine: EngineProcess) -> None:
    engine.ok("run", "--name", "box", "busybox", "sh", "-c", "echo a; echo b >&2")
    with request(engine, "/v1.47/containers/box/attach?logs=1&stdout=1&stderr=1") as sock:
        head_of(sock)
        data = rest_of(sock)
    assert sorted((k, data[i + 8 : i + 8 + n]) for i, k, n in frames(data)) == [(1, b"a\n"), (2, b"b\n")]


def started_at_once(engine: EngineProcess, sock: socket.socket) -> bytes:
    """Everything after the head, where the start follows it as fast as a client can ask for it, on a connection that is there."""
    connection = http.client.HTTPConnection("engine")
    connection.sock = socket.socket(socket.AF_UNIX)
    with connection.sock:
        connection.sock.connect(engine.socket)
        connection.request("GET", "/_ping")
        connection.getresponse().read()
        head_of(sock)
        connection.request("POST", "/containers/box/start")
        assert connection.getresponse().status == 204
        return rest_of(sock)


def test_attach_with_logs_before_the_first_start_misses_nothing(engine: EngineProcess) -> None:
    """The program is over in a few milliseconds."""
    for _ in range(5):
        engine.ok("create", "--name", "box", "busybox", "printf", "all")
        with request(engine, "/v1.47/containers/box/attach?logs=1&stream=1&stdout=1") as sock:
            assert started_at_once(engine, sock) == frame(1, b"all")
        engine.ok("rm", "box")


def test_attach_with_logs_before_a_later_start_gives_the_past_then_the_run(engine: EngineProcess) -> None:
    program = "echo $(cat); test -e /seen || head -c 1000000 /dev/zero | tr '\\0' y; touch /seen"
    engine.ok("create", "-i", "--name", "box", "busybox", "sh", "-c", program)
    with request(engine, "/containers/box/attach?stream=1&stdin=1&stdout=1", early=b"one") as sock:
        head_of(sock)
        sock.shutdown(socket.SHUT_WR)
        engine.ok("start", "box")
        first = payload(rest_of(sock))
    assert first == b"one\n" + b"y" * 1000000
    with request(engine, "/containers/box/attach?logs=1&stream=1&stdin=1&stdout=1", early=b"two") as sock:
        sock.shutdown(socket.SHUT_WR)
        assert payload(started_at_once(engine, sock)) == first + b"two\n"


def payload(data: bytes) -> bytes:
    """What is in the frames."""
    return b"".join(data[at + 8 : at + 8 + length] for at, _, length in frames(data))


def test_who_attaches_with_logs_and_leaves_before_the_start_costs_nothing(engine: EngineProcess) -> None:
    engine.ok("run", "--name", "box", "busybox", "echo", "a")
    before = settled_descriptors(engine, 0)
    for _ in range(30):
        with request(engine, "/containers/box/attach?logs=1&stream=1&stdin=1&stdout=1") as sock:
            head_of(sock)
    with request(engine, "/containers/box/attach?logs=1&stream=1&stdout=1") as sock:
        head_of(sock)
        assert sock.recv(100) == frame(1, b"a\n")
    # The last ones may wait for who looks next: the start.
    engine.ok("start", "-a", "box")
    assert settled_descriptors(engine, before) <= before


def test_attaching_and_leaving_costs_nothing(engine: EngineProcess) -> None:
    """SECURITY row 59."""
    engine.ok("run", "-di", "--name", "box", "busybox", "cat")
    for _ in range(5):
        with request(engine, "/containers/box/attach?stream=1&stdin=1&stdout=1") as sock:
            head_of(sock)
    before = settled_descriptors(engine, 0)
    for _ in range(300):
        with request(engine, "/containers/box/attach?stream=1&stdin=1&stdout=1") as sock:
            head_of(sock)
    assert settled_descriptors(engine, before) <= before
    with request(engine, "/containers/box/attach?stream=1&stdin=1&stdout=1", early=b"still there\n") as sock:
        head_of(sock)
        assert sock.recv(100) == frame(1, b"still there\n")


def test_waits_that_nobody_waits_for_end(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "box", "busybox", "sleep", "100")
    before = settled_descriptors(engine, 0)
    for _ in range(20):
        with request(engine, "/containers/box/wait?condition=next-exit", head=()) as sock:
            assert head_of(sock).startswith("HTTP/1.1 200")
    for _ in range(60):
        if descriptors(engine) <= before:
            break
        time.sleep(0.1)
    assert descriptors(engine) <= before


def test_attach_by_websocket(engine: EngineProcess) -> None:
    engine.ok("run", "-di", "--name", "box", "busybox", "sh", "-c", "read a; echo got $a; exit 3")

    async def talk() -> bytes:
        connector = aiohttp.UnixConnector(path=engine.socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.ws_connect("http://x/v1.47/containers/box/attach/ws?stream=1&stdin=1&stdout=1") as stream,
        ):
            await stream.send_str("this\n")
            received = b""
            async for message in stream:
                received += message.data if isinstance(message.data, bytes) else message.data.encode()
            return received

    assert asyncio.run(asyncio.wait_for(talk(), 10)) == b"got this\n"
    assert engine.ok("wait", "box") == "3"


def test_exec_start_is_hijacked_with_its_body(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "box", "busybox", "sleep", "100")
    with engine.client as client:
        created = client.request(
            "POST", "/containers/box/exec", body=json.dumps({"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}).encode()
        )
        identifier = json.loads(created.read())["Id"]
    with request(engine, f"/v1.47/exec/{identifier}/start", body=b'{"Detach":false,"Tty":false}', early=b"x\n") as sock:
        assert head_of(sock).startswith("HTTP/1.1 101")
        sock.shutdown(socket.SHUT_WR)
        assert rest_of(sock) == frame(1, b"x\n")
    with engine.client as client:
        state = json.loads(client.request("GET", f"/exec/{identifier}/json").read())
    assert (state["Running"], state["ExitCode"]) == (False, 0)


def test_stats_come_each_second_and_of_a_stopped_one_empty(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "box", "busybox", "sh", "-c", "while true; do :; done")
    with engine.client as client:
        one = json.loads(client.request("GET", "/containers/box/stats", query={"stream": False}).read())
    assert one["cpu_stats"]["cpu_usage"]["total_usage"] > one["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert one["memory_stats"]["usage"] > 0 and one["pids_stats"]["current"] == 1 and "eth0" in one["networks"]
    engine.ok("kill", "box")
    with engine.client as client:
        none = json.loads(client.request("GET", "/containers/box/stats", query={"stream": False}).read())
    assert none["read"] == "0001-01-01T00:00:00Z" and none["cpu_stats"]["cpu_usage"]["total_usage"] == 0


def test_detaching_is_told_as_an_event(engine: EngineProcess) -> None:
    since = str(time.time())
    engine.ok("run", "-dit", "--name", "box", "busybox", "sh")
    with request(engine, "/containers/box/attach?stream=1&stdin=1&stdout=1") as sock:
        head_of(sock)
        sock.sendall(b"\x10\x11")
        rest_of(sock)
    body = json.dumps({"AttachStdin": True, "AttachStdout": True, "Tty": True, "Cmd": ["cat"]}).encode()
    with request(engine, "/containers/box/exec", head=(), body=body) as sock:
        head_of(sock)
        identifier = json.loads(sock.recv(4096))["Id"]
    with request(engine, f"/exec/{identifier}/start", body=b'{"Tty": true}') as sock:
        head_of(sock)
        sock.sendall(b"\x10\x11")
        rest_of(sock)
    time.sleep(0.2)
    options = ("--since", since, "--until", str(time.time()), "--filter", "event=detach", "--filter", "event=exec_detach")
    told = [json.loads(line) for line in engine.ok("events", *options, "--format", "{{json .}}").splitlines()]
    assert [(event["Action"], event["Actor"]["Attributes"].get("execID")) for event in told] == [
        ("detach", None),
        ("exec_detach", identifier),
    ]
    engine.ok("rm", "-f", "box")
