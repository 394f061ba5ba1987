"""An engine that is killed, and the next one on the same root."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from support import leak
from support.engine import EngineProcess


@pytest.fixture
def own() -> Iterator[EngineProcess]:
    """An engine that the test may kill."""
    engine = EngineProcess()
    with leak.nothing_left(engine.snapshot):
        engine.start()
        engine.add_busybox()
        yield engine
        engine.shut_down()


def test_what_happens_while_there_is_no_engine(own: EngineProcess) -> None:
    counting = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"
    own.ok("run", "-d", "--name", "goes-on", "busybox", "sh", "-c", counting)
    own.ok("run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 0.4; exit 42")
    own.ok("run", "-d", "--rm", "--name", "ends-rm", "-v", "/data", "busybox", "sh", "-c", "sleep 0.4; exit 1")
    own.ok("run", "-d", "--restart", "on-failure", "--name", "comes-back", "busybox", "sh", "-c", "sleep 0.4; exit 1")
    own.ok("run", "-d", "--restart", "always", "--name", "by-hand", "busybox", "sleep", "100")
    own.ok("stop", "-t", "0", "by-hand")
    own.ok("create", "--name", "made", "--restart", "always", "busybox", "true")
    before = json.loads(own.ok("inspect", "goes-on"))[0]
    attached = subprocess.Popen(["docker", "attach", "goes-on"], stdout=subprocess.PIPE, env=own.environment())
    assert attached.stdout is not None
    attached.stdout.readline()
    own.kill()
    time.sleep(0.8)
    lines = [int(attached.stdout.readline()) for _ in range(10)]
    assert lines == list(range(lines[0], lines[0] + 10))
    own.start()
    after = json.loads(own.ok("inspect", "goes-on"))[0]
    assert after["State"]["Pid"] == before["State"]["Pid"] and after["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert own.ok("exec", "goes-on", "echo", "hi") == "hi"
    shown = [int(line) for line in own.ok("logs", "goes-on").split()]
    assert shown == list(range(len(shown)))
    by_hand = json.loads(own.ok("inspect", "by-hand"))[0]["State"]["Cause"]
    assert (by_hand["Kind"], by_hand["Signal"], by_hand["Forced"]) == ("stop", "SIGTERM", True), "why outlives the engine"
    ended = json.loads(own.ok("inspect", "ends"))[0]["State"]
    assert (ended["Status"], ended["ExitCode"]) == ("exited", 42)
    assert ended["FinishedAt"] > ended["StartedAt"] > before["Created"]
    for _ in range(100):
        names = own.ok("ps", "-a", "--format", "{{.Names}} {{.State}}").split("\n")
        if "by-hand running" in names:
            break
        time.sleep(0.05)
    assert "made created" in names and "by-hand running" in names and not any(n.startswith("ends-rm") for n in names)
    assert own.ok("volume", "ls", "-q") == ""
    assert json.loads(own.ok("inspect", "comes-back"))[0]["State"]["Status"] in ("running", "restarting")
    own.ok("stop", "-t", "0", "goes-on")
    attached.wait(10)
    own.ok("rm", "-f", "goes-on", "ends", "comes-back", "by-hand", "made")


def test_an_engine_that_ends_properly_leaves_containers_running(own: EngineProcess) -> None:
    own.ok("run", "-d", "--name", "box", "-p", "127.0.0.1::80", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    port = own.ok("port", "box", "80").rpartition(":")[2]
    own.terminate()
    fetched = subprocess.run(["wget", "-qO-", f"http://127.0.0.1:{port}/hostname"], capture_output=True, timeout=10, check=True)
    own.start()
    assert own.ok("exec", "box", "hostname") == fetched.stdout.decode().strip()
    assert own.ok("port", "box", "80") == f"127.0.0.1:{port}"
    own.ok("rm", "-f", "box")


def test_execs_have_their_names_after_a_kill(own: EngineProcess) -> None:
    own.ok("run", "-d", "--name", "box", "busybox", "sleep", "100")
    environment = own.environment()
    waits = subprocess.Popen(
        ["docker", "exec", "-i", "box", "sh", "-c", "echo up; read line; exit 7"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert waits.stdout is not None and waits.stdout.readline() == b"up\n"
    ids = json.loads(own.ok("inspect", "-f", "{{json .ExecIDs}}", "box"))
    own.kill()
    own.start()
    assert json.loads(own.ok("inspect", "-f", "{{json .ExecIDs}}", "box")) == ids
    with own.client as client:
        found = client.execs.inspect(ids[0])
        assert found.running and found.pid
    # The client asks the new engine for the exit code when its stream, which the shim has kept, ends.
    waits.communicate(b"go\n", 10)
    assert waits.returncode == 7
    own.ok("rm", "-f", "box")
