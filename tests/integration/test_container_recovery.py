"""An engine that is killed, and the next one on the same root."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from support.engine import SLOW, EngineProcess


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for it, with a bound."""
    deadline = time.monotonic() + 20 * SLOW
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def names(engine: EngineProcess) -> list[str]:
    """"name state" of every container."""
    return engine.ok("ps", "-a", "--format", "{{.Names}} {{.State}}").split("\n")


def test_what_happens_while_there_is_no_engine(own: EngineProcess) -> None:
    counting = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"
    own.ok("run", "-d", "--name", "goes-on", "busybox", "sh", "-c", counting)
    go = f"{own.directory}/go"
    os.mkdir(go)
    until_told = "while [ ! -e /go/now ]; do usleep 20000; done"
    ends = (("ends", 42, ()), ("ends-rm", 1, ("--rm", "-v", "/data")), ("comes-back", 1, ("--restart", "on-failure")))
    for name, code, options in ends:
        script = f"{until_told}; exit {code}"
        own.ok("run", "-d", "--name", name, *options, "-v", f"{go}:/go", "busybox", "sh", "-c", script)
    own.ok("run", "-d", "--restart", "always", "--name", "by-hand", "busybox", "sleep", "100")
    own.ok("run", "-d", "--name", "stopped", "busybox", "sleep", "100")
    own.ok("stop", "-t", "0", "by-hand", "stopped")
    own.ok("create", "--name", "made", "--restart", "always", "busybox", "true")
    before = json.loads(own.ok("inspect", "goes-on"))[0]
    attached = subprocess.Popen(["docker", "attach", "goes-on"], stdout=subprocess.PIPE, env=own.environment())
    assert attached.stdout is not None
    attached.stdout.readline()
    pids = own.ok("inspect", "-f", "{{.State.Pid}}", "ends", "ends-rm", "comes-back").split()
    own.kill()
    os.close(os.open(f"{go}/now", os.O_CREAT))
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    lines = [int(attached.stdout.readline()) for _ in range(10)]
    assert lines == list(range(lines[0], lines[0] + 10))
    own.start()
    after = json.loads(own.ok("inspect", "goes-on"))[0]
    assert after["State"]["Pid"] == before["State"]["Pid"] and after["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert own.ok("exec", "goes-on", "echo", "hi") == "hi"
    shown = [int(line) for line in own.ok("logs", "goes-on").split()]
    assert shown == list(range(len(shown)))
    cause = json.loads(own.ok("inspect", "stopped"))[0]["State"]["Cause"]
    assert (cause["Kind"], cause["Signal"], cause["Forced"]) == ("stop", "SIGTERM", True), "why outlives the engine"
    wait_until(lambda: own.ok("inspect", "-f", "{{.State.Status}}", "ends") == "exited")
    ended = json.loads(own.ok("inspect", "ends"))[0]["State"]
    assert ended["ExitCode"] == 42
    assert ended["FinishedAt"] > ended["StartedAt"] > before["Created"]
    wait_until(lambda: "by-hand running" in names(own) and not any(name.startswith("ends-rm") for name in names(own)))
    assert "made created" in names(own)
    assert own.ok("volume", "ls", "-q") == ""
    assert json.loads(own.ok("inspect", "comes-back"))[0]["State"]["Status"] in ("running", "restarting")
    own.ok("stop", "-t", "0", "goes-on")
    attached.wait(10 * SLOW)
    own.ok("rm", "-f", "goes-on", "ends", "comes-back", "by-hand", "stopped", "made")


def test_an_engine_that_ends_properly_leaves_containers_running(own: EngineProcess) -> None:
    own.ok("run", "-d", "--name", "box", "-p", "127.0.0.1::80", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    port = own.ok("port", "box", "80").rpartition(":")[2]
    own.terminate()
    with urlopen(f"http://127.0.0.1:{port}/hostname", timeout=10 * SLOW) as answer:
        fetched = answer.read().decode()
    own.start()
    assert own.ok("exec", "box", "hostname") == fetched.strip()
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
    waits.communicate(b"go\n", 10 * SLOW)
    assert waits.returncode == 7
    own.ok("rm", "-f", "box")


def _health(engine: EngineProcess, name: str) -> str:
    return engine.ok("inspect", "-f", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", name)


def test_health_outlives_the_engine_and_not_the_run(own: EngineProcess) -> None:
    slow = ("--health-interval", "200ms", "--health-retries", "2")
    own.ok("run", "-d", "--name", "well", "--health-cmd", "true", *slow, "busybox", "sleep", "1000")
    held = Path(own.directory, "held")
    held.mkdir()
    failing = "while [ -e /held/now ]; do usleep 20000; done; false"
    patient = ("--health-timeout", "10m", "-v", f"{held}:/held")
    own.ok("run", "-d", "--name", "ill", "--health-cmd", failing, *slow, *patient, "busybox", "sleep", "1000")
    wait_until(lambda: _health(own, "well") == "healthy 0" and _health(own, "ill").startswith("unhealthy"))
    own.ok("update", "--restart", "no", "well")
    for end in (own.kill, own.terminate):
        end()
        own.start()
        # Before the first probe of this engine has ended, or right after: never "starting" again.
        shown = own.ok("ps", "--format", "{{.Names}} {{.Status}}")
        assert "(healthy)" in shown and "(unhealthy)" in shown and "starting" not in shown
        assert json.loads(own.ok("inspect", "ill"))[0]["State"]["Health"]["Log"]
    # The first probe of the new run may not end before we have looked.
    (held / "now").touch()
    own.ok("restart", "-t", "0", "ill")
    assert _health(own, "ill") == "starting 0"
    own.ok("rm", "-f", "well", "ill")
