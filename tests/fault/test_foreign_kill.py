"""Another runtime's container whose birth or shim is killed while the binary works: started again or ended, and nothing left."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import SLOW, EngineProcess

SECONDS = 20.0 * SLOW
# Runs runc; where a file says so, it kills who called it (the birth, or at the end the shim) before or after that.
WRAPPER = """#!/bin/sh
for word; do case $word in create|start|delete|exec) verb=$word; break;; esac; done
[ -e {flags}/before-$verb ] && rm {flags}/before-$verb && kill -9 $PPID && exit 1
{runc} "$@"; code=$?
[ -e {flags}/after-$verb ] && rm {flags}/after-$verb && kill -9 $PPID
exit $code
"""


class Killer:
    """An engine whose runtime `killer` is runc with a dagger."""

    def __init__(self, engine: EngineProcess, flags: Path) -> None:
        self.engine = engine
        self.flags = flags

    def arm(self, when: str) -> None:
        (self.flags / when).touch()

    def used(self, when: str) -> bool:
        return not (self.flags / when).exists()

    def kept(self) -> list[str]:
        path = f"{self.engine.config.run}/oci/killer"
        return os.listdir(path) if os.path.isdir(path) else []


@pytest.fixture(scope="module")
def module_killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("runc is not installed (Debian package runc)")
    flags = tmp_path_factory.mktemp("flags")
    wrapper = tmp_path_factory.mktemp("bin") / "killer"
    wrapper.write_text(WRAPPER.format(flags=flags, runc=runc))
    wrapper.chmod(0o755)
    engine = EngineProcess("--add-runtime", f"killer={wrapper}")
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            engine.ok("run", "--rm", "busybox", "true")
            yield Killer(engine, flags)
        finally:
            engine.shut_down()


@pytest.fixture
def killer(module_killer: Killer) -> Iterator[Killer]:
    with leak.nothing_left(module_killer.engine.snapshot):
        yield module_killer
        left = module_killer.engine.ok("ps", "-aq").split()
        if left:
            module_killer.engine.ok("rm", "-f", *left)
        assert module_killer.kept() == []


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.parametrize("when", ["before-create", "after-create", "before-start", "after-start"])
def test_a_birth_that_is_killed_is_tried_again(killer: Killer, when: str) -> None:
    killer.arm(when)
    engine = killer.engine
    engine.ok("run", "-d", "--runtime", "killer", "--name", "one", "-p", "127.0.0.1::80", "busybox", "sleep", "1000")
    assert killer.used(when)
    id = engine.ok("inspect", "-f", "{{.Id}}", "one")
    assert killer.kept() == [id]
    assert engine.ok("exec", "one", "echo", "hi") == "hi"
    # Of the first attempt nothing runs beside the second.
    pids = {pid for line in engine.ok("top", "one", "-o", "pid").splitlines()[1:] for pid in line.split()}
    assert pids == {engine.ok("inspect", "-f", "{{.State.Pid}}", "one")}


@pytest.mark.parametrize("when", ["before-delete", "after-delete"])
def test_a_shim_that_is_killed_at_the_end(killer: Killer, when: str) -> None:
    engine = killer.engine
    engine.ok("run", "-d", "--runtime", "killer", "--name", "one", "busybox", "sleep", "1000")
    killer.arm(when)
    engine.ok("kill", "one")
    eventually(lambda: engine.ok("inspect", "-f", "{{.State.Status}}", "one") == "exited", "the end was not noticed")
    assert killer.used(when)
    assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "one") == "137"
    engine.ok("start", "one")
    assert engine.ok("exec", "one", "echo", "hi") == "hi"


@pytest.mark.parametrize("when", ["before-exec", "after-exec"])
def test_a_shim_that_is_killed_during_an_exec(killer: Killer, when: str) -> None:
    engine = killer.engine
    engine.ok("run", "-d", "--runtime", "killer", "--name", "one", "busybox", "sleep", "1000")
    killer.arm(when)
    assert engine.docker("exec", "one", "sleep", "1000").returncode != 0
    eventually(lambda: engine.ok("inspect", "-f", "{{.State.Status}}", "one") == "exited", "the container goes on without a shim")
    assert killer.kept() == []
