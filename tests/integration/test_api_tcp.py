"""The API on TCP, with TLS and without: the docker CLI and berth's own work as on the unix socket; others are kept out."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import BIN, EngineProcess


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def _signed(directory: Path, name: str, ca: str, extension: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}-key.pem")
    _openssl(directory, "req", "-new", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr")
    (directory / f"{name}.ext").write_text(extension)
    _openssl(
        directory, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}-key.pem", "-CAcreateserial",
        "-days", "2", "-out", f"{name}.pem", "-extfile", f"{name}.ext",
    )  # fmt: skip


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, the engine's certificate, a client's (folder `client`), and one of another CA (folder `stranger`)."""
    directory = tmp_path_factory.mktemp("pki")
    for ca in ("ca", "otherca"):
        _openssl(
            directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={ca}", "-keyout", f"{ca}-key.pem", "-out", f"{ca}.pem",
        )  # fmt: skip
    _signed(directory, "engine", "ca", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    for name, ca in (("client", "ca"), ("stranger", "otherca")):
        _signed(directory, name, ca, "extendedKeyUsage=clientAuth\n")
        folder = directory / f"{name}.d"
        folder.mkdir()
        (folder / "ca.pem").write_bytes((directory / "ca.pem").read_bytes())
        (folder / "cert.pem").write_bytes((directory / f"{name}.pem").read_bytes())
        (folder / "key.pem").write_bytes((directory / f"{name}-key.pem").read_bytes())
    return directory


class Remote:
    """An engine with TCP sockets: one plain, one engine with TLS."""

    def __init__(self, engine: EngineProcess, port: int, pki: Path, *, tls: bool) -> None:
        self.engine, self.port, self.pki, self.tls = engine, port, pki, tls

    def run(self, *command: str, who: str = "client", input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """A command with the environment that Docker's documentation gives."""
        environment = {key: value for key, value in self.engine.environment().items() if key != "DOCKER_HOST"}
        environment["DOCKER_HOST"] = f"tcp://127.0.0.1:{self.port}"
        if self.tls:
            environment |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self.pki / f"{who}.d")}
        stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            command, capture_output=True, timeout=60, env=environment, check=False, **stdin  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module", params=["plain", "tls"])
def remote(request: pytest.FixtureRequest, pki: Path) -> Iterator[Remote]:
    """An engine that listens on TCP too."""
    port, tls = _free_port(), request.param == "tls"
    files = ("--tlscacert", f"{pki}/ca.pem", "--tlscert", f"{pki}/engine.pem", "--tlskey", f"{pki}/engine-key.pem")
    engine = EngineProcess("-H", f"tcp://127.0.0.1:{port}", *(("--tlsverify", *files) if tls else ()))
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            yield Remote(engine, port, pki, tls=tls)
        finally:
            engine.shut_down()


@pytest.mark.parametrize("client", ["docker", "berth"])
def test_clients_work_as_on_the_unix_socket(remote: Remote, client: str) -> None:
    program = client if client == "docker" else str(BIN / client)
    assert remote.run(program, "version").returncode == 0
    data = os.urandom(1_500_000)
    # The client ends its direction, and the container answers afterwards.
    echoed = remote.run(program, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; sleep 0.3; echo end", input=data)
    assert echoed.returncode == 0, echoed.stderr
    assert echoed.stdout == data + b"end\n"
    failed = remote.run(program, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (failed.returncode, failed.stdout, failed.stderr) == (7, b"out\n", b"err\n")
    assert remote.run(program, "run", "-d", "--name", "box", "busybox", "sleep", "100").returncode == 0
    try:
        summed = remote.run(program, "exec", "-i", "box", "md5sum", input=b"abc")
        assert summed.stdout.split()[0] == b"900150983cd24fb0d6963f7d28e17f72"
        assert remote.run(program, "kill", "box").returncode == 0
        told = remote.engine.berth("explain", "box").stdout
        assert "from 127.0.0.1" in told
        assert ("certificate client" in told) == remote.tls
    finally:
        remote.run(program, "rm", "-f", "box")


def test_a_client_that_goes_ends_what_it_asked_for(remote: Remote) -> None:
    environment = remote.engine.environment() | {"DOCKER_HOST": f"tcp://127.0.0.1:{remote.port}"}
    if remote.tls:
        environment |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(remote.pki / "client.d")}
    before = remote.engine.client.system.info()["NEventsListener"]
    listening = subprocess.Popen(["docker", "events"], env=environment, stdout=subprocess.DEVNULL)
    try:
        _await(lambda: remote.engine.client.system.info()["NEventsListener"] == before + 1)
    finally:
        listening.kill()
        listening.wait()
    _await(lambda: remote.engine.client.system.info()["NEventsListener"] == before)


def _await(check: object) -> None:
    deadline = time.monotonic() + 20
    while not check():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _http(port: int, *headers: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall("\r\n".join(["GET /containers/json HTTP/1.1", "Connection: close", *headers, "", ""]).encode())
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_web_pages_and_strangers_are_kept_out(remote: Remote) -> None:
    if remote.tls:
        refused = remote.run("docker", "ps", who="stranger")
        assert refused.returncode == 1
        assert b"certificate" in refused.stderr
        assert b"HTTP" not in _http(remote.port, "Host: 127.0.0.1")
        wrong = remote.run(str(BIN / "berth"), "ps", who="stranger")
        assert wrong.returncode == 1
        # One that never speaks keeps nobody else from being served.
        with socket.create_connection(("127.0.0.1", remote.port)):
            assert remote.run("docker", "ps").returncode == 0
        return
    assert b" 200 " in _http(remote.port, "Host: 127.0.0.1:2375")
    assert b" 200 " in _http(remote.port, "Host: localhost")
    page = _http(remote.port, "Host: 127.0.0.1", "Origin: http://evil.example")
    assert b" 403 " in page and b"a web page (Origin: http://evil.example) has no access" in page
    rebound = _http(remote.port, "Host: evil.example:2375")
    assert b" 403 " in rebound and b"evil.example is no name of it" in rebound


def test_what_it_gives_away_is_told(remote: Remote) -> None:
    warnings = remote.engine.client.system.info()["Warnings"] or []
    told = [line for line in warnings if "root access on the host" in line]
    assert bool(told) != remote.tls


def test_several_hosts_a_group_and_what_is_refused(own: EngineProcess, tmp_path: Path) -> None:
    own.terminate()
    second = f"{own.directory}/second.sock"
    own._options = ("-H", f"unix://{second}", "--group", "4711")
    own.start()
    for path in (own.socket, second):
        info = os.stat(path)
        assert (info.st_gid, stat.S_IMODE(info.st_mode)) == (4711, 0o660)
        assert own.run("docker", "-H", f"unix://{path}", "ps").returncode == 0
    own.terminate()
    assert not os.path.exists(second)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = {
            ("-H", f"tcp://127.0.0.1:{taken.getsockname()[1]}"): "address already in use",
            ("-H", "tcp://0.0.0.0:2375"): "add --tlsverify with --tlscacert",
            ("-H", "tcp://0.0.0.0:2376", "--tls"): "say --tlsverify=false if that is meant",
            ("-H", "tcp://0.0.0.0:2376", "--tlsverify", "--tlscert", f"{tmp_path}/no.pem"): "there is no such file",
            ("-H", "fd://"): "sockets of systemd",
            ("-H", "tcp://:99999"): "is no number from 1 to 65535",
            ("--group", "nobody-here"): "groupadd nobody-here",
        }
        for options, words in refused.items():
            done = own.run(str(BIN / "berthd"), "--root", own.root, "--socket", own.socket, *options)
            assert done.returncode == 1, options
            assert words in done.stderr, (options, done.stderr)
    own._options = ()
    own.start()


def test_an_engine_of_another_host(own: EngineProcess, tmp_path: Path) -> None:
    """ssh is played by a program that runs the command here."""
    (tmp_path / "ssh").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nwhile [ "$1" != -- ]; do shift; done\nshift 2\n'
        f'PATH={BIN}:$PATH\nexport DOCKER_HOST={own.host}\nexec "$@"\n'
    )
    (tmp_path / "ssh").chmod(0o755)
    environment = own.environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def berth(*arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [str(BIN / "berth"), "-H", "ssh://me@other:2222", *arguments]
        return subprocess.run(command, input=input, capture_output=True, env=environment, timeout=60, check=False)

    done = berth("run", "-i", "--rm", "busybox", "sh", "-c", "cat; exit 3", input=b"x" * 300_000)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"x" * 300_000, b"")
    assert "-p 2222 -- me@other berth system dial-stdio" in (tmp_path / "asked").read_text()
    # The docker CLI's own helper calls docker at the other end.
    command = ["docker", "-H", "ssh://me@other", "ps"]
    docker = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert docker.returncode == 0, docker.stderr
