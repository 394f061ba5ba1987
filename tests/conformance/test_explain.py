"""`berth explain`: who or what ended a container, told in words and in facts."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from support.engine import EngineProcess


def explained(engine: EngineProcess, name: str) -> Any:
    return json.loads(engine.berth("explain", "--format", "json", name).stdout)


def wait_exited(engine: EngineProcess, name: str) -> None:
    engine.ok("wait", name)
    deadline = time.monotonic() + 20
    while engine.ok("inspect", "-f", "{{.State.Status}}", name).strip() != "exited":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_container_that_was_stopped_by_a_client(engine: EngineProcess) -> None:
    script = "trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done"
    engine.ok("run", "-d", "--name", "stopped", "busybox", "sh", "-c", script)
    engine.ok("stop", "stopped")
    found = explained(engine, "stopped")
    assert found["Cause"]["Kind"] == "stop" and found["Cause"]["Signal"] == "SIGTERM" and not found["Cause"]["Forced"]
    assert "Docker-Client/" in found["Cause"]["By"] and "docker, uid 0" in found["Cause"]["By"]
    assert found["ExitCode"] == 3
    said = engine.berth("explain", "stopped").stdout
    assert said.startswith("stopped was stopped by Docker-Client/") and "  | bye\n" in said, said


def test_a_container_that_did_not_heed_the_signal(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    engine.ok("stop", "-t", "0", "deaf")
    found = explained(engine, "deaf")
    assert (found["Cause"]["Kind"], found["Cause"]["Forced"], found["ExitCode"]) == ("stop", True, 137)
    assert any("SIGKILL followed" in text for text in found["Details"]), found
    assert any("--stop-timeout" in text for text in found["Advice"]), found


def test_a_container_that_was_killed_from_outside(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "shot", "busybox", "sleep", "60")
    os.kill(int(engine.ok("inspect", "-f", "{{.State.Pid}}", "shot")), signal.SIGKILL)
    wait_exited(engine, "shot")
    found = explained(engine, "shot")
    assert found["Cause"]["Kind"] == "signal" and found["Cause"]["Signal"] == "SIGKILL"
    assert "nobody asked berth for" in found["Summary"] and any("dmesg" in text for text in found["Advice"])
    assert json.loads(engine.ok("inspect", "shot"))[0]["State"]["Cause"]["Kind"] == "signal"


def test_a_reload_is_not_the_cause_of_a_later_end(engine: EngineProcess) -> None:
    script = "trap 'echo again' HUP; echo ready; while [ ! -e /go ]; do sleep 0.05; done; exit 4"
    engine.ok("run", "-d", "--name", "reloaded", "busybox", "sh", "-c", script)
    engine.ok("kill", "-s", "HUP", "reloaded")
    found = explained(engine, "reloaded")
    assert found["Status"] == "running" and found["Cause"] is None
    engine.ok("exec", "reloaded", "touch", "/go")
    wait_exited(engine, "reloaded")
    assert explained(engine, "reloaded")["ExitCode"] == 4


@pytest.mark.parametrize(
    ("command", "code", "advice"),
    [(["true"], 0, "foreground"), (["sh", "-c", "exit 9"], 9, "berth logs"), (["sh", "-c", "kill -SEGV $$"], 139, "crashed")],
)
def test_a_container_that_ended_by_itself(engine: EngineProcess, command: list[str], code: int, advice: str) -> None:
    engine.docker("run", "--init", "--name", "itself", "busybox", *command)
    found = explained(engine, "itself")
    assert found["ExitCode"] == code and any(advice in text for text in found["Advice"]), found


def test_a_container_that_could_not_be_started(engine: EngineProcess) -> None:
    engine.docker("run", "--name", "nothing", "busybox", "no-such-program")
    found = explained(engine, "nothing")
    assert "could not be started" in found["Summary"] and any("PATH" in text for text in found["Advice"]), found


def test_unknown_names_are_said_to_be_unknown(engine: EngineProcess) -> None:
    done = engine.berth("explain", "no-such-thing")
    assert done.returncode == 1 and "No such container: no-such-thing" in done.stderr
