"""Kill -9 at every point of a launch that is made in advance: of a slot, of one that begins with its container, of its start.

The matrix of everything else (test_matrix) runs without a pool, since slots come by the points in their own time.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import SLOW, EngineProcess
from support.failpoints import Failpoints

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started"), pytest.mark.slow]
SECONDS = 20.0 * SLOW
MAKING = ("launch.setup.before-cgroup", "launch.setup.after-cgroup", "launch.setup.after-clone", "launch.setup.after-id-map")
PRIMING = ("launch.setup.after-sources", "launch.birth.before-files", "launch.birth.after-files", "launch.setup.after-limits")
STARTING = (
    "launch.request.before-send", "launch.setup.after-links", "launch.setup.after-exec", "launch.birth.before-run-file",
    "launch.birth.after-run-file", "launch.birth.after-shim-told", "launch.birth.after-answer", "launch.request.after-answer",
)  # fmt: skip
# Steps of init while it is primed, and after its start.
STEPS = (1, 3, 6, 9, 13)


class Bench:
    """An engine with a pool and failpoints."""

    def __init__(self, directory: Path) -> None:
        self.points = Failpoints(str(directory))
        self.engine = EngineProcess(environment=self.points.environment)

    def rest(self) -> None:
        """Nothing is armed, and the pool is full."""
        self.points.clear()
        self.engine.await_slots()

    def everything(self) -> set[str]:
        """What must be as before. The launcher is new with each engine."""
        assert self.engine.process is not None
        pid = self.engine.process.pid
        launcher = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {line for line in self.engine.snapshot() if not line.startswith(tuple(f"process {own} " for own in launcher))}

    def exit_code(self) -> str:
        return self.engine.ok("wait", "subject")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("points"))
    bench.engine.start()
    bench.engine.add_busybox()
    yield bench
    bench.engine.shut_down()


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    shared.rest()
    with leak.nothing_left(shared.everything):
        yield shared
        shared.points.clear()
        shared.engine.docker("rm", "-f", "subject")
        shared.rest()


def create(bench: Bench) -> None:
    bench.engine.ok("create", "--name", "subject", "busybox", "sh", "-c", "exit 7")


@pytest.mark.parametrize("point", MAKING)
def test_a_slot_that_dies_in_the_making_is_made_again(bench: Bench, point: str) -> None:
    bench.points.arm(point, "kill")
    # Takes the slot that there is; the next one comes by the point.
    create(bench)
    bench.points.await_hit(point, SECONDS)
    bench.points.release(point)
    bench.engine.ok("start", "subject")
    assert bench.exit_code() == "7"


@pytest.mark.parametrize("point", [*PRIMING, *(f"launch.init.before-step@{step}" for step in STEPS[:3])])
@pytest.mark.parametrize("victim", ["self", "engine"])
def test_a_slot_that_dies_before_the_start_of_its_container_is_not_missed(bench: Bench, point: str, victim: str) -> None:
    name, _, number = point.partition("@")
    at = f"@{number}" if number else ""
    bench.points.arm(name, ("kill" if victim == "self" else "hold") + at)
    create(bench)
    bench.points.await_hit(name, SECONDS, int(number or 1))
    if victim == "engine":
        bench.engine.kill()
    bench.points.clear()
    if victim == "engine":
        bench.engine.start()
    bench.engine.ok("start", "subject")
    assert bench.exit_code() == "7"


@pytest.mark.parametrize("point", [*STARTING, *(f"launch.init.before-step@{step}" for step in STEPS[3:])])
@pytest.mark.parametrize("victim", ["self", "engine"])
def test_a_start_from_a_slot_that_is_cut_off_happens_or_can_be_tried_again(bench: Bench, point: str, victim: str) -> None:
    name, _, number = point.partition("@")
    at = f"@{number}" if number else ""
    create(bench)
    bench.points.await_hit("launch.setup.after-limits", SECONDS)
    time.sleep(0.1 * SLOW)
    if number:
        # So many steps are behind it already.
        assert len([hit for hit, _ in bench.points.hits() if hit == name]) < int(number)
    bench.points.arm(name, ("kill" if victim == "self" else "hold") + at)
    tried: list[subprocess.CompletedProcess[str]] = []
    start = threading.Thread(target=lambda: tried.append(bench.engine.docker("start", "subject")))
    start.start()
    bench.points.await_hit(name, SECONDS, int(number or 1))
    of_engine = name.startswith("launch.request")
    if victim == "engine" and not of_engine:
        bench.engine.kill()
    bench.points.clear()
    start.join(SECONDS)
    assert bench.engine.process is not None
    if victim == "engine" or of_engine:
        if of_engine and victim == "engine":
            bench.engine.kill()
        bench.engine.process.wait()
        bench.engine.start()
        if bench.engine.ok("inspect", "-f", "{{.State.Status}}", "subject") == "created":
            bench.engine.ok("start", "subject")
    else:
        assert tried and tried[0].returncode == 0, tried
    assert bench.exit_code() == "7"
