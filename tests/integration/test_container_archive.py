"""Archives in and out of real containers, running in a user namespace and stopped: owners, capabilities, volumes."""

from __future__ import annotations

import http.client
import io
import os
import socket
import tarfile

import pytest

from support.engine import EngineProcess
from support.stores import archive

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def ask(engine: EngineProcess, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request to the API."""
    connection = _Connection(engine.host.removeprefix("unix://"))
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def fetch(engine: EngineProcess, container: str, path: str) -> tarfile.TarInfo:
    """The first member of an archive of the path."""
    status, data = ask(engine, "GET", f"/containers/{container}/archive?path={path}")
    assert status == 200, data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()[0]


@pytest.fixture
def container(engine: EngineProcess) -> str:
    return engine.ok("run", "-d", "-v", "cpvol:/data", "busybox", "sleep", "1000")


def put(engine: EngineProcess, container: str, data: bytes, path: str = "/root") -> tuple[int, bytes]:
    return ask(engine, "PUT", f"/containers/{container}/archive?path={path}", data)


def test_owners_are_those_of_the_container(engine: EngineProcess, container: str) -> None:
    assert put(engine, container, archive(("f", "file", "x"), uid=1000, gid=7)) == (200, b"")
    assert engine.ok("exec", container, "stat", "-c", "%u:%g", "/root/f") == "1000:7"
    upper = f"{engine.root}/containers/{container}/upper"
    assert (os.stat(f"{upper}/root/f").st_uid, os.stat(f"{upper}/root/f").st_gid) == (1000, 7)
    engine.ok("exec", container, "sh", "-c", "echo y > /root/g && chown 33:44 /root/g")
    assert (fetch(engine, container, "/root/g").uid, fetch(engine, container, "/root/g").gid) == (33, 44)
    assert put(engine, container, archive(("v", "file", "x"), uid=5), "/data")[0] == 200
    assert engine.ok("exec", container, "stat", "-c", "%u", "/data/v") == "5"
    engine.ok("rm", "-f", container)
    engine.ok("volume", "rm", "cpvol")


def test_an_owner_that_the_container_does_not_have(engine: EngineProcess, container: str) -> None:
    assert put(engine, container, archive(("f", "file", "x"), uid=1_234_567, mode=0o4755)) == (200, b"")
    assert engine.ok("exec", container, "stat", "-c", "%u %a", "/root/f") == "0 755"
    engine.ok("rm", "-f", container)
    engine.ok("volume", "rm", "cpvol")


def test_file_capabilities_survive_every_way(engine: EngineProcess, container: str) -> None:
    headers = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}

    def carried(name: str) -> bytes:
        found = fetch(engine, container, f"/root/{name}").pax_headers
        return found.get("SCHILY.xattr.security.capability", "").encode("latin-1")

    assert put(engine, container, archive(("running", "file", "x"), pax_headers=headers))[0] == 200
    upper = f"{engine.root}/containers/{container}/upper"
    assert os.getxattr(f"{upper}/root/running", "security.capability") == CAPABILITY
    engine.ok("stop", "-t", "0", container)
    assert put(engine, container, archive(("stopped", "file", "x"), pax_headers=headers))[0] == 200
    assert carried("running") == carried("stopped") == CAPABILITY
    engine.ok("start", container)
    assert carried("running") == carried("stopped") == CAPABILITY
    engine.ok("rm", "-f", container)
    engine.ok("volume", "rm", "cpvol")


def test_a_stopped_container_shows_its_volumes(engine: EngineProcess, container: str) -> None:
    engine.ok("exec", container, "sh", "-c", "echo hello > /data/f")
    engine.ok("stop", "-t", "0", container)
    assert fetch(engine, container, "/data/f").size == 6
    assert put(engine, container, archive(("g", "file", "new")), "/data")[0] == 200
    assert os.path.exists(f"{engine.root}/volumes/cpvol/_data/g")
    engine.ok("rm", container)
    engine.ok("volume", "rm", "cpvol")


def test_errors(engine: EngineProcess, container: str) -> None:
    status, answer = put(engine, container, b"this is no archive")
    assert status == 400 and b"invalid archive" in answer
    assert put(engine, container, archive(("f", "file", "")), "/none")[0] == 404
    assert put(engine, container, archive(("f", "file", "")), "/etc/passwd")[0] == 400
    assert ask(engine, "GET", f"/containers/{container}/archive?path=/none")[0] == 404
    engine.ok("rm", "-f", container)
    engine.ok("volume", "rm", "cpvol")
