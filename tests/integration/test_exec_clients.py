"""What an exec started ends with its client, where that is asked for; else it goes on, as with Docker."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from berth.errors import Conflict, NotFound
from support.engine import BIN, SLOW, EngineProcess


def running(engine: EngineProcess, name: str) -> set[str]:
    lines = engine.ok("top", name, "-o", "args").splitlines()[1:]
    return {line.split()[-1] for line in lines if line.startswith("sleep 30")}


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 15 * SLOW
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def box(engine: EngineProcess) -> str:
    engine.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    return "box"


def start_client(engine: EngineProcess, *command: str) -> subprocess.Popen[bytes]:
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=engine.environment())
    assert client.stdout is not None and client.stdout.readline() == b"ready\n"
    return client


def end_client(client: subprocess.Popen[bytes]) -> None:
    client.kill()
    client.communicate()


def berth_exec(*arguments: str) -> tuple[str, ...]:
    return (str(BIN / "berth"), "exec", *arguments)


def test_berth_exec_takes_its_processes_along(engine: EngineProcess, box: str) -> None:
    client = start_client(engine, *berth_exec(box, "sh", "-c", "(sleep 3001 &); echo ready; sleep 3002"))
    until(lambda: running(engine, box) == {"3001", "3002"}, "they run")
    end_client(client)
    until(lambda: running(engine, box) == set(), f"they go on: {running(engine, box)}")
    assert engine.ok("inspect", "-f", "{{.State.Running}}", box) == "true"


def test_what_does_not_heed_the_hang_up_is_killed(engine: EngineProcess, box: str) -> None:
    client = start_client(engine, *berth_exec("-i", box, "sh", "-c", "trap '' HUP; echo ready; while :; do sleep 3001; done"))
    until(lambda: running(engine, box) == {"3001"}, "it runs")
    end_client(client)
    until(lambda: running(engine, box) == set(), "it goes on")


def test_one_may_keep_them(engine: EngineProcess, box: str) -> None:
    client = start_client(engine, *berth_exec("--on-disconnect", "keep", box, "sh", "-c", "echo ready; sleep 3001"))
    end_client(client)
    time.sleep(3)
    assert running(engine, box) == {"3001"}


def test_the_docker_cli_leaves_them_behind_unless_the_container_says_otherwise(engine: EngineProcess, box: str) -> None:
    engine.ok("run", "-d", "--name", "strict", "--label", "berth.exec-on-disconnect=kill", "busybox", "sleep", "1000")
    clients = [start_client(engine, "docker", "exec", name, "sh", "-c", "echo ready; sleep 3001") for name in (box, "strict")]
    for client in clients:
        end_client(client)
    until(lambda: running(engine, "strict") == set(), "it goes on")
    time.sleep(1)
    assert running(engine, box) == {"3001"}


def test_a_half_closed_input_is_no_end(engine: EngineProcess, box: str) -> None:
    """`echo x | berth exec -i` closes its half at once, and waits for the output."""
    done = engine.berth("exec", "-i", box, "sh", "-c", "cat; sleep 1; echo late", input="early\n")
    assert (done.returncode, done.stdout) == (0, "early\nlate\n")


def in_a_terminal(engine: EngineProcess, box: str) -> tuple[int, int]:
    """A client whose exec has begun to sleep: its pid, and its terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(str(BIN / "berth"), berth_exec("-it", box, "sh", "-c", "echo ready; sleep 3001"), engine.environment())
    seen = b""
    while b"ready" not in seen:
        seen += os.read(fd, 1024)
    return pid, fd


def test_detaching_is_no_end(engine: EngineProcess, box: str) -> None:
    pid, fd = in_a_terminal(engine, box)
    os.write(fd, b"\x10\x11")
    os.waitpid(pid, 0)
    os.close(fd)
    time.sleep(3)
    assert running(engine, box) == {"3001"}


def test_a_terminal_that_is_closed_ends_its_shell(engine: EngineProcess, box: str) -> None:
    pid, fd = in_a_terminal(engine, box)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(fd)
    until(lambda: running(engine, box) == set(), "it goes on")


def test_an_exec_is_ended_by_its_id(engine: EngineProcess, box: str) -> None:
    engine.ok("exec", "-d", box, "sh", "-c", "(sleep 3001 &); sleep 3002")
    until(lambda: running(engine, box) == {"3001", "3002"}, "they run")
    (identifier,) = json.loads(engine.ok("inspect", "-f", "{{json .ExecIDs}}", box))
    with engine.client as client:
        client.raw("DELETE", f"/exec/{identifier}")
        until(lambda: running(engine, box) == set(), "they go on")
        until(lambda: not client.json("GET", f"/exec/{identifier}/json")["Running"], "it runs by its record")
        assert client.json("GET", f"/exec/{identifier}/json")["ExitCode"] == 129
        with pytest.raises(Conflict, match="exec process is not running"):
            client.raw("DELETE", f"/exec/{identifier}")
        with pytest.raises(NotFound, match="No such exec instance"):
            client.raw("DELETE", "/exec/feed")


def test_it_holds_while_the_engine_is_away(own: EngineProcess) -> None:
    own.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    client = start_client(own, *berth_exec("box", "sh", "-c", "echo ready; sleep 3001"))
    until(lambda: running(own, "box") == {"3001"}, "it runs")
    own.kill()
    end_client(client)
    own.start()
    until(lambda: running(own, "box") == set(), "it goes on")
