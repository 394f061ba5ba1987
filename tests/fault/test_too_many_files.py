"""No descriptors left, in the engine, in the launcher or in a shim: whoever asks is told so, nobody else notices, no container
ends, and when there are some again everything works."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from berth.api.room import HEADROOM
from support import audit, leak
from support.engine import SLOW, EngineProcess

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root")
TOO_MANY = "too many open files"
SECONDS = 20.0 * SLOW


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    """One with a container that runs."""
    found = EngineProcess("--pool-size", "0")
    with leak.nothing_left(found.snapshot):
        found.start()
        try:
            found.add_busybox()
            program = "trap 'echo bye; exit 5' TERM; echo begun; while :; do sleep 0.1; done"
            found.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", program)
            yield found
            found.ok("rm", "-f", *found.ok("ps", "-aq").split())
        finally:
            found.shut_down()


def descriptors(pid: int) -> list[int]:
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def limited(pid: int, more: int) -> Iterator[None]:
    """The process may open `more` descriptors beyond those that it has (holes in their numbers not counted)."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = descriptors(pid)
    # The limit is one on numbers: there are as many below it as `more` leaves.
    limit = next(n for n in range(1, 1 << 16) if n - sum(fd < n for fd in taken) >= more and n > 3)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def pid_of(engine: EngineProcess) -> int:
    assert engine.process is not None
    return engine.process.pid


def launcher_of(engine: EngineProcess) -> int:
    children = Path(f"/proc/{pid_of(engine)}/task/{pid_of(engine)}/children").read_text().split()
    return next(int(pid) for pid in children if b"launcher" in Path(f"/proc/{pid}/cmdline").read_bytes())


def shim_of(engine: EngineProcess, name: str) -> int:
    init = engine.ok("inspect", "-f", "{{.State.Pid}}", name)
    return int(Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def everything_works(engine: EngineProcess) -> None:
    """The container is the same, and all that needs descriptors does what it should."""
    assert engine.ok("inspect", "-f", "{{.State.Status}}", "one") == "running"
    assert engine.ok("exec", "one", "echo", "inside") == "inside"
    assert engine.ok("run", "--rm", "busybox", "echo", "again") == "again"
    done = engine.docker("build", "-t", "built", "-", input=b"FROM busybox\nRUN echo more > /file\n")
    assert done.returncode == 0, done
    engine.ok("rmi", "built")
    audit.await_consistency(engine)
    engine.ok("stop", "one")
    assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "one") == "5"
    assert engine.ok("logs", "one") == "begun\nbye"


@pytest.mark.parametrize("more", [4, HEADROOM + 6, HEADROOM + 16])
def test_an_engine_without_descriptors_says_so_and_goes_on(engine: EngineProcess, more: int) -> None:
    """With a few left: what needs more is refused in words, or works; nothing ends, nothing is damaged."""
    with limited(pid_of(engine), more):
        for words in (
            ("run", "--rm", "busybox", "true"), ("exec", "one", "true"), ("create", "--name", "two", "busybox", "true"),
            ("logs", "one"), ("start", "two"), ("commit", "one", "committed"), ("cp", "one:/etc/passwd", "-"),
            ("network", "create", "net"), ("build", "-t", "built", "-"), ("top", "one"), ("stats", "--no-stream", "one"),
            ("volume", "create", "vessel"),
            ("import", "-", "other"), ("inspect", "one"),
        ):  # fmt: skip
            done = engine.docker(*words, input=b"FROM busybox\nRUN true\n" if words[0] == "build" else b"\0" * 1024)
            said = (done.stdout + done.stderr).lower()
            assert "internal error" not in said, (words, done)
            if done.returncode and words[0] != "start":
                # Of a refused attach the docker CLI tells the number only.
                assert TOO_MANY in said or "unable to upgrade to tcp, received 50" in said, (words, done)
    assert "Traceback" not in engine.log_text(), engine.log_text()
    for words in ("rm", "two"), ("network", "rm", "net"), ("volume", "rm", "vessel"), ("rmi", "committed", "other", "built"):
        engine.docker(*words)
    everything_works(engine)


def test_clients_wait_while_they_cannot_be_accepted_and_the_log_stays_short(engine: EngineProcess) -> None:
    clients = []
    with limited(pid_of(engine), 8):
        for _ in range(40):
            client = socket.socket(socket.AF_UNIX)
            client.connect(engine.socket)
            clients.append(client)
        waiting = subprocess.Popen(
            ["docker", "inspect", "-f", "{{.Name}}", "one"], env=engine.environment(), stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.5)
        assert waiting.poll() is None, "it waits to be accepted"
    for client in clients:
        client.close()
    assert waiting.communicate(timeout=SECONDS)[0] == "/one\n"
    assert engine.log_text().count("clients wait to be accepted") == 1 and "Traceback" not in engine.log_text()
    everything_works(engine)


def test_an_engine_that_starts_without_descriptors_ends_and_containers_go_on(engine: EngineProcess) -> None:
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "one")
    engine.kill()
    said = ""
    for limit in (14, 20, 28):
        engine._prefix = ("prlimit", f"--nofile={limit}:{limit}")
        Path(engine.log).unlink()
        engine.spawn()
        assert engine.process is not None
        deadline = time.monotonic() + SECONDS
        while engine.process.poll() is None and "is ready" not in engine.log_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        if engine.process.poll() is None:
            engine.kill()
        assert os.path.exists(f"/proc/{pid}"), f"an engine with {limit} descriptors has ended it\n{engine.log_text()}"
        said += engine.log_text()
    assert TOO_MANY in said.lower() and "Traceback" not in said, said
    engine._prefix = ()
    engine.start()
    assert engine.ok("inspect", "-f", "{{.State.Pid}}", "one") == pid
    everything_works(engine)


@pytest.mark.parametrize("more", [0, 3])
def test_a_launcher_without_descriptors(engine: EngineProcess, more: int) -> None:
    with limited(launcher_of(engine), more):
        for words in ("run", "--rm", "busybox", "true"), ("run", "--rm", "-p", "127.0.0.1::80", "busybox", "true"):
            done = engine.docker(*words)
            if done.returncode:
                assert TOO_MANY in done.stderr.lower(), done
        assert engine.ok("exec", "one", "echo", "inside") == "inside"
    everything_works(engine)


@pytest.mark.parametrize("more", [0, 2, 6])
def test_a_shim_without_descriptors(engine: EngineProcess, more: int) -> None:
    """An exec is refused, an attach too; the container does not notice, and its end is on record."""
    engine.ok("exec", "one", "true")
    with limited(shim_of(engine, "one"), more):
        done = engine.docker("exec", "one", "echo", "inside")
        if done.returncode:
            assert TOO_MANY in (done.stdout + done.stderr).lower(), done
        assert done.returncode or more > 2
        attached = subprocess.Popen(["docker", "attach", "--no-stdin", "--sig-proxy=false", "one"], env=engine.environment())
        time.sleep(0.3)
        attached.kill()
        attached.wait()
        assert engine.ok("inspect", "-f", "{{.State.Status}}", "one") == "running"
        assert engine.ok("run", "--rm", "busybox", "echo", "others") == "others"
        engine.ok("stop", "one")
        assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "one") == "5"
    assert engine.ok("logs", "one") == "begun\nbye"
    engine.ok("start", "one")
    everything_works_after_restart(engine)


def everything_works_after_restart(engine: EngineProcess) -> None:
    assert engine.ok("exec", "one", "echo", "inside") == "inside"


def test_a_shim_without_descriptors_ends_without_an_engine(engine: EngineProcess) -> None:
    """Its exit code is written down all the same."""
    init, shim = int(engine.ok("inspect", "-f", "{{.State.Pid}}", "one")), shim_of(engine, "one")
    engine.kill()
    with limited(shim, 0):
        os.kill(init, 15)
        eventually(lambda: not os.path.exists(f"/proc/{shim}") or "Z" in Path(f"/proc/{shim}/stat").read_text(), "the shim stays")
        engine.start()
        assert engine.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one") == "exited 5"


def test_who_knocks_at_a_shim_without_descriptors_waits_and_the_processor_does_not(engine: EngineProcess) -> None:
    shim = shim_of(engine, "one")
    engine.kill()

    def ticks() -> int:
        fields = Path(f"/proc/{shim}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    with limited(shim, 0):
        engine.spawn()
        time.sleep(2)
        before = ticks()
        time.sleep(2)
        assert ticks() - before < 50, "it spins"
    eventually(lambda: "is ready" in engine.log_text().rpartition("failpoints")[2], "the engine does not start")
    eventually(lambda: engine.docker("exec", "one", "true").returncode == 0, "the container cannot be reached")
    everything_works(engine)
