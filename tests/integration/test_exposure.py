"""Whom published ports are open to: the engine's default address, what is said of it, and who gets through."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from support.engine import BIN, EngineProcess, engine_with

SERVE = ("busybox", "sh", "-c", "mkdir -p /w && echo hi > /w/index.html && exec httpd -f -p 80 -h /w")


@pytest.fixture(scope="module")
def careful() -> Iterator[EngineProcess]:
    with engine_with("--publish-address", "127.0.0.1", "--warn-exposure") as engine:
        yield engine


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


def published(engine: EngineProcess, name: str) -> tuple[str, int]:
    address, _, port = engine.ok("port", name, "80").rpartition(":")
    return address, int(port)


def gateway(engine: EngineProcess) -> str:
    """An address of this host that is not on its loopback."""
    return engine.ok("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")


def test_ports_without_an_address_are_for_this_host_alone(careful: EngineProcess) -> None:
    done = careful.docker("run", "-d", "--name", "quiet", "-p", "80", *SERVE)
    assert done.returncode == 0 and done.stderr == ""
    address, port = published(careful, "quiet")
    careful.ok("exec", "quiet", "sh", "-c", "until wget -qO- 127.0.0.1 >/dev/null 2>&1; do usleep 20000; done")
    assert address == "127.0.0.1" and connects("127.0.0.1", port) and not connects(gateway(careful), port)
    careful.ok("rm", "-f", "quiet")


def test_who_asks_for_all_addresses_gets_them_with_a_warning(careful: EngineProcess) -> None:
    done = careful.docker("run", "-d", "--name", "loud", "-p", "0.0.0.0::80", *SERVE)
    assert done.returncode == 0
    assert done.stderr == (
        "WARNING: port 80/tcp is open on all addresses of this host, whatever the host's firewall shows: "
        "give it the address 127.0.0.1 if only this host needs it\n"
    )
    _, port = published(careful, "loud")
    careful.ok("exec", "loud", "sh", "-c", "until wget -qO- 127.0.0.1 >/dev/null 2>&1; do usleep 20000; done")
    assert connects(gateway(careful), port)
    careful.ok("rm", "-f", "loud")


def test_ps_and_port_say_it(engine: EngineProcess) -> None:
    """An engine without these options: nothing is said that was not asked for."""
    done = engine.docker("run", "-d", "--name", "both", "-p", "127.0.0.1::80", "-p", "0.0.0.0::81", *SERVE)
    assert done.returncode == 0 and done.stderr == ""
    lines = engine.berth("port", "--exposure", "both").stdout.splitlines()
    assert [line.split()[0] + " " + line.split()[-1] for line in lines] == ["80/tcp (local)", "81/tcp (any)"]
    assert engine.berth("port", "both").stdout == engine.ok("port", "both") + "\n"
    assert engine.berth("ps", "--format", "{{.Names}} {{.Exposure}}").stdout == "both any\n"
    header, row = engine.berth("ps", "--exposure").stdout.splitlines()
    assert header.split()[-1] == "EXPOSURE" and row.split()[-1] == "any"
    engine.ok("rm", "-f", "both")


def test_what_is_no_address_is_refused() -> None:
    done = subprocess.run([str(BIN / "berthd"), "--ip", "localhost"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "localhost: give an IPv4 address, for example 127.0.0.1" in done.stderr
