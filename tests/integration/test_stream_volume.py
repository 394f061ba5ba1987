"""Streams with much in them, and with clients that are slow: everything arrives, and nobody's memory grows. And what the ends of
an engine's life do to logs and events."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from support import leak
from support.api_client import ask
from support.engine import SLOW, EngineProcess

MEGABYTES = 64
# A read of the pipe, the frames for it and the log's records of it, several times over: far below what is sent.
GROWTH = 24 << 20


def memory(engine: EngineProcess) -> dict[int, int]:
    """Resident bytes that are the processes' own, of the engine and its shims."""
    assert engine.process is not None
    pids = [engine.process.pid, *(int(line.split()[1]) for line in leak.processes((engine.root, engine.config.run)))]
    found = {}
    for pid in pids:
        try:
            fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
            found[pid] = int(fields["RssAnon"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            continue
    return found


def grown(before: dict[int, int], after: dict[int, int]) -> int:
    """By how much the one that grew most did."""
    return max((size - before.get(pid, 0) for pid, size in after.items() if pid in before), default=0)


@pytest.mark.parametrize(
    "command",
    [
        f"dd if=/dev/zero bs=65536 count={MEGABYTES * 16}",
        f"yes {'0123456789' * 8} | head -c {MEGABYTES << 20}",
        "yes | head -c 8388608",
    ],
    ids=["blocks", "lines", "yes"],
)
def test_all_of_the_output_arrives_and_memory_stays_flat(engine: EngineProcess, command: str) -> None:
    engine.ok("create", "--name", "one", "--network", "none", "--log-opt", "max-size=1m", "busybox", "sh", "-c", command)
    expected = 8388608 if command.startswith("yes |") else MEGABYTES << 20
    before = memory(engine)
    client = subprocess.Popen(
        ["docker", "start", "-a", "one"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=engine.environment()
    )
    assert client.stdout is not None
    received, most = 0, 0
    while piece := client.stdout.read(1 << 20):
        received += len(piece)
        most = max(most, grown(before, memory(engine)))
    assert client.wait(60 * SLOW) == 0
    assert received == expected
    assert most < GROWTH, most
    assert int(engine.ok("inspect", "-f", "{{.State.ExitCode}}", "one")) == 0


def test_a_client_that_does_not_read_holds_the_writer_back(engine: EngineProcess) -> None:
    """What is written goes no further than the buffers on the way; when the client reads again, all of it comes."""
    script = f"dd if=/dev/zero bs=65536 count={MEGABYTES * 16} 2>/dev/null; echo done >&2"
    engine.ok("create", "--name", "one", "--network", "none", "--log-driver", "none", "busybox", "sh", "-c", script)
    before = memory(engine)
    client = subprocess.Popen(
        ["docker", "start", "-a", "one"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=engine.environment()
    )
    assert client.stdout is not None
    first = client.stdout.read(1 << 20)
    # The writer stands still when its processes no longer use the processor.
    deadline = time.monotonic() + 20 * SLOW
    used = -1
    while (now := _processor_time(engine, "one")) != used and time.monotonic() < deadline:
        used = now
        time.sleep(0.3)
    assert engine.ok("inspect", "-f", "{{.State.Running}}", "one") == "true"
    assert grown(before, memory(engine)) < GROWTH
    received = len(first)
    while piece := client.stdout.read(1 << 20):
        received += len(piece)
    assert client.wait(60 * SLOW) == 0
    assert received == MEGABYTES << 20


def _processor_time(engine: EngineProcess, name: str) -> int:
    """Ticks of a container's processes."""
    first = int(engine.ok("inspect", "-f", "{{.State.Pid}}", name))
    total = 0
    for line in Path(f"/proc/{first}/task/{first}/children").read_text().split() + [str(first)]:
        fields = Path(f"/proc/{line}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def test_all_of_the_input_arrives(engine: EngineProcess) -> None:
    before = memory(engine)
    with open("/dev/zero", "rb") as zeros:
        source = subprocess.Popen(["head", "-c", str(MEGABYTES << 20)], stdin=zeros, stdout=subprocess.PIPE)
        client = subprocess.Popen(
            ["docker", "run", "--rm", "-i", "--network", "none", "busybox", "wc", "-c"],
            stdin=source.stdout, stdout=subprocess.PIPE, env=engine.environment(),
        )  # fmt: skip
        out, _ = client.communicate(timeout=100 * SLOW)
        assert source.wait(10) == 0
    assert int(out) == MEGABYTES << 20
    assert grown(before, memory(engine)) < GROWTH


def test_events_reach_back_over_the_end_of_an_engine(own: EngineProcess) -> None:
    begin = int(time.time()) - 1
    own.ok("run", "-d", "--name", "one", "--network", "none", "busybox", "sh", "-c", "sleep 1000 & wait")
    own.kill()
    own.start()
    own.ok("kill", "one")
    own.ok("wait", "one")
    lines = own.ok("events", "--since", str(begin), "--until", str(int(time.time()) + 1), "--filter", "container=one",
                   "--format", "{{.Action}}").splitlines()  # fmt: skip
    assert lines == ["create", "start", "kill", "die"]
    middle = own.ok("events", "--since", str(begin), "--until", str(begin), "--format", "{{.Action}}")
    assert middle == ""


def test_events_in_the_forms_of_newer_clients(own: EngineProcess) -> None:
    own.ok("volume", "create", "kept")
    for accept in ("", "application/jsonl", "application/x-ndjson", "application/json-seq"):
        headers = {"Accept": accept} if accept else {}
        answer = ask(own.socket, "GET", f"/events?since=0&until={int(time.time()) + 1}", headers=headers)
        assert answer.headers["content-type"] == (accept or "application/json")
        begin = b"\x1e{" if accept == "application/json-seq" else b"{"
        assert all(line.startswith(begin) for line in answer.body.splitlines()) and b'"volume"' in answer.body
    old = ask(own.socket, "GET", "/v1.51/events?since=0&until=1", headers={"Accept": "application/jsonl"})
    assert old.headers["content-type"] == "application/json"


def test_logs_follow_over_rotation_with_bounds(engine: EngineProcess) -> None:
    """Nothing is lost or told twice when the file is rotated under who follows it; since, until and tail cut where they say."""
    script = "i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done"
    engine.ok("create", "--name", "one", "--network", "none", "--log-opt", "max-size=64k", "--log-opt", "max-file=10", "busybox",
              "sh", "-c", script)  # fmt: skip
    follow = subprocess.Popen(["docker", "logs", "-f", "one"], stdout=subprocess.PIPE, env=engine.environment())
    engine.ok("start", "one")
    engine.ok("wait", "one")
    if follow.poll() is not None:
        # It came before the start and saw that nothing runs.
        follow = subprocess.Popen(["docker", "logs", "-f", "one"], stdout=subprocess.PIPE, env=engine.environment())
    out, _ = follow.communicate(timeout=30 * SLOW)
    assert len([name for name in os.listdir(f"{engine.root}/containers/{_id(engine)}") if "json.log" in name]) > 2
    del out
    assert engine.ok("logs", "one").splitlines() == [f"line-{n}" for n in range(3000)]
    assert engine.ok("logs", "--tail", "1500", "one").splitlines() == [f"line-{n}" for n in range(1500, 3000)]
    stamped = [line.split(" ", 1) for line in engine.ok("logs", "-t", "one").splitlines()]
    moment = stamped[1500][0]
    since = engine.ok("logs", "--since", moment, "one").splitlines()
    until = engine.ok("logs", "--until", moment, "one").splitlines()
    assert since == [text for at, text in stamped if at >= moment]
    assert until == [text for at, text in stamped if at <= moment]


def _id(engine: EngineProcess) -> str:
    return engine.ok("inspect", "-f", "{{.Id}}", "one")
