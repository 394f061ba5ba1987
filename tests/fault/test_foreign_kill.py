"""Another runtime's container whose birth, shim or binary is killed while the binary works: started again or ended, and nothing
left. Kills at every point of our own code are in the matrix (test_matrix)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import SLOW, EngineProcess
from support.failpoints import Failpoints

SECONDS = 20.0 * SLOW
# Runs runc; where a file says so, it kills who called it (the birth, or at the end the shim) before or after that, or runc itself
# after some time.
WRAPPER = """#!/bin/sh
for word; do case $word in create|start|delete|exec) verb=$word; break;; esac; done
[ -e {flags}/before-$verb ] && rm {flags}/before-$verb && kill -9 $PPID && exit 1
if [ -e {flags}/during-$verb ]; then
    seconds=$(cat {flags}/during-$verb); rm {flags}/during-$verb
    {runc} "$@" <&0 & sleep $seconds; kill -9 $!; wait $!; exit $?
fi
{runc} "$@"; code=$?
[ -e {flags}/after-$verb ] && rm {flags}/after-$verb && kill -9 $PPID
exit $code
"""


class Killer:
    """An engine whose runtime `killer` is runc with a dagger."""

    def __init__(self, engine: EngineProcess, flags: Path, points: Failpoints) -> None:
        self.engine = engine
        self.flags = flags
        self.points = points

    def arm(self, when: str, seconds: str = "") -> None:
        (self.flags / when).write_text(seconds)

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
    points = Failpoints(str(tmp_path_factory.mktemp("points")))
    engine = EngineProcess("--add-runtime", f"killer={wrapper}", environment=points.environment)
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            engine.ok("run", "--rm", "busybox", "true")
            yield Killer(engine, flags, points)
        finally:
            engine.shut_down()


@pytest.fixture
def killer(module_killer: Killer) -> Iterator[Killer]:
    def everything() -> set[str]:
        return module_killer.engine.snapshot() | leak.other_runtimes(module_killer.engine.config.run)

    with leak.nothing_left(everything):
        yield module_killer
        left = module_killer.engine.ok("ps", "-aq").split()
        if left:
            module_killer.engine.ok("rm", "-f", *left)
        eventually(lambda: module_killer.kept() == [], "the runtime keeps something")


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
    eventually(lambda: killer.used(when), f"nobody came to {when}")
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
    eventually(lambda: killer.used(when), f"nobody came to {when}")
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
    eventually(lambda: killer.kept() == [], "the runtime keeps something")


@pytest.mark.parametrize("seconds", ["0.005", "0.03", "0.08"])
@pytest.mark.parametrize("verb", ["create", "start"])
def test_a_binary_that_is_killed_at_its_work(killer: Killer, verb: str, seconds: str) -> None:
    engine = killer.engine
    engine.ok("create", "--runtime", "killer", "--name", "one", "-p", "127.0.0.1::80", "busybox", "sleep", "1000")
    killer.arm(f"during-{verb}", seconds)
    tried = engine.docker("start", "one")
    eventually(lambda: killer.used(f"during-{verb}"), f"nobody came to {verb}")
    if tried.returncode:
        # Of a binary that says nothing, or what the shell around it says.
        assert "killer ended with" in tried.stderr or "Killed" in tried.stderr, tried
        eventually(lambda: killer.kept() == [], "the runtime keeps something")
        engine.ok("start", "one")
    assert engine.ok("exec", "one", "echo", "hi") == "hi"
    assert killer.kept() == [engine.ok("inspect", "-f", "{{.Id}}", "one")]


@pytest.mark.parametrize("seconds", ["0.005", "0.05"])
def test_a_binary_that_is_killed_at_an_exec(killer: Killer, seconds: str) -> None:
    engine = killer.engine
    engine.ok("run", "-d", "--runtime", "killer", "--name", "one", "busybox", "sleep", "1000")
    killer.arm("during-exec", seconds)
    tried = engine.docker("exec", "one", "sh", "-c", "echo out; exit 7")
    assert tried.returncode in (7, 126, 128) and killer.used("during-exec"), tried
    assert engine.ok("exec", "one", "echo", "hi") == "hi"
    assert [line.split()[-2:] for line in engine.ok("top", "one", "-o", "pid,args").splitlines()[1:]] == [["sleep", "1000"]]


@pytest.mark.parametrize("seconds", ["0.005", "0.03"])
def test_a_binary_that_is_killed_while_it_removes(killer: Killer, seconds: str) -> None:
    engine = killer.engine
    engine.ok("run", "-d", "--runtime", "killer", "--name", "one", "busybox", "sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait")
    killer.arm("during-delete", seconds)
    engine.ok("stop", "-t", "5", "one")
    eventually(lambda: killer.used("during-delete"), "it was not called to delete")
    assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "one") in ("5", "137")
    eventually(lambda: killer.kept() == [], "what the binary keeps of a container that has ended")
    engine.ok("start", "one")
    assert engine.ok("exec", "one", "echo", "hi") == "hi"


@pytest.mark.parametrize("point", ["foreign.make.after-create", "foreign.make.after-network"])
@pytest.mark.parametrize("runtime", ["killer", "crun"])
def test_a_launch_that_fails_after_the_binary_has_made_the_container(killer: Killer, runtime: str, point: str) -> None:
    if shutil.which(runtime) is None and runtime == "crun":
        pytest.skip("crun is not installed (Debian package crun)")
    engine = killer.engine
    engine.ok("create", "--runtime", runtime, "--name", "one", "busybox", "sleep", "1000")
    killer.points.clear()
    killer.points.arm(point, "error 5")
    tried = engine.docker("start", "one")
    killer.points.clear()
    assert tried.returncode != 0 and "nput/output error" in tried.stderr, tried
    assert not os.listdir(f"{engine.config.run}/oci/{runtime}")
    engine.ok("start", "one")
    assert engine.ok("exec", "one", "echo", "hi") == "hi"
