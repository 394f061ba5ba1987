"""The example backend from Dockerfiles to a healthy API, with berth compose and with docker-compose; an engine killed meanwhile.

Takes some minutes: a base image is made from Debian's packages, three images are built, npm installs.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import EngineProcess

EXAMPLE = Path(__file__).parents[2] / "examples/backend"
PORT = 38471
URL = f"http://127.0.0.1:{PORT}"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, as a team would make one, on a port of its own."""
    folder = tmp_path_factory.mktemp("e2e") / "backend"
    shutil.copytree(EXAMPLE, folder)
    settings = folder / ".env"
    settings.write_text(settings.read_text().replace("API_PORT=3000", f"API_PORT={PORT}"))
    return folder


@pytest.fixture(scope="module")
def stack(project: Path) -> Iterator[EngineProcess]:
    """An engine on which the stack runs, built by `berth compose up --build`."""
    engine = EngineProcess()
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            done = engine.berth("image", "bootstrap", "debian:trixie", timeout=300)
            assert done.returncode == 0, done.stderr
            done = engine.berth("compose", "up", "--build", "-d", "--wait", timeout=700, cwd=str(project))
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + engine.log_text()
            yield engine
        finally:
            engine.shut_down()


def ask(path: str, body: object = None) -> object:
    """A request to the API and its answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def until_healthy(seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask("/health")
            return
        except OSError:
            assert time.monotonic() < deadline, "the API did not become healthy"
            time.sleep(0.2)


def test_the_api_keeps_notes_and_data_survives_down_and_up(stack: EngineProcess, project: Path) -> None:
    assert ask("/health") == {"status": "ok", "database": "up", "cache": "up"}
    note = ask("/notes", {"text": "hello"})
    assert isinstance(note, dict)
    assert note["text"] == "hello"
    found = ask(f"/notes/{note['id']}")
    assert isinstance(found, dict)
    assert found["from"] == "cache"
    assert stack.berth("compose", "down", cwd=str(project)).returncode == 0
    assert stack.ok("ps", "-aq") == ""
    begun = time.monotonic()
    assert stack.berth("compose", "up", "-d", "--wait", cwd=str(project), timeout=120).returncode == 0
    assert time.monotonic() - begun < 60
    notes = ask("/notes")
    assert isinstance(notes, list)
    assert note["id"] in [n["id"] for n in notes]


def test_packages_can_be_installed_in_a_default_container(stack: EngineProcess) -> None:
    script = "apt-get update -qq && apt-get install -y -qq --no-install-recommends ed >/dev/null && dpkg -s ed"
    done = stack.docker("run", "--rm", "debian:trixie", "sh", "-c", script, timeout=200)
    assert "Status: install ok installed" in done.stdout, done.stdout + done.stderr


def test_nothing_of_the_hosts_settings_is_in_the_images(stack: EngineProcess) -> None:
    for image in ("backend-db", "backend-cache", "backend-api"):
        config = stack.ok("inspect", "-f", "{{json .Config}}", image) + stack.ok("history", "--no-trunc", image)
        for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "berth-build"):
            assert name not in config
        run = stack.docker("run", "--rm", "--entrypoint", "sh", image, "-c", "ls -a / /run /dev /etc/apt/apt.conf.d; env")
        assert "berth" not in run.stdout
        assert "CERT" not in run.stdout


def test_an_engine_that_is_killed_stops_nothing(stack: EngineProcess, project: Path) -> None:
    loop = "while :; do getent hosts db >/dev/null && echo ok || echo fail; sleep 0.1; done"
    stack.ok("run", "-d", "--name", "names", "--network", "backend_backend", "debian:trixie", "sh", "-c", loop)
    stack.ok("run", "-d", "--name", "ends", "debian:trixie", "sh", "-c", "sleep 2; exit 42")
    time.sleep(0.5)
    stack.kill()
    for _ in range(15):
        assert ask("/health") == {"status": "ok", "database": "up", "cache": "up"}
        time.sleep(0.2)
    stack.start()
    assert stack.ok("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "ends") == "42 exited"
    answers = stack.ok("logs", "names").split()
    assert len(answers) > 20
    assert set(answers) == {"ok"}
    assert stack.ok("exec", "names", "echo", "inside") == "inside"
    services = stack.berth("compose", "ps", "--services", cwd=str(project)).stdout.split()
    assert sorted(services) == ["api", "cache", "db"]
    follow = stack.run("timeout", "2", "docker", "logs", "-f", "--tail", "3", "names")
    assert follow.stdout.count("ok") > 5
    stack.ok("rm", "-f", "names", "ends")
    assert ask("/health") == {"status": "ok", "database": "up", "cache": "up"}


def test_docker_compose_takes_over(stack: EngineProcess, project: Path) -> None:
    def compose(*arguments: str) -> str:
        done = stack.run("docker-compose", *arguments, timeout=180, cwd=str(project))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    assert "backend-api-1" in compose("ps")
    compose("down")
    assert stack.ok("ps", "-aq") == ""
    compose("up", "-d")
    until_healthy()
    before = stack.ok("ps", "-q", "--no-trunc", "--filter", "name=api")
    settings = project / "api.env"
    settings.write_text(settings.read_text().replace("CACHE_SECONDS=60", "CACHE_SECONDS=61"))
    compose("up", "-d")
    until_healthy()
    after = stack.ok("ps", "-q", "--no-trunc", "--filter", "name=api")
    assert before != after
    assert "ready to accept connections" in compose("logs", "db")
    assert "1 row" in compose("exec", "-T", "db", "psql", "-U", "notes", "-c", "select count(*) from notes")
    compose("up", "-d", "--scale", "cache=2")
    assert len(stack.ok("ps", "-q", "--filter", "label=com.docker.compose.service=cache").split()) == 2
    names = stack.berth("compose", "ps", "--format", "json", cwd=str(project)).stdout
    assert "backend_cache_2" in names
    assert stack.berth("compose", "down", "-v", cwd=str(project)).returncode == 0
    assert stack.ok("ps", "-aq") == ""
    assert "backend_db-data" not in stack.ok("volume", "ls", "-q")
