"""Unhealthy containers are ended or restarted, and the delays of restarts are what was asked for; seen by the unmodified CLI."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from support.engine import SLOW, EngineProcess, engine_with

PROBE = ("--health-cmd", "test ! -e /sick", "--health-interval", "100ms", "--health-retries", "1")
TURNS_SICK = "trap 'exit 7' TERM; echo born; sleep 0.3; touch /sick; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def quick() -> Iterator[EngineProcess]:
    """Every engine option is the default of the label of its name."""
    with engine_with("--health-cooldown", "0s") as engine:
        yield engine


def inspect(engine: EngineProcess, name: str) -> Any:
    return json.loads(engine.ok("inspect", name))[0]


def until(engine: EngineProcess, name: str, condition: Any, what: str) -> Any:
    deadline = time.monotonic() + 20 * SLOW
    while not condition(found := inspect(engine, name)):
        assert time.monotonic() < deadline, f"{name} did not {what}: {found['State']}, {found['RestartCount']} restarts"
        time.sleep(0.02)
    return found


def sick(engine: EngineProcess, name: str, *options: str) -> None:
    script = f"rm -f /sick; {TURNS_SICK}"
    engine.ok("run", "-d", "--name", name, *PROBE, *options, "busybox", "sh", "-c", script)


def test_without_a_word_nothing_happens_to_an_unhealthy_container(quick: EngineProcess) -> None:
    sick(quick, "left")
    until(quick, "left", lambda found: found["State"]["Health"]["Status"] == "unhealthy", "turn unhealthy")
    time.sleep(0.5)
    found = inspect(quick, "left")
    assert found["State"]["Running"] and found["RestartCount"] == 0
    quick.ok("rm", "-f", "left")


def test_restart_goes_beyond_the_restart_policy(quick: EngineProcess) -> None:
    sick(quick, "again", "--label", "berth.health-on-failure=restart")
    until(quick, "again", lambda found: found["RestartCount"] >= 2, "restart twice")
    assert quick.ok("logs", "again").splitlines().count("born") >= 2
    # Who stops it by hand means it.
    quick.ok("stop", "again")
    time.sleep(0.5)
    assert not inspect(quick, "again")["State"]["Running"]
    quick.ok("rm", "again")


def test_stop_means_stop_whatever_the_policy(quick: EngineProcess) -> None:
    sick(quick, "down", "--restart", "always", "--label", "berth.health-on-failure=stop")
    found = until(quick, "down", lambda found: found["State"]["Status"] == "exited", "stop")
    assert found["State"]["ExitCode"] == 7 and found["State"]["Cause"]["Kind"] == "health" and found["RestartCount"] == 0
    said = quick.berth("explain", "down").stdout
    assert said.startswith("down was ended because it was unhealthy.\n"), said
    quick.ok("rm", "down")


def test_kill_leaves_the_rest_to_the_policy(quick: EngineProcess) -> None:
    done = quick.berth(
        "run", "-d", "--name", "shot", *PROBE, "--health-on-failure", "kill", "busybox", "sh", "-c", f"rm -f /sick; {TURNS_SICK}"
    )
    assert done.returncode == 0, done.stderr
    found = until(quick, "shot", lambda found: found["State"]["Status"] == "exited", "die")
    assert found["State"]["ExitCode"] == 137 and found["State"]["Cause"]["Kind"] == "health"
    assert found["Config"]["Labels"] == {"berth.health-on-failure": "kill"}
    quick.ok("rm", "shot")


def test_within_the_cooldown_nothing_is_done(quick: EngineProcess) -> None:
    labels = ("--label", "berth.health-on-failure=restart", "--label", "berth.health-cooldown=3s")
    sick(quick, "calm", *labels)
    until(quick, "calm", lambda found: found["State"]["Health"]["Status"] == "unhealthy", "turn unhealthy")
    began = inspect(quick, "calm")["State"]["StartedAt"]
    found = until(quick, "calm", lambda found: found["State"]["StartedAt"] != began, "restart")
    passed = _seconds(found["State"]["StartedAt"]) - _seconds(began)
    assert passed >= 3, f"it was restarted after {passed} s"
    quick.ok("rm", "-f", "calm")


def test_delays_between_restarts(quick: EngineProcess) -> None:
    labels = ("--label", "berth.restart-delay=400ms", "--label", "berth.restart-factor=1", "--label", "berth.restart-window=1h")
    quick.ok("run", "-d", "--name", "loop", "--restart", "always", *labels, "busybox", "false")
    found = until(quick, "loop", lambda found: found["State"].get("NextStartAt") and found["RestartCount"] >= 2, "wait")
    delay = _seconds(found["State"]["NextStartAt"]) - _seconds(found["State"]["FinishedAt"])
    # With Docker's doubling it would be 1.6 s by now.
    assert 0.39 < delay < 1.5, delay
    quick.ok("rm", "-f", "loop")


def test_the_longest_delay(quick: EngineProcess) -> None:
    labels = ("--label", "berth.restart-delay=50ms", "--label", "berth.restart-max-delay=100ms")
    quick.ok("run", "-d", "--name", "fast", "--restart", "always", *labels, "busybox", "false")
    began = time.monotonic()
    until(quick, "fast", lambda found: found["RestartCount"] >= 8, "restart eight times")
    # Docker's delays add up to 25 s by then.
    assert time.monotonic() - began < 12 * SLOW
    quick.ok("rm", "-f", "fast")


def test_wrong_words_are_refused_by_name(quick: EngineProcess) -> None:
    done = quick.docker("create", "--label", "berth.health-on-failure=reboot", "busybox")
    assert done.returncode == 1
    assert "invalid berth.health-on-failure 'reboot': it is one of none, kill, restart, stop" in done.stderr


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text[:26] + "+00:00").timestamp()
