"""An engine that starts beside a shim which does not answer, because it is stopped: the engine is there in time, says which
container it is, ends none, and takes it over or learns of its end when the shim goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.engine import SLOW, EngineProcess

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root")
TRAP = "trap 'exit 7' TERM; echo begun; while true; do sleep 0.1; done"


class Stopped:
    """An engine with the containers `stopped` and `other`; `halt` stops the shim of the first and starts another engine."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        for name in ("stopped", "other"):
            engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", TRAP)
        self.id = engine.ok("inspect", "-f", "{{.Id}}", "stopped")
        self.pid = int(engine.ok("inspect", "-f", "{{.State.Pid}}", "stopped"))
        self.shim: int = json.loads(Path(engine.config.run, "shims", f"{self.id}.json").read_text())["shim"]

    def halt(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.engine.kill()
        os.kill(self.shim, signal.SIGSTOP)
        meanwhile()
        began = time.monotonic()
        self.engine.start()
        assert time.monotonic() - began < 15 * SLOW
        log = self.engine.log_text()
        assert f"container {self.id[:12]}: its shim (process {self.shim}) does not answer" in log

    def go_on(self) -> None:
        os.kill(self.shim, signal.SIGCONT)

    def state(self) -> str:
        return self.engine.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "stopped")

    def wait_for(self, state: str) -> None:
        deadline = time.monotonic() + 20 * SLOW
        while self.state() != state:
            assert time.monotonic() < deadline, self.state()
            time.sleep(0.05)


def is_over(pid: int) -> bool:
    """Whether a process has ended; that it is reaped is the host's business."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.fixture
def stopped(own: EngineProcess) -> Iterator[Stopped]:
    it = Stopped(own)
    yield it
    try:
        it.go_on()
    except ProcessLookupError:
        pass
    own.ok("rm", "-f", "stopped", "other")


def test_it_is_taken_over_when_its_shim_answers_again(stopped: Stopped) -> None:
    engine = stopped.engine
    stopped.halt()
    assert stopped.state() == "running 0" and engine.ok("logs", "stopped") == "begun"
    refused = engine.docker("exec", "stopped", "true")
    assert refused.returncode == 1 and f"process {stopped.shim}) does not answer" in refused.stderr, refused.stderr
    assert engine.ok("exec", "other", "echo", "fine") == "fine"
    stopped.go_on()
    deadline = time.monotonic() + 10 * SLOW
    while (done := engine.docker("exec", "stopped", "echo", "back")).returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.05)
    assert done.stdout == "back\n"
    assert int(engine.ok("inspect", "-f", "{{.State.Pid}}", "stopped")) == stopped.pid, "it was never ended"
    engine.ok("stop", "stopped")
    assert stopped.state() == "exited 7"


def test_an_end_without_an_engine_is_told_when_the_shim_goes_on(stopped: Stopped) -> None:
    stopped.halt(lambda: os.kill(stopped.pid, signal.SIGTERM))
    stopped.go_on()
    stopped.wait_for("exited 7")


def test_an_end_is_known_although_the_shim_never_goes_on(stopped: Stopped) -> None:
    stopped.halt()
    stopped.engine.ok("stop", "-t", "20", "stopped")
    assert stopped.state() == "exited 7"
    assert is_over(stopped.shim)
    assert stopped.engine.ok("start", "stopped") == "stopped"


def test_it_can_be_removed_by_force(stopped: Stopped) -> None:
    stopped.halt()
    stopped.engine.ok("rm", "-f", "stopped")
    assert is_over(stopped.pid)
    stopped.engine.ok("create", "--name", "stopped", "busybox")


def test_its_shim_may_be_killed_meanwhile(stopped: Stopped) -> None:
    stopped.halt()
    os.kill(stopped.shim, signal.SIGKILL)
    stopped.wait_for("exited 137")


def test_it_may_be_paused(stopped: Stopped) -> None:
    stopped.engine.ok("pause", "stopped")
    stopped.halt()
    assert stopped.state() == "paused 0"
    stopped.go_on()
    stopped.engine.ok("unpause", "stopped")
    assert stopped.state() == "running 0"
