"""Whole projects by clients that others wrote, unmodified: docker-compose 1.29.2, the devcontainers CLI, and testcontainers with
PostgreSQL, Redis and its reaper. A test whose client is not installed is skipped: `make test-clients` installs them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leak, reaper
from support.engine import SLOW, EngineProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "backend"
REAPER = "testcontainers/ryuk:0.8.1"

COMPOSE = """
services:
  web:
    build: {context: ., args: {WHO: world}}
    image: project-web
    init: true
    environment: {GREETING: hello}
    depends_on: {db: {condition: service_healthy}}
    ports: ["127.0.0.1::80"]
    volumes: [".:/work:ro", "pages:/pages"]
  db:
    image: busybox
    init: true
    command: sh -c "sleep 0.5; touch /ready; echo serving; httpd -f -p 5432 -h /"
    healthcheck: {test: test -e /ready, interval: 300ms, timeout: 2s, retries: 30}
    networks: {default: {aliases: [database]}}
volumes: {pages: {}}
"""
DOCKERFILE = """
FROM busybox
ARG WHO
RUN mkdir /site && echo "$WHO" >/site/index.html
VOLUME /data
CMD ["sh", "-c", "echo $GREETING; httpd -f -p 80 -h /site"]
"""
DEVCONTAINER = {
    "build": {"dockerfile": "Dockerfile", "args": {"WHO": "dev"}},
    "remoteUser": "worker",
    "updateRemoteUserUID": False,
    "postCreateCommand": "echo made by $(id -un) >made",
    "remoteEnv": {"MODE": "dev"},
    "mounts": ["source=dev-cache,target=/cache,type=volume"],
}


@pytest.fixture
def compose(engine: EngineProcess, tmp_path: Path) -> Iterator[EngineProcess]:
    """The project's folder in `tmp_path`, taken down afterwards."""
    if shutil.which("docker-compose") is None:
        pytest.skip("needs docker-compose 1.29: apt-get install docker-compose")
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    yield engine
    engine.run("docker-compose", "-p", "project", "down", "-v", "--rmi", "all", "-t", "1", cwd=str(tmp_path))
    engine.add_busybox()
    engine.docker("builder", "prune", "-af")


@pytest.mark.timeout(400)
def test_docker_compose_1_29(compose: EngineProcess, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0, typed: str = "") -> str:
        done = compose.run("docker-compose", "-p", "project", *arguments, cwd=str(tmp_path), input=typed, timeout=120)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def page(port: str) -> bytes:
        with urllib.request.urlopen(f"http://{port.strip()}/", timeout=10) as answer:
            body: bytes = answer.read()
            return body

    assert "Successfully tagged project-web:latest" in run("build")
    run("up", "-d")
    states = {row["Names"]: row["Status"] for row in map(json.loads, compose.ok("ps", "--format", "json").splitlines())}
    assert sorted(states) == ["project_db_1", "project_web_1"] and "(healthy)" in states["project_db_1"]
    assert page(run("port", "web", "80")) == b"world\n"
    assert run("logs", "--no-color", "db").splitlines()[1:] == ["db_1   | serving"]
    assert run("exec", "-T", "web", "sh", "-c", "cat; ls /work; exit 7", code=7, typed="typed\n").splitlines()[0] == "typed"
    assert run("run", "--rm", "-T", "web", "sh", "-c", "wget -qO- http://database:5432/etc/group | head -1") == "root:x:0:\n"
    run("up", "-d", "--scale", "web=3")
    assert len(run("ps", "-q", "web").split()) == 3
    assert [page(run("port", f"--index={n}", "web", "80")) for n in (1, 2, 3)] == [b"world\n"] * 3
    # Its anonymous volume goes along when a container is made anew, which is where ContainerConfig is read.
    run("exec", "-T", "--index=1", "web", "sh", "-c", "echo kept >/data/f")
    before = run("ps", "-q", "web").split()
    run("up", "-d", "--scale", "web=1", "--force-recreate", "-t", "1", "web")
    after = run("ps", "-q", "web").split()
    assert len(after) == 1 and not set(after) & set(before)
    assert run("exec", "-T", "web", "cat", "/data/f") == "kept\n"
    run("stop", "-t", "1")
    run("start")
    assert "Up" in run("ps")
    run("down", "-v", "-t", "1")
    assert compose.ok("ps", "-aq") == "" and "project" not in compose.ok("network", "ls", "--format", "{{.Name}}")


def test_docker_compose_1_29_attached(compose: EngineProcess, tmp_path: Path) -> None:
    """It watches the events of its containers, in whatever version of the API the server offers, as the first one had them."""
    job = {"image": "busybox", "command": "sh -c 'echo begun; sleep 0.5; exit 3'"}
    (tmp_path / "docker-compose.yml").write_text(json.dumps({"version": "3", "services": {"job": job}}))
    up = ("docker-compose", "-p", "project", "up", "--no-color", "--exit-code-from", "job", "job")
    done = compose.run(*up, cwd=str(tmp_path), timeout=60)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "job_1  | begun" in done.stdout


def test_devcontainers(engine: EngineProcess, tmp_path: Path) -> None:
    program = shutil.which("devcontainer")
    if program is None:
        pytest.skip("needs @devcontainers/cli: make test-clients")
    folder = tmp_path / ".devcontainer"
    folder.mkdir()
    tmp_path.chmod(0o777)
    (folder / "devcontainer.json").write_text(json.dumps(DEVCONTAINER))
    prepare = "RUN echo ID=small >/etc/os-release && chown worker /home/worker\n"
    (folder / "Dockerfile").write_text(f"FROM busybox\nARG WHO\nENV WHO=$WHO\n{prepare}")
    place = ("--workspace-folder", str(tmp_path), "--user-data-folder", str(tmp_path / ".cli"))
    up = engine.run(program, "up", *place, timeout=120)
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout.splitlines()[-1])
    assert told["outcome"] == "success" and told["remoteUser"] == "worker"
    again = json.loads(engine.run(program, "up", *place, timeout=120).stdout.splitlines()[-1])
    assert again["containerId"] == told["containerId"]
    inside = engine.run(program, "exec", *place, "sh", "-c", "id -un; pwd; cat made; echo $MODE $WHO; ls -d /cache; exit 7")
    assert inside.returncode == 7, inside.stderr
    assert inside.stdout.split("\n")[:5] == ["worker", told["remoteWorkspaceFolder"], "made by worker", "dev dev", "/cache"]
    image = engine.ok("inspect", "-f", "{{.Image}}", told["containerId"])
    engine.ok("rm", "-f", told["containerId"])
    engine.ok("rmi", "-f", image)
    engine.ok("volume", "rm", "dev-cache")
    engine.ok("builder", "prune", "-af")


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with images of PostgreSQL, Redis and the reaper, made of Debian's packages."""
    for name in ("testcontainers", "sqlalchemy", "psycopg2", "redis"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}: make test-clients")
    folder = tmp_path_factory.mktemp("reaper")
    shutil.copy(reaper.__file__, folder / "reaper.py")
    install = "RUN apt-get update && apt-get install -y --no-install-recommends python3\n"
    (folder / "Dockerfile").write_text(f'FROM debian:trixie\n{install}COPY reaper.py /\nCMD ["python3", "/reaper.py"]\n')
    engine = EngineProcess()
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            done = engine.berth("image", "bootstrap", "debian:trixie", timeout=300)
            assert done.returncode == 0, done.stderr
            for name, place in (("postgres", EXAMPLE / "db"), ("redis", EXAMPLE / "cache"), (REAPER, folder)):
                engine.ok("build", "-q", "-t", name, str(place), timeout=400)
            yield engine
        finally:
            engine.shut_down()


DATABASES = """
import redis, sqlalchemy
from testcontainers.postgres import PostgresContainer
from testcontainers.redis import RedisContainer

with PostgresContainer("postgres") as postgres, RedisContainer("redis") as cache:
    with sqlalchemy.create_engine(postgres.get_connection_url()).begin() as connection:
        connection.execute(sqlalchemy.text("create table notes (id int, text text)"))
        connection.execute(sqlalchemy.text("insert into notes values (1, 'kept')"))
        print(connection.execute(sqlalchemy.text("select text from notes")).scalar())
    client = cache.get_client()
    client.set("key", "value")
    print(client.get("key").decode())
    print(postgres.exec(["id", "-un"]).output.decode().strip())
"""
KILLED = """
import os, signal
from testcontainers.redis import RedisContainer

RedisContainer("redis").start()
print("started", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(900)
def test_testcontainers_with_databases(databases: EngineProcess) -> None:
    done = databases.run(sys.executable, "-W", "ignore", "-c", DATABASES, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["kept", "value", "postgres"]
    assert _empty_within(databases, 20), databases.ok("ps", "-a")


@pytest.mark.timeout(900)
def test_the_reaper_removes_what_a_killed_test_run_leaves(databases: EngineProcess) -> None:
    """The engine's socket is mounted into the reaper's container, and its root there may use it."""
    command = [sys.executable, "-W", "ignore", "-c", KILLED]
    environment = databases.environment() | {"RYUK_RECONNECTION_TIMEOUT": "3s"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180 * SLOW, check=False)
    assert done.returncode == -9 and done.stdout == "started\n", done.stderr
    assert len(databases.ok("ps", "-q").split()) == 2
    assert _empty_within(databases, 30), databases.ok("ps", "-a")


def _empty_within(engine: EngineProcess, seconds: float) -> bool:
    deadline = time.monotonic() + seconds * SLOW
    while engine.ok("ps", "-aq"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True
