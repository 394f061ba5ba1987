"""docker-compose 2, unmodified, built by `make test-clients` where Go is installed (scripts/compose-v2); skipped without it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import SLOW, EngineProcess

PROGRAM = Path(sys.prefix, "compose-v2")
FILE = """
name: second
services:
  web:
    image: busybox
    command: sh -c 'trap "exit 0" TERM; mkdir /www; echo hello >/www/index.html; echo web up; httpd -f -p 80 -h /www & wait'
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/index.html"], interval: 200ms, retries: 50}
    ports: ["127.0.0.1::80"]
    volumes: ["data:/data"]
    develop: {watch: [{action: sync, path: ./src, target: /src}]}
  client:
    image: busybox
    depends_on: {web: {condition: service_healthy}}
    command: sh -c 'wget -q -O - http://web/index.html; exit 3'
  built:
    build: .
    command: cat /made
volumes: {data: {}}
"""


class Compose:
    """The program in a project's folder."""

    def __init__(self, engine: EngineProcess, folder: Path) -> None:
        self.engine = engine
        self.folder = folder

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What it printed on standard output."""
        done = self.engine.run(str(PROGRAM), *arguments, timeout=120, cwd=str(self.folder))
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()


@pytest.fixture
def compose(engine: EngineProcess, tmp_path: Path) -> Iterator[Compose]:
    if not PROGRAM.exists():
        pytest.skip("docker-compose 2 is not there: make test-clients builds it where Go is installed")
    (tmp_path / "compose.yaml").write_text(FILE)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo made >/made\n")
    (tmp_path / "src").mkdir()
    found = Compose(engine, tmp_path)
    yield found
    found("down", "-v", "--rmi", "local", "-t", "0")


def test_a_project_from_up_to_down(compose: Compose) -> None:
    compose("up", "-d", "--wait", "web")
    assert compose("ps", "--format", "{{.Name}} {{.Health}}") == "second-web-1 healthy"
    assert compose("up", "--exit-code-from", "client", "client", status=3)
    assert "hello" in compose("logs", "--no-log-prefix", "client")
    compose("exec", "-T", "web", "sh", "-c", "exit 4", status=4)
    assert compose("run", "--rm", "-T", "--no-deps", "web", "echo", "once") == "once"
    assert compose("port", "web", "80").startswith("127.0.0.1:")
    compose("up", "built")
    assert "made" in compose("logs", "built")
    compose("cp", "web:/www/index.html", "got")
    assert (compose.folder / "got").read_text() == "hello\n"
    for command in ("pause", "unpause", "restart", "stop", "start", "top", "stats --no-stream", "images"):
        assert compose(*command.split(), *(() if command == "images" else ("web",))) is not None
    assert "second" in compose("ls")
    compose("down", "-v", "-t", "0")
    assert compose("ps", "-aq") == ""
    assert "second_data" not in compose.engine.ok("volume", "ls", "-q")


def test_watch_copies_what_is_changed_into_the_running_container(compose: Compose) -> None:
    compose("up", "-d", "--wait", "web")
    with open(compose.folder / "log", "wb") as log:
        watch = subprocess.Popen(
            [str(PROGRAM), "watch", "--no-up", "web"],
            cwd=compose.folder, env=compose.engine.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30 * SLOW
        while b"Watch enabled" not in (compose.folder / "log").read_bytes():
            assert time.monotonic() < deadline and watch.poll() is None, (compose.folder / "log").read_text()
            time.sleep(0.1)
        (compose.folder / "src" / "file").write_text("new")
        while compose.engine.docker("exec", "second-web-1", "cat", "/src/file").stdout != "new":
            assert time.monotonic() < deadline, (compose.folder / "log").read_text()
            time.sleep(0.1)
    finally:
        watch.terminate()
        watch.wait(30)
