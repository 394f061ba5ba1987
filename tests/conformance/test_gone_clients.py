"""Clients that go away in the middle of anything: no traceback in the engine's log, and the engine goes on."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import EngineProcess

_READS = [
    "GET /containers/box/archive?path=/bin",
    "GET /containers/box/export",
    "GET /containers/box/logs?follow=1&stdout=1",
    "GET /containers/box/stats",
    "GET /images/busybox/get",
    "GET /events?since=0",
    "GET /containers/json?all=1",
    "POST /containers/box/wait",
    "POST /containers/box/attach?stream=1&stdout=1&stdin=1",
]
_WRITES = [
    "PUT /containers/box/archive?path=/tmp",
    "POST /images/load",
    "POST /images/create?fromSrc=-&repo=cut",
    "POST /build",
    "POST /containers/create",
    "POST /volumes/create",
]


@pytest.fixture
def own() -> Iterator[EngineProcess]:
    """An engine whose whole log is this test's."""
    engine = EngineProcess("--log-level", "debug")
    with leak.nothing_left(engine.snapshot):
        engine.start()
        try:
            engine.add_busybox()
            engine.ok("run", "-d", "--name", "box", "busybox", "sh", "-c", "while true; do echo line; sleep 0.01; done")
            yield engine
            engine.ok("rm", "-f", "box")
        finally:
            engine.shut_down()


def _request(engine: EngineProcess, line: str, body: bytes = b"", headers: str = "") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(engine.socket)
    sock.sendall(f"{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body)
    return sock


def _upgrade(engine: EngineProcess, line: str) -> socket.socket:
    return _request(engine, line, headers="Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n")


def _descriptors(pid: int) -> dict[str, str]:
    """What the process has open: each descriptor and what it leads to."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def test_no_traceback_for_a_client_that_went_away(own: EngineProcess) -> None:
    for line in _READS:
        # Gone at once, after a first answer, and slowly: with the answer stuck in the socket's buffer.
        _request(own, line, headers="Content-Length: 0\r\n").close()
        for wait in (0.0, 0.15):
            with _request(own, line, headers="Content-Length: 0\r\n") as sock:
                if "wait" not in line:
                    sock.recv(100)
                time.sleep(wait)
        with _upgrade(own, line):
            pass
    for line in _WRITES:
        for kind in ("application/x-tar", "application/json"):
            length, chunked = f"Content-Length: {1 << 20}\r\n", "Transfer-Encoding: chunked\r\n"
            cut = ((length, b"x" * 5000), (length, b""), (chunked, b"1000\r\n" + b"x" * 1000), (chunked, b"5\r\n{"))
            for framing, body in cut:
                gone = _request(own, line, body, f"Content-Type: {kind}\r\n{framing}")
                time.sleep(0.02)
                gone.close()
    assert own.ok("logs", "--tail", "1", "box") == "line"
    time.sleep(0.5)
    log = Path(own.log).read_text(errors="replace")
    assert "Traceback" not in log and " ERROR " not in log, log[-4000:]


def test_what_waits_for_nothing_ends_with_its_client(own: EngineProcess) -> None:
    """A silent container's log, and events that never come, must not keep connections and watches of clients that left."""
    own.ok("run", "-d", "--name", "silent", "busybox", "sleep", "1000")
    assert own.process is not None
    engine = own.process.pid
    own.ok("ps")
    own.await_slots()
    before = _descriptors(engine)
    lines = ("GET /containers/silent/logs?follow=1&stdout=1", "GET /events", "POST /containers/silent/wait")
    held = [_request(own, line, headers="Content-Length: 0\r\n") for line in lines for _ in range(5)]
    for sock in held:
        sock.recv(1)
    assert len(_descriptors(engine)) >= len(before) + len(held)
    for sock in held:
        sock.close()
    for _ in range(60):
        if len(_descriptors(engine)) <= len(before):
            break
        time.sleep(0.05)
    left = _descriptors(engine)
    assert len(left) <= len(before), {fd: to for fd, to in left.items() if before.get(fd) != to}
    own.ok("rm", "-f", "silent")
