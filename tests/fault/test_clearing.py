"""Who waits for the end of a container does not wait for what is cleared away after it; who starts it again does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.kernel.process import start_time
from support import leak
from support.engine import SLOW, EngineProcess
from support.failpoints import Failpoints

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started"),
    pytest.mark.timeout(int(120 * SLOW)),
]
PATIENCE = 20 * SLOW


@pytest.fixture
def held() -> Iterator[tuple[EngineProcess, Failpoints]]:
    """An engine whose shims stop once they have told of an end, before they clear anything away."""
    directory = tempfile.mkdtemp(prefix="berth-points-")
    os.chmod(directory, 0o755)
    points = Failpoints(f"{directory}/points")
    engine = EngineProcess("--pool-size", "0", environment=points.environment)
    with leak.nothing_left(engine.snapshot):
        engine.start()
        engine.add_busybox()
        points.arm("shim.leave.after-socket", "hold")
        yield engine, points
        points.clear()
        engine.shut_down()
    shutil.rmtree(directory)


def groups(identifier: str) -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/*/{identifier}")]


def test_the_end_is_told_and_a_new_start_waits(held: tuple[EngineProcess, Failpoints]) -> None:
    engine, points = held
    identifier = engine.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", "exit 3")
    assert engine.ok("wait", "one") == "3"
    points.await_hit("shim.leave.after-socket", PATIENCE)
    assert groups(identifier), "its control group is there, since nobody has waited for it to go"
    done = threading.Event()

    def start() -> None:
        engine.ok("start", "one")
        done.set()

    starter = threading.Thread(target=start)
    starter.start()
    assert not done.wait(1), "it was started again beside what was left of it"
    points.release("shim.leave.after-socket")
    assert done.wait(PATIENCE)
    starter.join()
    assert engine.ok("wait", "one") == "3"
    engine.ok("rm", "one")


def test_it_can_be_removed_meanwhile_and_its_port_is_free(held: tuple[EngineProcess, Failpoints]) -> None:
    engine, points = held
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine.ok("run", "-d", "--name", "one", "-p", f"127.0.0.1:{port}:80", "busybox", "true")
    engine.ok("wait", "one")
    points.await_hit("shim.leave.after-socket", PATIENCE)
    engine.ok("rm", "one")
    assert engine.docker("inspect", "one").returncode
    engine.ok("run", "-d", "--name", "two", "-p", f"127.0.0.1:{port}:80", "busybox", "sleep", "1000")
    points.release("shim.leave.after-socket")
    engine.ok("rm", "-f", "two")


def test_an_engine_that_is_killed_meanwhile_goes_on_with_it(held: tuple[EngineProcess, Failpoints]) -> None:
    engine, points = held
    identifier = engine.ok("run", "-d", "--name", "one", "--restart", "on-failure:1", "busybox", "true")
    engine.ok("wait", "one")
    shim = points.await_hit("shim.leave.after-socket", PATIENCE)
    began, told = start_time(shim), engine.ok("inspect", "-f", "{{.State.FinishedAt}} {{.RestartCount}}", "one")
    engine.kill()
    points.clear()
    engine.start()
    assert engine.ok("inspect", "-f", "{{.State.FinishedAt}} {{.RestartCount}}", "one") == told
    deadline = time.monotonic() + PATIENCE
    while groups(identifier) or start_time(shim) == began or list(Path(engine.config.run, "shims").iterdir()):
        assert time.monotonic() < deadline, subprocess.run(["ls", f"{engine.config.run}/shims"], capture_output=True).stdout
        time.sleep(0.05)
    engine.ok("rm", "one")
