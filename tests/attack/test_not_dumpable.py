"""A container's process has its final user and capabilities some instructions before it executes its program, while it still is
our interpreter, with our descriptors. Who is as powerful by then, another process of the container, must not look into it.

SECURITY row 1, held still: test_runtime_isolation and test_reach race for the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import SLOW, EngineProcess
from support.failpoints import Failpoints
from support.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root")
STEP = "launch.init.before-step"
# In the host's user and process namespaces nothing else is between the two.
OPTIONS = ("--userns=host", "--pid=host", "--network=none")
# Be as powerful as a container's root, and look at the process `argv[1]`.
LOOK = """
import os, sys
from berth.kernel.capability import capset
capset(0xA80425FB, 0xA80425FB, 0)
try:
    print(os.path.basename(os.readlink(f"/proc/{sys.argv[1]}/exe")))
except PermissionError:
    print("refused")
"""


def look(pid: int) -> str:
    """What program it is, seen by an equal."""
    done = subprocess.run([sys.executable, "-c", LOOK, str(pid)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Bench:
    """An engine whose containers can be held."""

    def __init__(self, directory: Path) -> None:
        self.points = Failpoints(str(directory))
        self.engine = EngineProcess("--pool-size", "0", environment=self.points.environment)

    def steps(self, *command: str) -> int:
        """How many steps the process of a command has."""
        self.points.clear()
        self.engine.ok(*command)
        return len([name for name, _ in self.points.hits() if name == STEP])

    def held_before_its_last_step(self, steps: int, *command: str) -> tuple[str, str]:
        """What an equal sees of the process then, and when it has executed its program."""
        self.points.clear()
        self.points.arm(STEP, f"hold @{steps}")
        work = threading.Thread(target=self.engine.docker, args=command)
        work.start()
        pid = self.points.await_hit(STEP, 20 * SLOW, steps)
        before = look(pid)
        self.points.clear()
        work.join(20 * SLOW)
        until(lambda: "python" not in os.readlink(f"/proc/{pid}/exe"))
        return before, look(pid)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    found = Bench(tmp_path_factory.mktemp("points"))
    try:
        found.engine.start()
        found.engine.add_busybox()
        yield found
        found.points.clear()
        found.engine.ok("rm", "-f", *found.engine.ok("ps", "-aq").split())
    finally:
        found.engine.shut_down()


def test_row_1_an_init_that_is_about_to_execute_cannot_be_looked_into(bench: Bench) -> None:
    command = ("run", "-d", *OPTIONS, "busybox", "sleep", "1000")
    assert bench.held_before_its_last_step(bench.steps(*command), *command) == ("refused", "busybox")


def test_row_1_an_exec_that_is_about_to_execute_cannot_be_looked_into(bench: Bench) -> None:
    bench.engine.ok("run", "-d", "--name", "box", *OPTIONS, "busybox", "sleep", "1000")
    command = ("exec", "-d", "box", "sleep", "1001")
    assert bench.held_before_its_last_step(bench.steps(*command), *command) == ("refused", "busybox")


def test_row_1_what_joins_a_container_cannot_be_looked_into(bench: Bench) -> None:
    """It is in the container's user namespace, whose owner has power over it, and clones an init that is as it is."""
    bench.engine.ok("run", "-d", "--name", "joined", "busybox", "sleep", "1000")
    bench.points.clear()
    bench.points.arm("launch.join.before-clone", "hold")
    command = ("run", "-d", "--network=none", "--pid=container:joined", "busybox", "sleep", "1000")
    work = threading.Thread(target=bench.engine.docker, args=command)
    work.start()
    seen = look(bench.points.await_hit("launch.join.before-clone", 20 * SLOW))
    bench.points.clear()
    work.join(20 * SLOW)
    assert seen == "refused"
