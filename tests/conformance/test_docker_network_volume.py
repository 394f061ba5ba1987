"""Networks and volumes with the unmodified docker CLI."""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from support.engine import EngineProcess

SERVE = "mkdir -p /w && echo $0 > /w/index.html && exec httpd -f -p 80 -h /w"


@pytest.fixture
def network(engine: EngineProcess) -> Iterator[str]:
    """A user-defined network."""
    engine.ok("network", "create", "--label", "a=b", "net-a")
    yield "net-a"
    left = engine.ok("ps", "-aq").split()
    if left:
        engine.ok("rm", "-fv", *left)
    engine.docker("network", "rm", "net-a")


def page(port: int | str, host: str = "127.0.0.1", seconds: float = 5.0) -> str:
    """What the published server answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/", timeout=2) as answer:
                text: str = answer.read().decode().strip()
                return text
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_names_and_aliases_resolve_in_a_network_of_its_own(engine: EngineProcess, network: str) -> None:
    engine.ok(
        "run", "-d", "--name", "server", "--network", network, "--network-alias", "nick", "busybox", "sh", "-c", SERVE, "hi"
    )
    done = engine.docker(
        "run", "--rm", "--network", network, "busybox", "sh", "-c", "ping -c 1 -W 5 server && ping -c 1 -W 5 nick"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert engine.docker("run", "--rm", "busybox", "ping", "-c", "1", "-W", "2", "server").returncode != 0


def test_published_ports(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "sh", "-c", SERVE, "published")
    port = engine.ok("port", "web", "80").rsplit(":", 1)[1]
    assert page(port) == "published"
    engine.ok("run", "-d", "--name", "open", "-P", "--expose", "80", "busybox", "sh", "-c", SERVE, "all")
    assert page(engine.ok("port", "open", "80").splitlines()[0].rsplit(":", 1)[1]) == "all"
    taken = engine.docker("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true")
    assert taken.returncode == 125
    assert "port is already allocated" in taken.stderr


def test_a_port_of_another_program_is_told(engine: EngineProcess) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = engine.docker("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "true")
    assert done.returncode == 125
    assert "address already in use" in done.stderr
    assert engine.ok("run", "--rm", "-p", f"127.0.0.1:{port}:80", "busybox", "echo", "free") == "free"


def test_connect_and_disconnect_a_running_container(engine: EngineProcess, network: str) -> None:
    engine.ok("run", "-d", "--name", "mover", "busybox", "sleep", "100")
    assert "eth1" not in engine.ok("exec", "mover", "ls", "/sys/class/net")
    engine.ok("network", "connect", "--alias", "other", network, "mover")
    assert "eth1" in engine.ok("exec", "mover", "ls", "/sys/class/net")
    assert engine.docker("run", "--rm", "--network", network, "busybox", "ping", "-c", "1", "-W", "5", "other").returncode == 0
    document = json.loads(engine.ok("network", "inspect", network))[0]
    assert [c["Name"] for c in document["Containers"].values()] == ["mover"]
    refused = engine.docker("network", "rm", network)
    assert refused.returncode == 1
    assert "has active endpoints" in refused.stderr
    engine.ok("network", "disconnect", network, "mover")
    assert "eth1" not in engine.ok("exec", "mover", "ls", "/sys/class/net")


def test_static_addresses_and_inspect(engine: EngineProcess) -> None:
    engine.ok("network", "create", "--subnet", "10.213.7.0/24", "--gateway", "10.213.7.254", "fixed")
    try:
        engine.ok("run", "-d", "--name", "at", "--network", "fixed", "--ip", "10.213.7.77", "busybox", "sleep", "100")
        assert engine.ok("inspect", "-f", "{{.NetworkSettings.Networks.fixed.IPAddress}}", "at") == "10.213.7.77"
        assert "10.213.7.254" in engine.ok("exec", "at", "ip", "route")
        again = engine.docker("run", "--rm", "--network", "fixed", "--ip", "10.213.7.77", "busybox", "true")
        assert again.returncode == 125
        assert "Address already in use" in again.stderr
        engine.ok("rm", "-f", "at")
    finally:
        engine.ok("network", "rm", "fixed")
    twice = engine.docker("network", "create", "bridge")
    assert twice.returncode == 1
    assert "operation is not permitted on predefined bridge network" in twice.stderr


def test_network_lists_and_prune(engine: EngineProcess, network: str) -> None:
    assert engine.ok("network", "ls", "--filter", "label=a=b", "--format", "{{.Name}} {{.Driver}}") == f"{network} bridge"
    assert {"bridge", "host", "none"} <= set(engine.ok("network", "ls", "--format", "{{.Name}}").split())
    assert network in engine.ok("network", "prune", "-f")
    unknown = engine.docker("network", "inspect", network)
    assert unknown.returncode == 1
    assert f"network {network} not found" in unknown.stderr


def test_join_the_network_of_another(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "main", "busybox", "sh", "-c", SERVE, "shared")
    ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc 127.0.0.1 80 | tail -n 1"
    assert engine.ok("run", "--rm", "--network", "container:main", "busybox", "sh", "-c", ask) == "shared"


def test_a_new_volume_gets_the_images_content(engine: EngineProcess) -> None:
    engine.ok("run", "--rm", "-v", "vol-copy:/home", "busybox", "sh", "-c", "echo more > /home/more")
    assert engine.ok("run", "--rm", "-v", "vol-copy:/x", "busybox", "ls", "/x").split() == ["more", "worker"]
    assert (
        engine.ok("run", "--rm", "--mount", "type=volume,source=vol-empty,target=/home,volume-nocopy", "busybox", "ls", "/home")
        == ""
    )
    engine.ok("volume", "rm", "vol-copy", "vol-empty")


def test_volumes_live_on_and_are_listed(engine: EngineProcess) -> None:
    assert engine.ok("volume", "create", "--label", "x=y", "vol-keep") == "vol-keep"
    engine.ok("run", "--name", "user", "-v", "vol-keep:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    used = engine.docker("volume", "rm", "vol-keep")
    assert used.returncode == 1
    assert "volume is in use" in used.stderr
    engine.ok("rm", "user")
    assert engine.ok("run", "--rm", "-v", "vol-keep:/d:ro", "busybox", "cat", "/d/file") == "kept"
    assert engine.ok("volume", "ls", "--filter", "label=x=y", "-q") == "vol-keep"
    mountpoint = engine.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "vol-keep")
    assert os.stat(f"{mountpoint}/file").st_uid == 0
    assert "vol-keep" in engine.ok("volume", "prune", "-af")
    assert engine.docker("volume", "inspect", "vol-keep").returncode == 1


def test_anonymous_volumes_go_with_their_container(engine: EngineProcess) -> None:
    before = set(engine.ok("volume", "ls", "-q").split())
    engine.ok("run", "--rm", "-v", "/data", "busybox", "true")
    assert set(engine.ok("volume", "ls", "-q").split()) == before
    engine.ok("run", "--name", "anon", "-v", "/data", "busybox", "touch", "/data/x")
    assert len(set(engine.ok("volume", "ls", "-q").split()) - before) == 1
    assert engine.ok("run", "--rm", "--volumes-from", "anon", "busybox", "ls", "/data") == "x"
    engine.ok("rm", "-v", "anon")
    assert set(engine.ok("volume", "ls", "-q").split()) == before


def test_users_other_than_root_can_write_their_volume(engine: EngineProcess) -> None:
    # An empty volume would get the image's owner again with the next container, as with Docker.
    prepare = "chown worker /home/worker && touch /home/worker/not-empty"
    engine.ok("run", "--rm", "-v", "vol-own:/home/worker", "busybox", "sh", "-c", prepare)
    script = "echo mine > /home/worker/f && stat -c %U /home/worker/f"
    assert engine.ok("run", "--rm", "-u", "worker", "-v", "vol-own:/home/worker", "busybox", "sh", "-c", script) == "worker"
    engine.ok("volume", "rm", "vol-own")
