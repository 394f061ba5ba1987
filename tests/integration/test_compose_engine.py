"""Compose against real engines: berth's own, and Debian's dockerd where it is installed. The same tests for both."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.client.address import Address
from berth.client.engine import Engine
from berth.errors import BerthError
from support.engine import busybox_tar

MAIN = [sys.executable, "-c", "from berth.cli.main import main; main()", "compose"]


@dataclass
class Target:
    """An engine with a busybox image."""

    socket: str

    @property
    def client(self) -> Engine:
        """A client."""
        return Engine(Address(path=self.socket))


def remove_stale(bridge: str) -> None:
    """Take away what a run that was killed has left. A run that goes on keeps its own."""
    if not os.path.exists(f"/sys/class/net/{bridge}"):
        return
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            in_use = f"\0--bridge\0{bridge}\0".encode() in entry.read_bytes()
            assert not in_use, f"another run of these tests uses the bridge {bridge}: process {entry.parent.name}"
    subprocess.run(["ip", "link", "del", bridge], check=True)


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Debian's engine with a root of its own."""
    binary = shutil.which("dockerd")
    if binary is None or os.geteuid() != 0:
        pytest.skip("dockerd is not installed, or we are not root")
    folder = tmp_path_factory.mktemp("dockerd")
    target = Target(f"{folder}/d.sock")
    bridge = "dckcmpt0"
    remove_stale(bridge)
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", "10.243.0.1/24", "dev", bridge], check=True)
    command = [
        binary,
        "--data-root",
        f"{folder}/root",
        "--exec-root",
        f"{folder}/exec",
        "--pidfile",
        f"{folder}/pid",
        "--bridge",
        bridge,
    ]
    # Without rules of its own in the host: what the scenarios need is within one bridge.
    command += ["--iptables=false", "--ip-forward=false", "-H", f"unix://{target.socket}"]
    command += ["--default-address-pool", "base=10.244.0.0/16,size=24"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                target.client.system.ping()
                break
            except BerthError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.1)
        for _ in target.client.images.import_tar(busybox_tar(), repo="busybox", tag="latest", changes=['CMD ["sh"]']):
            pass
        yield target
    finally:
        process.terminate()
        process.wait(30)
        subprocess.run(["ip", "link", "del", bridge], check=False)


@pytest.fixture(params=["berth", "dockerd"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each engine in turn."""
    if request.param == "berth":
        shared = request.getfixturevalue("shared_engine")
        # The resolver comes with the first network of a user's own: the state to compare with has it.
        shared.ok("network", "create", "warm")
        shared.ok("run", "--rm", "--network", "warm", "busybox", "true")
        shared.ok("network", "rm", "warm")
        return Target(request.getfixturevalue("engine").socket)
    found: Target = request.getfixturevalue("dockerd")
    return found


class Compose:
    """`berth compose` for one project."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{target.socket}", "COMPOSE_PROJECT_NAME": f"t{os.getpid()}"}
        self.name = self.environment["COMPOSE_PROJECT_NAME"]

    def write(self, text: str) -> None:
        """The project's file."""
        (self.folder / "compose.yaml").write_text(text)

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "", **environ: str) -> str:
        """Standard output; fails when the exit code is another one."""
        done = subprocess.run(
            [*MAIN, *arguments],
            cwd=self.folder,
            env={**self.environment, **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        self.errors = done.stderr
        return done.stdout

    def v1(self, *arguments: str) -> str:
        """The same with Debian's docker-compose 1.29."""
        done = subprocess.run(
            ["docker-compose", "-f", "compose.yaml", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def ids(self) -> dict[str, str]:
        """Container ids by name."""
        return {row["Name"]: row["ID"] for row in map(json.loads, self("ps", "-a", "--format", "json").splitlines())}


@pytest.fixture
def compose(target: Target, tmp_path: Path) -> Iterator[Compose]:
    """A project that is taken down afterwards, and has to leave nothing."""
    found = Compose(target, tmp_path)
    try:
        yield found
    finally:
        found("down", "-v", "--remove-orphans", "-t", "1")
        mark = {"label": [f"com.docker.compose.project={found.name}"]}
        assert target.client.containers.list(all=True, filters=mark) == []
        assert target.client.networks.list(filters=mark) == []


STACK = """
services:
  web:
    image: busybox
    init: true
    command: sh -c "echo hello from web; sleep 1000"
    environment: {V: "${V:-1}"}
    depends_on: {db: {condition: service_healthy}}
    volumes: ["/anonymous"]
    stop_grace_period: 1s
  db:
    image: busybox
    init: true
    command: sh -c "touch /ready; sleep 1000"
    healthcheck: {test: test -e /ready, interval: 300ms, timeout: 2s, retries: 20}
    networks: {default: {aliases: [database]}}
    volumes: ["data:/data"]
    stop_grace_period: 1s
volumes: {data: }
"""


def test_up_ps_exec_logs_and_down(compose: Compose) -> None:
    compose.write(STACK)
    compose("up", "-d")
    assert f" Container {compose.name}-db-1  Healthy" in compose.errors
    before = compose.ids()
    assert sorted(before) == [f"{compose.name}-db-1", f"{compose.name}-web-1"]
    assert "(healthy)" in compose("ps", "db")
    assert compose("logs", "--no-color", "web").strip() == "web-1  | hello from web"
    assert compose("exec", "-T", "web", "sh", "-c", "cat; exit 7", stdin="typed", code=7) == "typed"
    compose("exec", "-T", "web", "ping", "-c1", "-w3", "database")
    compose("exec", "-T", "web", "sh", "-c", "echo kept > /anonymous/f")

    compose("up", "-d")
    assert compose.ids() == before

    compose("up", "-d", V="2")
    after = compose.ids()
    assert after[f"{compose.name}-db-1"] == before[f"{compose.name}-db-1"]
    assert after[f"{compose.name}-web-1"] != before[f"{compose.name}-web-1"]
    assert compose("exec", "-T", "web", "sh", "-c", "cat /anonymous/f; echo $V", V="2").split() == ["kept", "2"]

    compose("down")
    assert compose.ids() == {}
    assert [
        v.name for v in compose.target.client.volumes.list(filters={"label": [f"com.docker.compose.project={compose.name}"]})
    ] == [f"{compose.name}_data"]


def test_wait_takes_a_one_shot_that_ended_with_0_and_refuses_one_that_failed(compose: Compose) -> None:
    compose.write("services:\n  a: {image: busybox, command: 'true'}\n  b: {image: busybox, command: \"sh -c 'exit ${CODE}'\"}\n")
    compose("up", "--wait", CODE="0")
    compose("up", "--wait", CODE="3", code=1)
    assert "exited (3)" in compose.errors


def test_a_dependency_that_fails_stops_the_rest(compose: Compose) -> None:
    compose.write(
        "services:\n  a: {image: busybox, command: [sh, -c, exit 4]}\n"
        "  b: {image: busybox, command: 'true', depends_on: {a: {condition: service_completed_successfully}}}\n"
    )
    compose("up", "-d", code=1)
    assert "didn't complete successfully: exit 4" in compose.errors
    states = {row["Service"]: row["State"] for row in map(json.loads, compose("ps", "-a", "--format", "json").splitlines())}
    assert states == {"a": "exited", "b": "created"}


def test_run_with_secrets_configs_and_exit_code(compose: Compose) -> None:
    (compose.folder / "s.txt").write_text("from a file")
    compose.write(
        "services:\n  a: {image: busybox, secrets: [s, e],"
        " configs: [{source: c, target: /etc/c, mode: 0400}], environment: {A: 1}}\n"
        "secrets: {s: {file: s.txt}, e: {environment: TOKEN}}\nconfigs: {c: {content: 'v=${TOKEN}'}}\n"
    )
    script = "cat /run/secrets/s /run/secrets/e /etc/c; stat -c %a /etc/c; echo $A$B; cat; exit 9"
    out = compose("run", "--rm", "-T", "-e", "B=2", "a", "sh", "-c", script, stdin="in", code=9, TOKEN="t")
    assert out == "from a filetv=t400\n12\nin"
    assert compose.ids() == {}


def test_build_inline_and_from_a_folder(compose: Compose) -> None:
    (compose.folder / "ctx").mkdir()
    (compose.folder / "ctx/Dockerfile").write_text("FROM busybox\nARG WHAT\nCOPY f /f\nRUN echo $WHAT >> /f\n")
    (compose.folder / "ctx/f").write_text("copied\n")
    compose.write(
        "services:\n  a: {build: {context: ctx, args: {WHAT: built}}, command: cat /f}\n"
        "  b: {build: {dockerfile_inline: 'FROM busybox'}, command: 'true'}\n"
    )
    try:
        compose("up", "--wait")
        assert compose("logs", "--no-log-prefix", "a").split() == ["copied", "built"]
        assert f"{compose.name}-a" in compose("images")
    finally:
        compose("down", "--rmi", "local", "-t", "1")
    with pytest.raises(BerthError, match="No such image"):
        compose.target.client.images.inspect(f"{compose.name}-a")


def test_attached_up_is_stopped_by_an_interrupt(compose: Compose) -> None:
    compose.write(
        "services:\n  a: {image: busybox, init: true, command: sh -c 'echo begun; sleep 1000', stop_grace_period: 1s}\n"
    )
    process = subprocess.Popen(
        [*MAIN, "up"], cwd=compose.folder, env=compose.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.rstrip())
        if "begun" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert seen == ["Attaching to a-1", "a-1  | begun"]
    assert "Gracefully stopping" in errors
    assert [row["State"] for row in map(json.loads, compose("ps", "-a", "--format", "json").splitlines())] == ["exited"]


def test_exit_code_from(compose: Compose) -> None:
    compose.write(
        "services:\n  a: {image: busybox, init: true, command: sleep 1000}\n"
        "  b: {image: busybox, command: sh -c 'echo out; exit 6'}\n"
    )
    out = compose("up", "--exit-code-from", "b", "-t", "1", code=6)
    assert "b-1  | out" in out


def test_attached_up_ends_when_everything_has_ended(compose: Compose) -> None:
    compose.write(
        "services:\n  a: {image: busybox, command: sh -c 'echo one'}\n  b: {image: busybox, command: sh -c 'echo two'}\n"
    )
    out = compose("up").splitlines()
    assert sorted(line for line in out if "|" in line) == ["a-1  | one", "b-1  | two"]
    assert "a-1 exited with code 0" in out


def test_scaling_ports_and_joined_namespaces(compose: Compose) -> None:
    compose.write(
        "services:\n"
        "  a: {image: busybox, init: true, command: httpd -f -p 80 -h /etc, ports: [80], stop_grace_period: 1s}\n"
        "  b: {image: busybox, init: true, command: sleep 1000, network_mode: 'service:c', stop_grace_period: 1s}\n"
        "  c: {image: busybox, init: true, command: httpd -f -p 81 -h /etc, volumes: [/v], stop_grace_period: 1s}\n"
        "  d: {image: busybox, init: true, command: sleep 1000, volumes_from: [c], stop_grace_period: 1s}\n"
    )
    compose("up", "-d", "--scale", "a=2")
    assert sorted(compose.ids()) == [f"{compose.name}-{name}" for name in ("a-1", "a-2", "b-1", "c-1", "d-1")]
    address = compose("port", "--index", "2", "a", "80").strip()
    assert address.startswith("0.0.0.0:") and address != compose("port", "--index", "1", "a", "80").strip()
    assert "root:" in compose("exec", "-T", "b", "wget", "-qO-", "http://127.0.0.1:81/passwd")
    compose("exec", "-T", "c", "touch", "/v/shared")
    compose("exec", "-T", "d", "test", "-e", "/v/shared")
    compose("up", "-d", "--scale", "a=1")
    assert f"{compose.name}-a-2" not in compose.ids()


def test_the_small_commands(compose: Compose) -> None:
    compose.write("services:\n  a: {image: busybox, init: true, command: sleep 1000, stop_grace_period: 1s}\n")

    def state() -> str:
        return str(json.loads(compose("ps", "-a", "--format", "json"))["State"])

    compose("create")
    assert state() == "created"
    compose("start")
    assert state() == "running" and "sleep 1000" in compose("top")
    compose("pause")
    assert state() == "paused"
    compose("unpause")
    compose("restart")
    assert state() == "running"
    (compose.folder / "f").write_text("content")
    compose("cp", "f", "a:/tmp/g")
    compose("cp", "a:/tmp/g", "h")
    assert (compose.folder / "h").read_text() == "content"
    compose("kill", "-s", "KILL")
    compose("wait", "a", code=1)
    assert state() == "exited"
    assert compose.name in compose("ls", "-a", "-q").split()
    compose("rm", "-f")
    assert compose.ids() == {}


needs_v1 = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose 1.29 is not installed")


@needs_v1
def test_docker_compose_1_sees_and_ends_what_berth_started(compose: Compose) -> None:
    compose.write("version: '3.8'\n" + STACK)
    compose("up", "-d")
    assert f"{compose.name}-web-1" in compose.v1("ps")
    assert "hello from web" in compose.v1("logs", "web")
    compose.v1("down")
    assert compose.ids() == {}


@needs_v1
def test_berth_sees_and_ends_what_docker_compose_1_started(compose: Compose) -> None:
    compose.write("version: '3.8'\n" + STACK)
    compose.v1("up", "-d")
    assert sorted(compose.ids()) == [f"{compose.name}_db_1", f"{compose.name}_web_1"]
    assert compose("logs", "web").strip() == "web_1  | hello from web"
    compose("down")
    assert compose.v1("ps", "-q").strip() == ""


def test_dry_run_changes_nothing(compose: Compose) -> None:
    compose.write(STACK)
    compose("--dry-run", "up", "-d")
    assert f"DRY-RUN MODE -  create container {compose.name}-web-1" in compose.errors
    assert compose.ids() == {}
