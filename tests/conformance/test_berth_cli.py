"""berth's own command line on the whole engine, and beside the docker CLI: the same output, the same exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.api import versions
from support.engine import BIN, EngineProcess

PREFIX = re.compile(r"^(docker: |berth: )?(Error response from daemon: |Error: )?", re.MULTILINE)


@pytest.fixture
def things(engine: EngineProcess) -> Iterator[EngineProcess]:
    """A running and an ended container, a network and a volume."""
    engine.ok("network", "create", "twin-net")
    engine.ok("volume", "create", "--label", "x=y", "twin-volume")
    engine.ok("run", "-d", "--name", "twin", "--network", "twin-net", "-l", "a=b", "-v", "twin-volume:/data",
              "-p", "127.0.0.1::80", "busybox", "sleep", "600")  # fmt: skip
    engine.docker("run", "--name", "twin-ended", "busybox", "sh", "-c", "echo out; echo err >&2; echo x > /made; exit 3")
    time.sleep(1.1)  # Ages in whole seconds would differ between two calls at the turn from "less than a second".
    yield engine
    engine.ok("rm", "-fv", "twin", "twin-ended")
    engine.ok("network", "rm", "twin-net")
    engine.ok("volume", "rm", "twin-volume")


def _ageless(text: str) -> str:
    """Seconds that pass between two calls do not count, nor does the width they take."""
    return re.sub(r" +", " ", re.sub(r"(\d+|Less than a|About a) seconds?|About a minute|1 minute", "SOME TIME", text))


SAME = [
    "ps", "ps -a", "ps -aq", "ps -a --no-trunc", "ps -as", "ps -n 1", "ps -a --format json", "ps --format '{{json .}}'",
    'ps -a --format "table {{.ID}}\\t{{.Label \\"a\\"}}\\t{{.LocalVolumes}}\\t{{.Networks}}"',
    "ps -f status=bad", "images", "images -q", "images --digests", "images --no-trunc", "images --format json", "images nothing",
    "network ls", "network ls --no-trunc", "network ls -q", "network ls --format json", "volume ls", "volume ls --format json",
    "history busybox", "history -H=false busybox", "history --format json busybox", "port twin", "port twin 99", "top twin",
    "top twin -o pid,comm", "top twin-ended", "diff twin-ended", "inspect twin", "inspect busybox twin-net twin-volume",
    "inspect -f {{.State.Status}} twin twin-ended", "logs twin-ended",
    "logs -t twin-ended", "logs nope", "wait twin-ended", "exec twin nope", "exec twin sh -c 'exit 7'", "exec twin-ended true",
    "run --rm busybox nope", "run --rm busybox /etc/passwd", "run --name twin busybox true", "run --rm --network nope busybox",
    "rm twin", "rm nope", "rmi nope", "tag nope a:b", "network rm bridge", "volume rm nope", "network create twin-net",
    "rename twin twin", "kill twin-ended", "pause twin-ended", "export nope", "commit nope", "save nope", "info -f {{.Driver}}",
    "version -f {{.Server.Version}}", "run", "ps x",
]  # fmt: skip


@pytest.mark.timeout(300)
def test_the_same_as_docker(things: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    # Both speak the same version: older ones have fields of their own.
    monkeypatch.setenv("DOCKER_API_VERSION", versions.text(versions.NEWEST))
    # Not among them: `system df`, in which Docker counts layers that images share as reclaimable several times over.
    different = []
    for line in SAME:
        theirs, ours = things.docker(*shlex.split(line)), things.berth(*shlex.split(line))
        errors = [PREFIX.sub("", done.stderr).strip().splitlines()[:1] for done in (theirs, ours)]
        errors[0] = [text.replace("'docker", "'berth") for text in errors[0]]
        if errors[1] and errors[0] and errors[1][0].startswith(errors[0][0]):
            errors[1] = errors[0]  # ours may say more
        if (theirs.returncode, _ageless(theirs.stdout), errors[0]) != (ours.returncode, _ageless(ours.stdout), errors[1]):
            different.append((line, theirs, ours))
    assert not different, "\n\n".join(f"{line}:\n{theirs}\n{ours}" for line, theirs, ours in different)


def test_a_container_from_create_to_rm(engine: EngineProcess, tmp_path: Path) -> None:
    def ok(*arguments: str, input: str | None = None) -> str:
        done = engine.berth(*arguments, input=input)
        assert done.returncode == 0, done
        return done.stdout.strip()

    container = ok("create", "--name", "life", "-i", "busybox", "sh", "-c", "cat; sleep 600")
    assert ok("start", "life") == "life"
    assert ok("ps", "-q", "--no-trunc") == container
    assert ok("exec", "-e", "A=b", "-w", "/tmp", "life", "sh", "-c", "echo $A $PWD") == "b /tmp"
    (tmp_path / "file").write_text("content")
    ok("cp", str(tmp_path / "file"), "life:/copied")
    ok("cp", "-q", "life:/copied", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "content"
    assert "A /copied" in ok("diff", "life").splitlines()
    ok("pause", "life")
    assert ok("inspect", "-f", "{{.State.Status}}", "life") == "paused"
    ok("unpause", "life")
    ok("update", "--memory", "64m", "--memory-swap", "64m", "life")
    ok("rename", "life", "lived")
    assert ok("commit", "-m", "kept", "lived", "kept:1").startswith("sha256:")
    ok("save", "-o", str(tmp_path / "kept.tar"), "kept:1")
    ok("rmi", "kept:1")
    assert "kept:1" in ok("load", "-i", str(tmp_path / "kept.tar"))
    assert ok("run", "--rm", "-i", "kept:1", "cat", "/copied") == "content"
    ok("export", "-o", str(tmp_path / "tree.tar"), "lived")
    assert ok("import", str(tmp_path / "tree.tar"), "tree:1").startswith("sha256:")
    ok("rmi", "kept:1", "tree:1")
    assert ok("stop", "-t", "0", "lived") == "lived"
    assert ok("wait", "lived") == "137"
    assert ok("rm", "lived") == "lived"


def test_exit_codes_and_streams(engine: EngineProcess) -> None:
    done = engine.berth("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.returncode, done.stdout, done.stderr) == (9, "out\n", "err\n")
    assert engine.berth("run", "--rm", "-i", "busybox", "cat", input="through").stdout == "through"
    assert engine.berth("run", "--rm", "--cpus", "x", "busybox").returncode == 125
    assert engine.berth("run", "--rm", "--nope", "busybox").returncode == 125
    assert "--tree shows a table of its own" in engine.berth("images", "--tree", "-q").stderr


def test_build_and_system_prune(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo made > /made\nCMD cat /made\n")
    done = engine.berth("build", "-t", "cli-built:1", "--ulimit", "nofile=1024", str(tmp_path), "--iidfile", str(tmp_path / "id"))
    assert done.returncode == 0 and (tmp_path / "id").read_text().startswith("sha256:")
    assert engine.berth("run", "--rm", "cli-built:1").stdout == "made\n"
    assert engine.berth("image", "inspect", "--platform", "linux/s390x", "cli-built:1").returncode == 1
    assert engine.berth("rmi", "--platform", "linux/s390x", "cli-built:1").returncode == 1
    assert engine.berth("rmi", "cli-built:1").returncode == 0
    assert "Total reclaimed space" in engine.berth("system", "prune", "-f").stdout


@pytest.mark.parametrize("arguments", [("ps", "-a"), ("images",), ("info",), ("--help",), ("version",)])
def test_a_reader_that_goes_away_is_no_error_text(engine: EngineProcess, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [str(BIN / "berth"), *arguments], stdout=writer, stderr=subprocess.PIPE, env=engine.environment(), timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_standard_streams(engine: EngineProcess) -> None:
    done = engine.run("sh", "-c", f"{BIN}/berth ps -a <&- >&- 2>&-; echo $?")
    assert done.stdout == "0\n"


GARBAGE = [
    b"hello\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[1]\n",
]  # fmt: skip


@pytest.mark.parametrize("answer", GARBAGE)
def test_what_answers_is_no_engine(answer: bytes, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        for command in (["ps"], ["info"], ["logs", "x"], ["pull", "x"], ["run", "x"]):
            done = subprocess.run(
                [str(BIN / "berth"), "-H", f"unix://{path}", *command], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode in (1, 125) and "Traceback" not in done.stderr, done
            assert done.stderr.startswith(("berth: ", "Unable to find image")), done
        server.shutdown(socket.SHUT_RDWR)


def _on_terminal(engine: EngineProcess, arguments: list[str], keys: bytes, when: bytes) -> tuple[int, bytes, bool]:
    """Exit code, output, and whether the terminal is as it was. `keys` are typed when `when` has been printed."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [str(BIN / "berth"), *arguments], stdin=slave, stdout=slave, stderr=slave, env=engine.environment(),
        start_new_session=True, preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )  # fmt: skip
    out, deadline = b"", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([master], [], [], 0.05)[0]:
            out += os.read(master, 65536)
        if keys and when in out:
            time.sleep(0.3)  # A person is not so fast that the key comes between the prompt and the reading.
            os.write(master, keys)
            keys = b""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    same = termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    return process.returncode, out, same


@pytest.mark.parametrize(
    ("arguments", "keys", "when", "code"),
    [
        (["run", "--rm", "-it", "busybox", "sh", "-c", "echo ready; read x; exit 7"], b"\r", b"ready", 7),
        (["run", "--rm", "busybox", "sh", "-c", "trap 'exit 5' INT; echo ready; sleep 30 & wait"], b"\x03", b"ready", 5),
        (["logs", "-f", "twin-logs"], b"\x03", b"ready", 130),
        (["system", "prune"], b"\x03", b"[y/N]", 130),
        (["login", "-u", "x", "localhost:1"], b"\x03", b"Password", 130),
        (["attach", "twin-logs"], b"\x10\x11", b"again", 0),
    ],
)
def test_the_terminal_is_given_back(engine: EngineProcess, arguments: list[str], keys: bytes, when: bytes, code: int) -> None:
    loop = "echo ready; while sleep 0.2; do echo again; done"
    engine.ok("run", "-dit", "--name", "twin-logs", "busybox", "sh", "-c", loop)
    found, out, same = _on_terminal(engine, arguments, keys, when)
    assert (found, same) == (code, True), out


def test_an_interrupt_is_heard_by_a_background_job(engine: EngineProcess) -> None:
    """A shell starts those with SIGINT ignored."""
    engine.ok("run", "--rm", "busybox", "true")
    process = subprocess.Popen(
        [str(BIN / "berth"), "events", "--since", "1m"], stdout=subprocess.PIPE, env=engine.environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_events_of_an_ended_container(things: EngineProcess) -> None:
    done = things.berth("events", "--since", "10m", "--until", "0s", "-f", "container=twin-ended", "--format", "json")
    assert [json.loads(line)["Action"] for line in done.stdout.splitlines()][-1] == "die"
