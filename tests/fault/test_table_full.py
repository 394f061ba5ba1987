"""No files left on the whole host (ENFILE), for the engine, its launcher or a shim: it is told, nobody else notices, no container
ends, and when there are some again everything works. Beside test_too_many_files, where a process has reached its own limit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fault.test_too_many_files import TOO_MANY, everything_works, everything_works_after_restart, launcher_of, pid_of, shim_of
from support import leak
from support.engine import EngineProcess
from support.table_full import TableFull

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the system calls are numbers of x86_64"),
]
IN_SYSTEM = f"{TOO_MANY} in system"


@dataclass
class Scarce:
    engine: EngineProcess
    table: TableFull


def ticks(pid: int) -> int:
    """Time of the processor, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture
def scarce() -> Iterator[Scarce]:
    """An engine with a container that runs."""
    table = TableFull()
    engine = EngineProcess("--pool-size", "0", prefix=table.prefix, environment=table.environment)
    try:
        with leak.nothing_left(engine.snapshot):
            engine.start()
            try:
                engine.add_busybox()
                program = "trap 'echo bye; exit 5' TERM; echo begun; while :; do sleep 0.1; done"
                engine.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", program)
                yield Scarce(engine, table)
                engine.ok("rm", "-f", *engine.ok("ps", "-aq").split())
            finally:
                engine.shut_down()
    finally:
        table.close()


def test_an_engine_that_gets_no_files_says_so_and_goes_on(scarce: Scarce) -> None:
    engine = scarce.engine
    with scarce.table.refusing(pid_of(engine)):
        for words in (
            ("run", "--rm", "busybox", "true"), ("exec", "one", "true"), ("create", "--name", "two", "busybox", "true"),
            ("logs", "one"), ("start", "two"), ("commit", "one", "committed"), ("cp", "one:/etc/passwd", "-"),
            ("network", "create", "net"), ("build", "-t", "built", "-"), ("top", "one"), ("stats", "--no-stream", "one"),
            ("volume", "create", "vessel"), ("import", "-", "other"), ("inspect", "one"), ("save", "busybox"), ("images",),
        ):  # fmt: skip
            done = engine.docker(*words, input=b"FROM busybox\nRUN true\n" if words[0] == "build" else b"\0" * 1024)
            said = (done.stdout + done.stderr).lower()
            assert "internal error" not in said, (words, done, engine.log_text())
            if done.returncode and words[0] != "start":
                # Of a refused attach the docker CLI tells the number only, and of an answer that broke off nothing: the log does.
                told = IN_SYSTEM in engine.log_text().lower().splitlines()[-1] if "unexpected eof" in said else IN_SYSTEM in said
                assert told or "unable to upgrade to tcp, received 50" in said, (words, done)
    assert scarce.table.count > 10, "nothing was refused"
    assert "Traceback" not in engine.log_text(), engine.log_text()
    for words in ("rm", "two"), ("network", "rm", "net"), ("volume", "rm", "vessel"), ("rmi", "committed", "other", "built"):
        engine.docker(*words)
    assert engine.ok("run", "--rm", "busybox", "echo", "again") == "again"
    # To remove a tree takes opening it: what could not be cleared away then goes when an engine starts, and nothing else.
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "one")
    engine.kill()
    engine.start()
    assert engine.ok("inspect", "-f", "{{.State.Pid}}", "one") == pid
    everything_works(engine)


def test_clients_wait_while_the_engine_cannot_accept_them(scarce: Scarce) -> None:
    engine = scarce.engine
    with scarce.table.refusing(pid_of(engine), accepts=True):
        command = ["docker", "inspect", "-f", "{{.Name}}", "one"]
        waiting = subprocess.Popen(command, env=engine.environment(), stdout=subprocess.PIPE, text=True)
        before = ticks(pid_of(engine))
        time.sleep(2)
        assert waiting.poll() is None, "it waits to be accepted"
        assert scarce.table.count and ticks(pid_of(engine)) - before < 50, "it spins"
    assert waiting.communicate(timeout=30)[0] == "/one\n"
    assert "Traceback" not in engine.log_text() and len(engine.log_text().splitlines()) < 10, engine.log_text()
    everything_works(engine)


def test_a_launcher_that_gets_no_files(scarce: Scarce) -> None:
    with scarce.table.refusing(launcher_of(scarce.engine)):
        for words in ("run", "--rm", "busybox", "true"), ("run", "--rm", "-p", "127.0.0.1::80", "busybox", "true"):
            done = scarce.engine.docker(*words)
            if done.returncode:
                assert IN_SYSTEM in done.stderr.lower(), done
        assert scarce.engine.ok("exec", "one", "echo", "inside") == "inside"
    everything_works(scarce.engine)


def test_a_shim_that_gets_no_files(scarce: Scarce) -> None:
    """Its container goes on, and what it leaves is on record."""
    engine = scarce.engine
    engine.ok("exec", "one", "true")
    with scarce.table.refusing(shim_of(engine, "one"), accepts=True):
        done = engine.docker("exec", "one", "echo", "inside")
        if done.returncode:
            assert IN_SYSTEM in (done.stdout + done.stderr).lower(), done
        assert engine.ok("inspect", "-f", "{{.State.Status}}", "one") == "running"
        assert engine.ok("run", "--rm", "busybox", "echo", "others") == "others"
    engine.ok("stop", "one")
    assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "one") == "5"
    assert engine.ok("logs", "one") == "begun\nbye"
    assert Path(engine.root).exists()
    engine.ok("start", "one")
    everything_works_after_restart(engine)
