"""The host's clock is set forward or back under engine, shims and containers: durations are what they were, nothing is lost or
comes in another order, and nobody takes a running container for a day old.

The clock of the engine's processes is libfaketime's: only the time of the day jumps, as when a clock is set.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.model.instant import parse_rfc3339
from support import leak
from support.engine import SLOW, EngineProcess

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root"),
    pytest.mark.skipif(LIBRARY is None, reason="sets the engine's clock: needs the Debian package libfaketime"),
]
DAY = 86400
SECONDS = 20.0 * SLOW


class Clock:
    """An engine's clock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "clock"
        self.environment = {
            "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(self._path), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        self.offset = 0
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """By so much from where it is."""
        self.offset += seconds
        new = self._path.with_suffix(".new")
        new.write_text(f"{self.offset:+d}\n")
        new.rename(self._path)

    def now(self) -> float:
        """What the engine takes the time for."""
        return time.time() + self.offset


class Place:
    """An engine and its clock."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock(directory)
        self.engine = EngineProcess(environment=self.clock.environment)
        self._pids: set[int] = set()

    def start(self) -> None:
        """Once more."""
        self.engine.start()
        assert self.engine.process is not None
        self._pids.add(self.engine.process.pid)

    def close(self) -> None:
        """The engine ends, and what the library keeps for each."""
        self.engine.shut_down()
        for pid in self._pids:
            for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
                Path("/dev/shm", name).unlink(missing_ok=True)

    def inspect(self, name: str) -> dict[str, Any]:
        """State."""
        found: dict[str, Any] = json.loads(self.engine.ok("inspect", "-f", "{{json .State}}", name))
        return found

    def events(self, *options: str) -> list[dict[str, Any]]:
        """Those that were."""
        text = self.engine.ok("events", "--until", f"{self.clock.now():.6f}", "--format", "{{json .}}", *options)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = Place(tmp_path_factory.mktemp("clock"))
    with leak.nothing_left(found.engine.snapshot):
        try:
            found.start()
            found.engine.add_busybox()
            yield found
        finally:
            found.close()


@pytest.fixture(autouse=True)
def clean(place: Place) -> Iterator[None]:
    yield
    place.clock.jump(-place.clock.offset)
    left = place.engine.ok("ps", "-aq").split()
    if left:
        place.engine.ok("rm", "-fv", *left)


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_run_takes_as_long_as_it_takes(place: Place, jump: int) -> None:
    engine = place.engine
    engine.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", "trap 'exit 4' TERM; sleep 1000 & wait")
    place.clock.jump(jump)
    assert re.fullmatch(r"Up (Less than a second|\d+ seconds?)", engine.ok("ps", "--format", "{{.Status}}"))
    engine.ok("stop", "one")
    state = place.inspect("one")
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)
    # When it began and ended is what the clock said.
    assert abs(instant(state["FinishedAt"]) - instant(state["StartedAt"]) - jump) < 60
    died = [event for event in all_events(place) if event["Action"] == "die"][-1]
    assert int(died["Actor"]["Attributes"]["execDuration"]) < 60
    told = engine.berth("explain", "one")
    assert re.search(r"It ran for (less than a second|\d+ seconds?) and", told.stdout), told


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_run_that_ends_without_an_engine_takes_as_long_as_it_takes(place: Place, jump: int) -> None:
    engine = place.engine
    engine.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", "sleep 1.5; exit 4")
    engine.kill()
    place.clock.jump(jump)
    time.sleep(2)
    place.start()
    state = place.inspect("one")
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)
    died = [event for event in all_events(place) if event["Action"] == "die"][-1]
    assert 1 <= int(died["Actor"]["Attributes"]["execDuration"]) < 60


def test_a_start_period_is_not_over_because_the_clock_was_set_forward(place: Place) -> None:
    engine = place.engine
    engine.ok(
        "run", "-d", "--name", "one", "--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1",
        "--health-start-period", "10m", "busybox", "sleep", "1000",
    )  # fmt: skip
    place.clock.jump(DAY)
    checks = "{{range .State.Health.Log}}{{json .Start}} {{end}}"
    times = lambda: [instant(at.strip('"')) for at in engine.ok("inspect", "-f", checks, "one").split()]  # noqa: E731
    eventually(lambda: max(times(), default=0) > place.clock.now() - 3600, "no check after the clock was set")
    time.sleep(0.3)
    assert engine.ok("inspect", "-f", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "one") == "starting 0"


def test_checks_go_on_after_the_clock_was_set_back(place: Place) -> None:
    engine = place.engine
    engine.ok(
        "run", "-d", "--name", "one", "--health-cmd", "test -e /good", "--health-interval", "100ms", "--health-retries", "1",
        "busybox", "sleep", "1000",
    )  # fmt: skip
    status = lambda: engine.ok("inspect", "-f", "{{.State.Health.Status}}", "one")  # noqa: E731
    eventually(lambda: status() == "unhealthy", "the check does not fail")
    place.clock.jump(-DAY)
    engine.ok("exec", "one", "touch", "/good")
    eventually(lambda: status() == "healthy", "the check does not go on")


def test_the_back_off_does_not_begin_anew_because_the_clock_was_set_forward(place: Place) -> None:
    """Each run is short, so each pause is twice the last: 0.1, 0.2, 0.4, 0.8, 1.6 seconds."""
    engine = place.engine
    id = engine.ok("run", "-d", "--name", "one", "--restart", "always", "busybox", "sh", "-c", "sleep 1; exit 1")
    told = lambda: [e for e in all_events(place) if e["Actor"]["ID"] == id]  # noqa: E731
    starts = lambda: [number for number, event in enumerate(told()) if event["Action"] == "start"]  # noqa: E731
    eventually(lambda: len(starts()) > 3, "it is not restarted")
    place.clock.jump(DAY)
    count = len(starts())
    eventually(lambda: len(starts()) > count, "it is not restarted after the clock was set")
    died, began = told()[starts()[count] - 1], told()[starts()[count]]
    assert died["Action"] == "die"
    assert began["timeNano"] - died["timeNano"] > 0.7e9, "the pause is that after a good run"


def test_logs_are_whole_and_in_order(place: Place) -> None:
    engine = place.engine
    script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"
    engine.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", script)
    follower = subprocess.Popen(
        ["docker", "logs", "-f", "one"], stdout=subprocess.PIPE, text=True, env=engine.environment(), stderr=subprocess.STDOUT
    )
    try:
        for jump in (DAY, -2 * DAY, DAY):
            time.sleep(0.3)
            place.clock.jump(jump)
        time.sleep(0.3)
        engine.ok("stop", "-t", "0", "one")
        followed = follower.communicate(timeout=SECONDS)[0]
    finally:
        follower.kill()
        follower.wait()
    whole = numbers(engine.ok("logs", "one"))
    assert whole == list(range(len(whole))) and len(whole) > 20
    assert numbers(followed) == whole
    # By times: what was written under a clock that was a day ahead is out, what came after it is in.
    between = numbers(engine.ok("logs", "--since", f"{time.time() - 3600:.0f}", "--until", f"{time.time() + 3600:.0f}", "one"))
    assert between[0] == 0 and between[-1] == whole[-1] and len(between) < len(whole)
    assert numbers(engine.ok("logs", "--until", f"{time.time() - 3600:.0f}", "one")), "written under a clock that was behind"


def test_events_come_in_order_and_none_is_lost_to_who_asks_from_the_last_one_on(place: Place) -> None:
    engine = place.engine
    engine.ok("volume", "create", "first")
    seen = all_events(place)[-1]
    assert seen["Actor"]["ID"] == "first"
    place.clock.jump(-DAY)
    engine.ok("volume", "create", "second")
    place.clock.jump(2 * DAY)
    engine.ok("volume", "create", "third")
    since = f"{seen['timeNano'] // 10**9}.{seen['timeNano'] % 10**9:09d}"
    names = [event["Actor"]["ID"] for event in place.events("--since", since, "--filter", "event=create")]
    # What a clock that was a day ahead has stamped earlier (other tests did) is later than `since`, too.
    assert names[-3:] == ["first", "second", "third"]
    engine.kill()
    place.start()
    names = [event["Actor"]["ID"] for event in place.events("--since", since, "--filter", "event=create")]
    assert names[-3:] == ["first", "second", "third"]
    engine.ok("volume", "rm", "first", "second", "third")


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_an_engine_that_starts_under_another_clock(place: Place, jump: int) -> None:
    engine = place.engine
    engine.ok("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
    engine.ok("run", "--name", "ended", "busybox", "sh", "-c", "true")
    engine.kill()
    place.clock.jump(jump)
    place.start()
    assert engine.ok("exec", "runs", "echo", "inside") == "inside"
    assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "ended") == "0"
    assert engine.ok("run", "--rm", "busybox", "echo", "again") == "again", "its image was taken for garbage"
    assert re.fullmatch(r"Up (Less than a second|\d+ seconds?)", engine.ok("ps", "--format", "{{.Status}}"))


def all_events(place: Place) -> list[dict[str, Any]]:
    """All that are kept, in the order in which they came, whatever their times."""
    return [json.loads(line) for line in Path(place.engine.root, "events.jsonl").read_text().splitlines()]


def numbers(text: str) -> list[int]:
    """Those of the lines."""
    return [int(line.split()[1]) for line in text.splitlines()]


def instant(text: str) -> float:
    """Seconds since the epoch."""
    return parse_rfc3339(text) / 1e9
