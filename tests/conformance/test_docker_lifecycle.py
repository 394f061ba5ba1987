"""Everything the docker CLI does to a container that exists."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from support.engine import SLOW, EngineProcess


def until(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds * SLOW
    while not check():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def state(engine: EngineProcess, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(engine.ok("inspect", name))[0]["State"]
    return found


def sleeper(engine: EngineProcess, name: str, *options: str) -> str:
    return engine.ok("run", "-d", "--name", name, *options, "busybox", "sleep", "1000")


def test_stop_start_restart_kill(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "ss", "busybox", "sh", "-c", "trap 'exit 5' TERM; while true; do sleep 0.1; done")
    time.sleep(0.3)
    assert engine.ok("stop", "ss") == "ss"
    assert state(engine, "ss")["ExitCode"] == 5
    assert engine.ok("start", "ss") == "ss"
    before = state(engine, "ss")["Pid"]
    engine.ok("restart", "-t", "3", "ss")
    assert state(engine, "ss")["Running"] is True
    assert state(engine, "ss")["Pid"] != before
    engine.ok("kill", "ss")
    until(lambda: state(engine, "ss")["Running"] is False)
    assert state(engine, "ss")["ExitCode"] == 137
    again = engine.docker("kill", "ss")
    assert again.returncode == 1
    assert "is not running" in again.stderr


def test_stop_kills_after_its_time(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; sleep 1000")
    time.sleep(0.2)
    begun = time.monotonic()
    engine.ok("stop", "-t", "1", "deaf")
    assert 0.9 < time.monotonic() - begun < 8
    assert state(engine, "deaf")["ExitCode"] == 137


def test_pause_and_unpause(engine: EngineProcess) -> None:
    sleeper(engine, "pp")
    engine.ok("pause", "pp")
    assert state(engine, "pp")["Paused"] is True
    assert "(Paused)" in engine.ok("ps", "--format", "{{.Status}}")
    refused = engine.docker("exec", "pp", "true")
    assert refused.returncode == 1
    assert "is paused, unpause the container before exec" in refused.stderr
    engine.ok("unpause", "pp")
    assert engine.ok("exec", "pp", "echo", "back") == "back"


def test_exec(engine: EngineProcess) -> None:
    sleeper(engine, "ee", "-e", "FROM=container")
    assert engine.ok("exec", "-e", "A=1", "-w", "/tmp", "ee", "sh", "-c", "echo $A $FROM $(pwd)") == "1 container /tmp"
    assert engine.ok("exec", "-u", "worker", "ee", "id", "-un") == "worker"
    assert engine.docker("exec", "ee", "sh", "-c", "exit 9").returncode == 9
    assert engine.docker("exec", "ee", "nosuch").returncode == 127
    assert engine.docker("exec", "-i", "ee", "cat", input="through").stdout == "through"
    assert engine.docker("exec", "-t", "ee", "tty").stdout.strip() == "/dev/pts/0"
    engine.ok("exec", "-d", "ee", "touch", "/tmp/detached")
    until(lambda: engine.docker("exec", "ee", "test", "-e", "/tmp/detached").returncode == 0)
    engine.ok("stop", "-t", "0", "ee")
    stopped = engine.docker("exec", "ee", "true")
    assert stopped.returncode == 1
    assert "is not running" in stopped.stderr


def test_attach_gets_what_comes(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "-i", "--name", "aa", "busybox", "sh", "-c", "read x; echo got $x; exit 4")
    # As with Docker, the end of a client's input ends its attachment: the pipe stays open until the answer is there.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["docker", "attach", "aa"], env=engine.environment(), **pipes) as client:  # type: ignore[call-overload]
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"got hello\n"
        assert client.wait(10) == 4


def test_logs_follow_tail_since(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "ll", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done; echo end")
    assert engine.ok("logs", "-f", "ll").split() == ["1", "2", "3", "end"]
    assert engine.ok("logs", "-n", "2", "ll").split() == ["3", "end"]
    stamped = engine.ok("logs", "-t", "ll").splitlines()
    assert all("T" in line.split()[0] and line.split()[0].endswith("Z") for line in stamped)
    assert engine.ok("logs", "--since", stamped[2].split()[0], "ll").split() == ["3", "end"]
    assert engine.ok("logs", "--until", stamped[0].split()[0], "ll").split() in ([], ["1"])


def test_top_stats_port_diff(engine: EngineProcess) -> None:
    sleeper(engine, "tt", "-p", "127.0.0.1::80")
    assert "sleep 1000" in engine.ok("top", "tt")
    row = json.loads(engine.ok("stats", "--no-stream", "--format", "json", "tt"))
    assert row["Name"] == "tt"
    assert row["PIDs"] == "1"
    assert engine.ok("port", "tt").startswith("80/tcp -> 127.0.0.1:")
    engine.ok("exec", "tt", "sh", "-c", "touch /new; rm /etc/group; echo x >> /etc/passwd")
    assert set(engine.ok("diff", "tt").splitlines()) >= {"A /new", "D /etc/group", "C /etc/passwd", "C /etc"}


def test_rename_and_lookup(engine: EngineProcess) -> None:
    identifier = sleeper(engine, "old")
    engine.ok("rename", "old", "new")
    assert engine.ok("inspect", "-f", "{{.Id}}", "new") == identifier
    assert engine.ok("inspect", "-f", "{{.Name}}", identifier[:6]) == "/new"
    gone = engine.docker("inspect", "--type", "container", "old")
    assert gone.returncode == 1
    assert "No such container: old" in gone.stderr


def test_copy_both_ways(engine: EngineProcess) -> None:
    for name, running in (("running", True), ("stopped", False)):
        engine.ok("create" if not running else "run", *(["-d"] if running else []), "--name", name, "busybox", "sleep", "1000")
        folder = f"{engine.directory}/{name}"
        subprocess.run(["mkdir", "-p", f"{folder}/in/deep"], check=True)
        with open(f"{folder}/in/deep/file", "w", encoding="ascii") as file:
            file.write("content")
        engine.ok("cp", f"{folder}/in", f"{name}:/tmp/copied")
        engine.ok("cp", f"{name}:/tmp/copied", f"{folder}/out")
        with open(f"{folder}/out/deep/file", encoding="ascii") as file:
            assert file.read() == "content"
        missing = engine.docker("cp", f"{name}:/none", folder)
        assert missing.returncode == 1
        assert "Could not find the file /none" in missing.stderr


def test_commit_export_import(engine: EngineProcess) -> None:
    sleeper(engine, "cc")
    engine.ok("exec", "cc", "sh", "-c", "echo kept > /kept; rm /etc/group")
    engine.ok("commit", "-m", "why", "-c", "ENV A=b", "cc", "committed:1")
    assert (
        engine.ok("run", "--rm", "committed:1", "sh", "-c", "cat /kept; echo $A; test -e /etc/group || echo gone")
        == "kept\nb\ngone"
    )
    assert "why" in engine.ok("history", "--format", "{{.Comment}}", "committed:1")
    exported = subprocess.run(["docker", "export", "cc"], capture_output=True, check=True, env=engine.environment()).stdout
    engine.ok("import", "-", "imported:1", input=exported)
    assert engine.ok("run", "--rm", "imported:1", "cat", "/kept") == "kept"
    engine.ok("rm", "-f", "cc")
    engine.ok("rmi", "committed:1", "imported:1")


def test_restart_policy(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "rr", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 1")
    until(lambda: state(engine, "rr")["Status"] == "exited")
    assert json.loads(engine.ok("inspect", "rr"))[0]["RestartCount"] == 2


def test_health(engine: EngineProcess) -> None:
    sleeper(engine, "hh", "--health-cmd", "test -e /ok", "--health-interval", "200ms", "--health-retries", "2")
    until(lambda: state(engine, "hh")["Health"]["Status"] == "unhealthy")  # type: ignore[index]
    engine.ok("exec", "hh", "touch", "/ok")
    until(lambda: state(engine, "hh")["Health"]["Status"] == "healthy")  # type: ignore[index]
    assert "(healthy)" in engine.ok("ps", "--format", "{{.Status}}")


def test_events(engine: EngineProcess) -> None:
    since = str(time.time())
    engine.ok("run", "--rm", "--name", "ev", "busybox", "true")
    time.sleep(0.2)
    events = engine.ok("events", "--since", since, "--until", str(time.time()), "--format", "{{.Type}} {{.Action}}").splitlines()
    wanted = ["container create", "container attach", "network connect", "container start", "container die", "container destroy"]
    assert [e for e in events if e in wanted] and set(wanted) <= set(events)


def test_remove_refuses_a_running_one(engine: EngineProcess) -> None:
    sleeper(engine, "busy")
    refused = engine.docker("rm", "busy")
    assert refused.returncode == 1
    assert "container is running" in refused.stderr
    engine.ok("rm", "-f", "busy")
    assert engine.docker("rm", "busy").returncode == 1


def test_prune(engine: EngineProcess) -> None:
    engine.ok("run", "--name", "done", "busybox", "true")
    assert "Total reclaimed space" in engine.ok("container", "prune", "-f")
    assert engine.ok("ps", "-aq") == ""


def test_info_version_df(engine: EngineProcess) -> None:
    assert engine.ok("info", "--format", "{{.ServerVersion}}")
    assert "Server:" in engine.ok("version")
    assert [line.split()[0] for line in engine.ok("system", "df").splitlines()] == [
        "TYPE",
        "Images",
        "Containers",
        "Local",
        "Build",
    ]


def test_a_paused_container_whose_pid_namespace_ended_can_be_removed(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "first", "busybox", "sleep", "1000")
    engine.ok("run", "-d", "--name", "second", "--pid", "container:first", "busybox", "sleep", "1000")
    engine.ok("pause", "second")
    engine.ok("rm", "-f", "first")
    engine.ok("rm", "-f", "second")
