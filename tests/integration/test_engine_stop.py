"""An engine that is stopped with its containers leaves nothing outside its root; one that is only ended leaves containers."""

from __future__ import annotations

import os
from pathlib import Path

from support import leak
from support.engine import EngineProcess


def outside(engine: EngineProcess) -> set[str]:
    """What the engine has outside its root, the parents of control groups and the run directory among it."""
    name = engine.config.name
    parents = {f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/{name}")}
    claims = {f"claim {path}" for path in Path("/run/berth-idranges").glob("*") if path.read_text() == engine.root}
    run = {f"run {engine.config.run}"} if os.path.exists(engine.config.run) else set()
    return parents | claims | run | engine.snapshot()


def test_stopping_with_containers_leaves_nothing() -> None:
    engine = EngineProcess()
    with leak.nothing_left(lambda: outside(engine)):
        engine.start()
        engine.add_busybox()
        engine.ok("network", "create", "other")
        engine.ok("run", "-d", "--name", "one", "-p", "127.0.0.1::80", "busybox", "sleep", "100")
        engine.ok("run", "-d", "--name", "two", "--network", "other", "busybox", "sleep", "100")
        assert len(outside(engine)) > 5
        engine.shut_down()


def test_sigterm_leaves_containers_running() -> None:
    engine = EngineProcess()
    engine.start()
    try:
        engine.add_busybox()
        engine.ok("run", "-d", "--name", "stays", "busybox", "sleep", "100")
        pid = int(engine.ok("inspect", "-f", "{{.State.Pid}}", "stays"))
        engine.terminate()
        assert os.path.exists(f"/proc/{pid}")
        engine.start()
        assert engine.ok("inspect", "-f", "{{.State.Pid}}", "stays") == str(pid)
    finally:
        engine.shut_down()
