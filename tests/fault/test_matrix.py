"""The failpoint matrix: kill -9 of whoever is there, at every point, and everything is whole again.

For each point: do the operation, kill at that point, start the engine again. Then what is recorded, what is on disk and what
the kernel has must be the same; the operation was done or it was not; tried again it works; a bystander has not noticed; and
when all is removed again, everything is as it was before.

One engine's data root serves all points. BERTH_FAULT_FULL=1 kills more of them at more points, for by hand.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from berth.errors import BerthError
from berth.registry.manifest import host_platform
from support import audit, leak
from support.engine import SLOW, EngineProcess
from support.failpoints import Failpoints, occurrences
from support.scenarios import SCENARIOS, Scenario, World
from support.zygote import Zygote
from unit.images.twins import tar_of
from unit.registry.fake import FakeRegistry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root"),
    pytest.mark.slow,
    pytest.mark.timeout(int(120 * SLOW)),
]
FULL = bool(os.environ.get("BERTH_FAULT_FULL"))
PATIENCE = 30.0 * SLOW
# What has these in its code lives only for the moment.
SELVES = (
    "launch.birth", "launch.setup", "launch.init", "launch.join", "exec.entrant", "foreign.make", "foreign.network",
    "foreign.undo", "foreign.binary",
)  # fmt: skip
# How many of init's steps the container of the scenario has.
INIT_STEPS = 12


@dataclass(frozen=True)
class Case:
    """At this point (the `number`-th time that somebody comes there) these are killed: "self" is whoever came there."""

    scenario: type[Scenario]
    point: str
    victims: tuple[str, ...]
    number: int = 1

    def __str__(self) -> str:
        return f"{self.scenario.__name__}-{self.point}-{'+'.join(self.victims)}{f'-{self.number}' if self.number > 1 else ''}"


def who_comes_to(point: str) -> str:
    """The process that has the point in its code; "self" is one that lives only for the moment."""
    if point.startswith(SELVES):
        return "self"
    return "shim" if point.startswith(("exec.enter", "foreign.exec", "foreign.end", "shim.", "log.")) else "engine"


def victims_at(point: str, scenario: type[Scenario]) -> list[tuple[str, ...]]:
    """Who is there to be killed."""
    who = who_comes_to(point)
    if point.startswith("foreign.") and who != "engine":
        # The second of two binaries that are called in the same way: only what differs most.
        if scenario.runtime == "crun" and not FULL:
            return [(who,), ("engine", "shim")]
        everybody = ("engine", "launcher", "shim")
        return [(who,), *[(victim,) for victim in everybody if victim != who], everybody]
    if who == "engine":
        return [("engine",), *([("launcher",), ("engine", "launcher")] if FULL else [])]
    if who == "shim":
        return [("shim",), ("engine",), *([("engine", "shim")] if FULL or point.startswith("shim.end") else [])]
    if point.startswith("exec."):
        return [("self",), ("engine",), ("shim",)]
    found: list[tuple[str, ...]] = [("self",), ("engine",), ("engine", "launcher", "shim")]
    if FULL or point.startswith("launch.birth") or point.endswith(("after-clone", "after-exec")):
        found.append(("shim",))
    return [*found, ("launcher",)] if FULL else found


def cases() -> Iterator[Case]:
    """Every point in each scenario that comes by there."""
    for point in occurrences():
        for scenario in SCENARIOS:
            if not any(fnmatch(point, pattern) for pattern in scenario.points):
                continue
            for victims in victims_at(point, scenario):
                for number in range(1, INIT_STEPS + 1) if point == "launch.init.before-step" else (1,):
                    if FULL or victims == ("self",) or number % 4 == 1:
                        yield Case(scenario, point, victims, number)


def test_every_point_is_visited() -> None:
    """A new failpoint needs a scenario that comes by."""
    assert set(occurrences()) == {case.point for case in cases()}


@contextmanager
def registry() -> Iterator[str]:
    """A registry with the image `app:1` and the index `app:multi`, in a thread; its host."""
    fake = FakeRegistry()
    _, own = fake.put_image("app", "1", [tar_of(first="x"), tar_of(made="y")])
    _, other = fake.put_image("app", "2", [tar_of(made="z")], architecture="s390x")
    fake.put_index("app", "multi", {f"linux/{host_platform().architecture}": own, "linux/s390x": other})
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with fake.serve():
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield fake.host
    finally:
        done.set()
        thread.join(10)


class Bench:
    """An engine with failpoints, and a container that has nothing to do with what is tried."""

    def __init__(self, directory: Path, zygote: Zygote, host: str) -> None:
        self.points = Failpoints(str(directory))
        # What is made in advance would come by the points in its own time, and is no container yet.
        self.engine = EngineProcess("--pool-size", "0", environment=self.points.environment, zygote=zygote)
        self.registry = host
        self.bystander = ""

    def begin(self, *, bystander: bool) -> None:
        """Start, with the test image."""
        self.engine.start()
        self.engine.add_busybox()
        if bystander:
            self.engine.ok("network", "create", "matrix-net")
            self.engine.ok("run", "-d", "--name", "bystander", "--network", "matrix-net", "busybox", "sleep", "100000")
            self.bystander = self.engine.ok("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "bystander")

    def everything(self) -> set[str]:
        """What must be as before when all has been removed again. The launcher is new with each engine; other engines may
        mount what they like."""
        assert self.engine.process is not None
        launchers = tuple(f"process {pid} " for pid in _children(self.engine.process.pid))
        found = {line for line in self.engine.snapshot() if not line.startswith(launchers)}
        own = (self.engine.directory, self.engine.config.run)
        strange = {line for line in found if line.startswith("mount ") and not any(place in line for place in own)}
        return found - strange | audit.content(self.engine) | leak.other_runtimes(self.engine.config.run)

    def run(self, case: Case) -> None:
        """One case, from beginning to end."""
        if case.scenario.runtime and not shutil.which(case.scenario.runtime):
            pytest.skip(f"{case.scenario.runtime} is not installed")
        self.points.clear()
        world = World(self.engine, registry=self.registry, killed=frozenset(case.victims), point=case.point)
        scenario = case.scenario()
        before = self.everything()
        scenario.prepare(world)
        self._strike(case, scenario, world)
        self.points.clear()
        if self.engine.process is not None and self.engine.process.poll() is not None:
            self.engine.start()
        audit.await_consistency(self.engine)
        scenario.verify(world)
        audit.await_consistency(self.engine)
        scenario.clean(world)
        self._check_bystander()
        deadline = time.monotonic() + 15 * SLOW
        while (left := before ^ self.everything()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left, "not as before:\n" + "\n".join(sorted(left))

    def _strike(self, case: Case, scenario: Scenario, world: World) -> None:
        """Do it and kill; returns when the operation has ended one way or the other."""
        assert self.engine.process is not None
        if case.point.startswith("engine."):
            scenario.act(self.engine.client, world)
            self.engine.kill()
            self.points.arm(case.point, "kill")
            self.engine.spawn()
            assert self.engine.process.wait(PATIENCE) == -signal.SIGKILL, self.engine.log_text()
            return
        action = "kill" if case.victims == (who_comes_to(case.point),) or case.victims == ("self",) else "hold"
        self.points.clear()
        self.points.arm(case.point, f"{action} @{case.number}")
        work = threading.Thread(target=self._act, args=(scenario, world))
        work.start()
        try:
            pid = self.points.await_hit(case.point, PATIENCE, case.number, work.is_alive)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; the operation ended with {world.error!r}") from world.error
        if action == "hold":
            for victim in self._pids(case.victims, case.point, pid):
                _kill(victim)
            self.points.release(case.point)
        if "engine" in case.victims:
            assert self.engine.process.wait(PATIENCE) == -signal.SIGKILL, self.engine.log_text()
        work.join(PATIENCE)
        assert not work.is_alive(), "the operation does not end"
        if "engine" not in case.victims and self.engine.process.poll() is not None:
            raise AssertionError(f"the engine has ended too: {self.engine.log_text()}")

    @staticmethod
    def _act(scenario: Scenario, world: World) -> None:
        try:
            with world.engine.client as client:
                scenario.act(client, world)
        except (BerthError, OSError, EOFError, AssertionError) as error:
            world.error = error

    def _pids(self, victims: tuple[str, ...], point: str, pid: int) -> list[int]:
        """Looked up before anybody is killed."""
        assert self.engine.process is not None
        engine = self.engine.process.pid
        launcher = next(child for child in _children(engine) if b"launcher" in Path(f"/proc/{child}/cmdline").read_bytes())
        shim = pid if who_comes_to(point) == "shim" else 0
        if not shim and "shim" in victims:
            shim = self._shim(point, launcher)
        found = {"engine": engine, "launcher": launcher, "shim": shim, "self": pid}
        return [found[victim] for victim in victims]

    def _shim(self, point: str, launcher: int) -> int:
        """The parent of the process that prepared the launch, or for an exec the one that has its container's init."""
        births = [pid for name, pid in self.points.hits() if name.startswith(("launch.setup", "launch.birth"))]
        if not births:
            return _parent(int(self.engine.ok("inspect", "-f", "{{.State.Pid}}", "subject")))
        found = _parent(births[-1])
        assert _parent(found) == launcher
        return found

    def _check_bystander(self) -> None:
        if self.bystander:
            now = self.engine.ok("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "bystander")
            assert now == self.bystander and os.path.exists(f"/proc/{now.split()[0]}")


def _kill(pid: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.close(fd)


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """What engines are forked from."""
    found = Zygote()
    yield found
    found.close()


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """The registry."""
    with registry() as found:
        yield found


@contextmanager
def benched(directory: Path, zygote: Zygote, host: str, *, bystander: bool) -> Iterator[Bench]:
    """An engine for points; nothing is left of it."""
    bench = Bench(directory, zygote, host)
    with ExitStack() as stack:
        stack.enter_context(leak.nothing_left(bench.engine.snapshot))
        stack.callback(_shut_down, bench)
        bench.begin(bystander=bystander)
        yield bench


def _shut_down(bench: Bench) -> None:
    bench.points.clear()
    process = bench.engine.process
    if process is None or process.poll() is not None:
        bench.engine.start()
    if bench.bystander:
        bench.engine.ok("rm", "-f", "bystander")
    bench.engine.shut_down()


class Benches:
    """One bench for all points. After a failure the next point gets another one, since who knows what that one is like."""

    def __init__(self, make: Callable[[], AbstractContextManager[Bench]]) -> None:
        self._make = make
        self._stack = ExitStack()
        self._bench: Bench | None = None

    def run(self, case: Case) -> None:
        """A case on a bench that is all right."""
        bench = self._bench = self._bench or self._stack.enter_context(self._make())
        try:
            bench.run(case)
        except BaseException:
            self._bench = None
            with suppress(BaseException):
                self.close()
            raise

    def close(self) -> None:
        """Take the bench down."""
        self._stack.close()


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote, host: str) -> Iterator[Benches]:
    """Where all points but those of an engine's first steps are tried."""
    found = Benches(lambda: benched(tmp_path_factory.mktemp("points"), zygote, host, bystander=True))
    yield found
    found.close()


@pytest.fixture
def fresh_bench(tmp_path: Path, zygote: Zygote, host: str) -> Iterator[Bench]:
    """An engine that has run nothing."""
    with benched(tmp_path, zygote, host, bystander=False) as found:
        yield found


@pytest.mark.parametrize("case", [case for case in cases() if not case.scenario.fresh], ids=str)
def test_killed_at(benches: Benches, case: Case) -> None:
    benches.run(case)


@pytest.mark.parametrize("case", [case for case in cases() if case.scenario.fresh], ids=str)
def test_the_first_killed_at(fresh_bench: Bench, case: Case) -> None:
    fresh_bench.run(case)
