"""Requests, files and names that make no sense: the right status or exit code, words that help, and nothing left behind."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from support.engine import EngineProcess

BIG = 10**30


def ask(
    engine: EngineProcess, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
) -> tuple[int, str]:
    """Status and message of a request that is sent as it is."""
    connection = http.client.HTTPConnection("engine", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(engine.socket)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        message = text
    return answer.status, message


def alive(engine: EngineProcess) -> None:
    assert ask(engine, "GET", "/_ping")[0] == 200
    assert "internal error" not in engine.log_text()


BODIES: list[tuple[str, str]] = [
    ("/containers/create", "{"),
    ("/containers/create", "[]"),
    ("/containers/create", "null"),
    ("/containers/create", '"text"'),
    ("/containers/create", '{"Image": 5}'),
    ("/containers/create", '{"Image": "busybox", "Cmd": {"a": 1}}'),
    ("/containers/create", '{"Image": "busybox", "Env": "A=b"}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": []}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"Memory": "much"}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"Memory": 1000000000000000000000000000000}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"NanoCpus": -5}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"Binds": ["no-colon-and-not-absolute:"]}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"Binds": ["/a:relative"]}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"PortBindings": {"abc": [{"HostPort": "1"}]}}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"RestartPolicy": {"Name": "sometimes"}}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"CapAdd": ["CAP_NONSENSE"]}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"Sysctls": {"kernel.core_pattern": "|/x"}}}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"SecurityOpt": ["seccomp={"]}}'),
    ("/containers/create", '{"Image": "busybox", "StopSignal": "SIGNONSENSE"}'),
    ("/containers/create", '{"Image": "busybox", "WorkingDir": "relative"}'),
    ("/containers/create", '{"Image": "bad image name"}'),
    ("/containers/create", "[" * 100_000),
    ("/containers/create", '{"x":' * 100_000),
    ("/containers/create", '{"x":' * 100_000 + "10000000000000000000"),
    ("/containers/create", '{"Image": "busybox", "Cmd": ["a\\u0000b"]}'),
    ("/containers/create", '{"Image": "busybox", "HostConfig": {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": -1}]}}'),
    ("/networks/create", '{"Name": ""}'),
    ("/networks/create", '{"Name": 5}'),
    ("/networks/create", '{"Name": "n", "IPAM": {"Config": [{"Subnet": "10.0.0.0/99"}]}}'),
    ("/networks/create", '{"Name": "n", "IPAM": {"Config": [{"Subnet": "nonsense"}]}}'),
    ("/volumes/create", '{"Name": "../x"}'),
    ("/volumes/create", '{"Name": []}'),
    ("/images/create?fromImage=bad%20name", ""),
    ("/images/create?fromImage=Upper", ""),
    ("/build?buildargs=nonsense", ""),
]


@pytest.mark.parametrize(("path", "body"), BODIES, ids=range(len(BODIES)))
def test_bodies_that_make_no_sense(engine: EngineProcess, path: str, body: str) -> None:
    status, message = ask(engine, "POST", path, body.encode())
    assert status == 400, (path, body[:80], status, message)
    assert 8 < len(message) < 500
    assert "Traceback" not in message
    alive(engine)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nonsense", 404),
        ("GET", "/v1.41/nonsense", 404),
        ("GET", "/v0.1/containers/json", 400),
        ("GET", "/v99.9/containers/json", 400),
        ("GET", "/vx/containers/json", 404),
        ("PATCH", "/containers/json", 404),
        ("GET", "/containers/nosuch/json", 404),
        ("POST", "/containers/nosuch/start", 404),
        ("GET", "/images/nosuch/json", 404),
        ("GET", "/networks/nosuch", 404),
        ("GET", "/volumes/nosuch", 404),
        ("POST", "/exec/nosuch/start", 404),
        ("GET", "/exec/nosuch/json", 404),
        ("GET", "/containers/json?filters=nonsense", 400),
        ("GET", "/containers/json?filters=%7B%22nonsense%22%3A%5B%22a%22%5D%7D", 400),
        ("GET", "/containers/json?limit=abc", 400),
        ("GET", "/images/json?filters=%7B%7D&x=%00", 400),
        ("GET", "/events?since=yesterday&until=1", 400),
        ("POST", "/containers/nosuch/kill?signal=NONSENSE", 404),
        ("GET", "/containers/..%2f..%2fetc/json", 404),
        ("GET", "/containers/%00/json", 404),
    ],
)
def test_paths_and_queries_that_make_no_sense(engine: EngineProcess, method: str, path: str, status: int) -> None:
    got, message = ask(engine, method, path, b"" if method == "POST" else None)
    assert got == status, message
    assert message
    alive(engine)


def test_queries_on_a_container(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    for method, path in (
        ("POST", "/containers/one/kill?signal=NONSENSE"),
        ("POST", "/containers/one/kill?signal=99999"),
        ("POST", "/containers/one/stop?t=abc"),
        ("POST", f"/containers/one/resize?h={BIG}&w=1"),
        ("GET", "/containers/one/logs?stdout=1&tail=nonsense&since=abc"),
        ("GET", "/containers/one/logs"),
        ("GET", "/containers/one/archive"),
        ("POST", "/containers/one/rename?name=a/b"),
        ("POST", "/containers/one/wait?condition=nonsense"),
    ):
        status, message = ask(engine, method, path, b"" if method == "POST" else None)
        assert status == 400, (path, status, message)
    for body in ("{", '{"Cmd": []}', '{"Cmd": 7}', '{"Cmd": ["true"], "User": 5}'):
        status, message = ask(engine, "POST", "/containers/one/exec", body.encode())
        assert status == 400, (body, status, message)
    status, message = ask(engine, "PUT", "/containers/one/archive?path=/tmp", b"this is no archive" * 100, "application/x-tar")
    assert status == 400, message
    assert engine.ok("exec", "one", "ls", "/tmp") == ""
    assert engine.ok("inspect", "-f", "{{.State.Running}}", "one") == "true"
    alive(engine)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"MaskedPaths": ["/" + "x" * 300]}, "file name too long"),
        ({"ReadonlyPaths": ["/proc/self/fd/0"]}, "too many levels of symbolic links"),
        ({"BlkioDeviceWriteBps": [{"Path": "/etc", "Rate": 5}]}, "cannot use block device /etc: it is no device"),
        ({"BlkioDeviceWriteBps": [{"Path": "/dev/null", "Rate": 5}]}, "no such device"),
    ],
)
def test_what_the_kernel_refuses_at_the_start_is_the_requests_fault(
    engine: EngineProcess, host: dict[str, object], words: str
) -> None:
    body = json.dumps({"Image": "busybox", "Cmd": ["true"], "HostConfig": host}).encode()
    status, text = ask(engine, "POST", "/containers/create?name=refused", body)
    assert status == 201, text
    status, message = ask(engine, "POST", "/containers/refused/start", b"")
    assert status == 400 and words in message, (status, message)
    assert engine.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "refused") == "created 128"
    alive(engine)


def test_what_is_no_http_is_not_an_error_of_the_engine(engine: EngineProcess) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(engine.socket)
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Null: \0\r\n\r\n")
        assert b" 400 " in sock.recv(4096)
    assert "Traceback" not in engine.log_text() and "a request was refused" in engine.log_text()
    alive(engine)


def test_images_that_are_none(engine: EngineProcess) -> None:
    before = engine.ok("images", "-aq")
    for arguments in (("import", "-"), ("load",)):
        done = engine.docker(*arguments, input=b"this is no archive" * 1000)
        assert done.returncode == 1, done
        assert done.stderr.strip()
        assert "internal error" not in done.stderr
    assert engine.ok("images", "-aq") == before
    unknown = engine.docker("run", "--rm", "--pull", "never", "nosuch:1", "true")
    assert (unknown.returncode, "No such image: nosuch:1" in unknown.stderr) == (125, True)
    assert engine.docker("rmi", "nosuch").stderr.strip().endswith("No such image: nosuch:latest")


def test_a_port_that_a_foreign_program_has(engine: EngineProcess) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        done = engine.docker("run", "-d", "--name", "one", "-p", f"{port}:80", "busybox", "sleep", "100")
        assert done.returncode == 125
        assert f"{port}" in done.stderr
        assert "already in use" in done.stderr or "already allocated" in done.stderr
        assert engine.ok("inspect", "-f", "{{.State.Status}}", "one") == "created"
    engine.ok("start", "one")
    assert engine.ok("port", "one").startswith("80/tcp -> ")


def test_a_dockerfile_with_a_mistake_shows_the_line(engine: EngineProcess) -> None:
    text = b"FROM busybox\nRUN echo fine\nCOPPY a b\nRUN echo later\n"
    done = engine.docker("build", "-t", "bad", "-", input=text)
    assert done.returncode == 1
    assert "line 3" in done.stderr.lower() or ":3" in done.stderr, done.stderr
    assert "COPPY" in done.stderr
    failing = engine.docker("build", "-t", "bad", "-", input=b"FROM busybox\nRUN exit 9\n")
    assert failing.returncode != 0
    assert "returned a non-zero code: 9" in failing.stderr
    assert engine.ok("images", "-q", "bad") == ""
    assert engine.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services:\n  web:\n    image: busybox\n    prots: ['80']\n", ":4"),
        ("services:\n  web:\n    image: busybox\n   bad: indent\n", ":4"),
        ("services:\n  web:\n    image: busybox\n    ports: 5\n", ":4"),
        ("services:\n  web:\n    image: busybox\n    depends_on: [db]\n", "db"),
    ],
)
def test_a_compose_file_with_a_mistake_shows_the_place(engine: EngineProcess, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "compose.yaml").write_text(text)
    done = engine.berth("compose", "up", "-d", cwd=str(tmp_path))
    assert done.returncode not in (0, None)
    assert "compose.yaml" in done.stderr or words == "db", done.stderr
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert engine.ok("ps", "-aq") == ""


def test_a_layer_that_somebody_deleted(tmp_path: Path) -> None:
    engine = EngineProcess()
    engine.start()
    try:
        engine.add_busybox()
        (layer,) = (name for name in os.listdir(f"{engine.root}/layers") if len(name) == 64)
        shutil.rmtree(f"{engine.root}/layers/{layer}")
        done = engine.docker("run", "--rm", "busybox", "true")
        assert done.returncode == 125
        assert "layer" in done.stderr
        assert "pull" in done.stderr or "load" in done.stderr or "import" in done.stderr, done.stderr
        assert "internal error" not in done.stderr
        engine.ok("rmi", "-f", "busybox")
        engine.add_busybox()
        assert engine.ok("run", "--rm", "busybox", "echo", "works") == "works"
    finally:
        engine.shut_down()
