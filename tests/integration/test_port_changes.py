"""Ports that are published, and are so no longer, while the container runs: seen by who connects."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any

from support.engine import EngineProcess
from support.registry import free_port

SERVE = "mkdir -p /w && echo $0 > /w/index.html && exec httpd -f -p 80 -h /w"


def fetch(port: int, address: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{address}:{port}/", timeout=20) as answer:
        return str(answer.read().decode().strip())


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def can_bind(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def served(engine: EngineProcess, name: str, *options: str) -> None:
    engine.ok("run", "-d", "--name", name, *options, "busybox", "sh", "-c", SERVE, name)
    engine.ok("exec", name, "sh", "-c", "until wget -qO- 127.0.0.1 >/dev/null 2>&1; do usleep 20000; done")


def bindings(engine: EngineProcess, name: str) -> Any:
    return json.loads(engine.ok("inspect", "-f", "{{json .HostConfig.PortBindings}}", name))


def test_a_port_is_added_and_taken_away_while_the_container_runs(engine: EngineProcess) -> None:
    served(engine, "web")
    port = free_port()
    assert not reachable(port)
    done = engine.berth("port", "add", "web", f"127.0.0.1:{port}:80")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"80/tcp -> 127.0.0.1:{port}\n", "")
    assert fetch(port) == "web"
    assert not can_bind(port), "the host's port is held, so that no other program takes it"
    assert engine.ok("port", "web") == f"80/tcp -> 127.0.0.1:{port}"
    done = engine.berth("port", "rm", "web", f"127.0.0.1:{port}:80")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not reachable(port) and can_bind(port) and engine.ok("port", "web") == ""
    engine.ok("rm", "-f", "web")


def test_it_is_there_again_after_a_restart_and_gone_with_the_container(engine: EngineProcess) -> None:
    served(engine, "web", "--init")
    port = free_port()
    assert engine.berth("port", "add", "web", f"{port}:80").returncode == 0
    engine.ok("restart", "-t", "5", "web")
    engine.ok("exec", "web", "sh", "-c", "until wget -qO- 127.0.0.1 >/dev/null 2>&1; do usleep 20000; done")
    assert fetch(port) == "web"
    engine.ok("rm", "-f", "web")
    assert can_bind(port)


def test_of_a_stopped_container_it_counts_from_the_next_start_on(engine: EngineProcess) -> None:
    engine.ok("create", "--name", "later", "busybox", "sh", "-c", SERVE, "later")
    port = free_port()
    assert engine.berth("port", "add", "later", f"{port}:80").returncode == 0
    engine.ok("start", "later")
    engine.ok("exec", "later", "sh", "-c", "until wget -qO- 127.0.0.1 >/dev/null 2>&1; do usleep 20000; done")
    assert fetch(port) == "later"
    engine.ok("rm", "-f", "later")


def test_a_port_that_is_taken_changes_nothing(engine: EngineProcess) -> None:
    served(engine, "one", "-p", "127.0.0.1::80")
    served(engine, "two")
    port = int(engine.ok("port", "one", "80").rpartition(":")[2])
    free = free_port()
    done = engine.berth("port", "add", "two", f"127.0.0.1:{free}:80", f"127.0.0.1:{port}:81")
    assert done.returncode == 1 and f"Bind for 127.0.0.1:{port} failed: port is already allocated" in done.stderr
    assert engine.ok("port", "two") == "" and bindings(engine, "two") == {} and can_bind(free)
    assert fetch(port) == "one"
    engine.ok("rm", "-f", "one", "two")


def test_a_port_that_the_engine_chose_goes_by_its_number(engine: EngineProcess) -> None:
    served(engine, "web", "-p", "127.0.0.1::80", "-p", "127.0.0.1::80")
    first, second = (int(line.rpartition(":")[2]) for line in engine.ok("port", "web").splitlines())
    assert engine.berth("port", "rm", "web", f"{first}:80").returncode == 0
    assert not reachable(first) and fetch(second) == "web"
    assert len(bindings(engine, "web")["80/tcp"]) == 1
    assert engine.berth("port", "rm", "web", "80").returncode == 0
    assert not reachable(second) and bindings(engine, "web") == {}
    engine.ok("rm", "-f", "web")


def test_what_is_not_there_cannot_go(engine: EngineProcess) -> None:
    served(engine, "web", "-p", "127.0.0.1::80")
    port = engine.ok("port", "web", "80").rpartition(":")[2]
    done = engine.berth("port", "rm", "web", "81")
    assert done.returncode == 1
    assert done.stderr == "berth: port 81/tcp is not published: the container publishes 127.0.0.1:any port for 80/tcp\n"
    assert fetch(int(port)) == "web"
    done = engine.berth("port", "add", "web", "70000:80")
    assert done.returncode == 1 and "ports go from 1 to 65535" in done.stderr
    engine.ok("rm", "-f", "web")


def test_what_has_no_ports_of_its_own_says_so(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "bare", "--network", "none", "busybox", "sleep", "60")
    done = engine.berth("port", "add", "bare", "8080:80")
    assert done.stderr == "berth: container bare has no ports of its own to publish: its network mode is none\n"
    engine.ok("rm", "-f", "bare")


def test_it_survives_a_kill_of_the_engine(own: EngineProcess) -> None:
    served(own, "web")
    port, gone = free_port(), free_port()
    assert own.berth("port", "add", "web", f"127.0.0.1:{port}:80", f"127.0.0.1:{gone}:80").returncode == 0
    own.kill()
    assert fetch(port) == "web"
    own.start()
    assert fetch(port) == "web" and not can_bind(port)
    assert own.berth("port", "rm", "web", f"{gone}:80").returncode == 0
    assert not reachable(gone) and can_bind(gone) and fetch(port) == "web"


def test_a_container_that_could_not_publish_does_once_it_is_connected(engine: EngineProcess) -> None:
    engine.ok("network", "create", "--internal", "inner")
    engine.ok("network", "create", "outer")
    try:
        port = free_port()
        served(engine, "web", "--network", "inner", "-p", f"127.0.0.1:{port}:80")
        assert not reachable(port) and can_bind(port)
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            refused = engine.docker("network", "connect", "outer", "web")
            assert refused.returncode == 1 and "address already in use" in refused.stderr
            assert engine.ok("inspect", "-f", "{{range $n, $_ := .NetworkSettings.Networks}}{{$n}}{{end}}", "web") == "inner"
        engine.ok("network", "connect", "outer", "web")
        assert fetch(port) == "web" and not can_bind(port)
        assert engine.ok("port", "web") == f"80/tcp -> 127.0.0.1:{port}"
        engine.ok("network", "disconnect", "outer", "web")
        assert not reachable(port)
        engine.ok("network", "connect", "outer", "web")
        assert fetch(port) == "web"
        engine.ok("rm", "-f", "web")
        assert can_bind(port)
    finally:
        engine.ok("network", "rm", "inner", "outer")
