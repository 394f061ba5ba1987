"""Logs do not fill a disk: rotated and compressed by the engine's options, all of them together below its cap."""

from __future__ import annotations

import gzip
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import BIN, SLOW, EngineProcess, engine_with
from support.waiting import until

CAP = 200_000


@pytest.fixture(scope="module")
def capped() -> Iterator[EngineProcess]:
    options = [word for option in ("max-size=50k", "max-file=4", "compress=true") for word in ("--log-opt", option)]
    with engine_with(*options, "--log-cap", "200k") as engine:
        yield engine


def files(engine: EngineProcess, name: str) -> list[Path]:
    path = Path(engine.ok("inspect", "-f", "{{.LogPath}}", name))
    return sorted(path.parent.glob(f"{path.name}*"))


def test_the_engines_log_options_hold_for_containers_without_their_own(capped: EngineProcess) -> None:
    capped.ok("run", "--name", "loud", "busybox", "seq", "1", "5000")
    names = [path.name.rpartition("-json.log")[2] for path in files(capped, "loud")]
    assert names == ["", ".1.gz", ".2.gz", ".3.gz"]
    config = capped.ok("inspect", "-f", "{{json .HostConfig.LogConfig.Config}}", "loud")
    assert config == '{"compress":"true","max-file":"4","max-size":"50k"}'
    lines = capped.ok("logs", "loud").splitlines()
    assert lines == [str(n) for n in range(int(lines[0]), 5001)] and len(lines) > 2000
    assert capped.ok("logs", "-n", "2000", "loud").splitlines() == [str(n) for n in range(3001, 5001)]
    subprocess.run(["gzip", "-t", *files(capped, "loud")[1:]], check=True)
    capped.ok("rm", "loud")


def test_options_of_the_container_come_first(capped: EngineProcess) -> None:
    capped.ok("run", "--name", "own", "--log-opt", "max-file=2", "--log-opt", "compress=false", "busybox", "seq", "1", "3000")
    assert [path.name.rpartition("-json.log")[2] for path in files(capped, "own")] == ["", ".1"]
    capped.ok("rm", "own")


def test_following_across_rotations_loses_nothing(capped: EngineProcess) -> None:
    """The reader is slower than the writer, so the files that it reads are renamed and compressed under its hands."""
    script = "i=0; while [ $i -lt 40 ]; do seq 1 60; i=$((i+1)); usleep 5000; done"
    options = ("--log-opt", "max-size=20k", "--log-opt", "max-file=30")
    capped.ok("run", "-d", "--name", "chatty", *options, "busybox", "sh", "-c", script)
    lines = capped.ok("logs", "-f", "chatty").splitlines()
    assert lines == [str(n) for n in range(1, 61)] * 40
    assert len(files(capped, "chatty")) > 5
    capped.ok("rm", "chatty")


def test_all_logs_together_stay_below_the_cap(capped: EngineProcess) -> None:
    """Also one that would never be rotated."""
    script = "while :; do seq 1 300; usleep 20000; done"
    options = ("--log-opt", "max-size=-1", "--log-opt", "compress=false")
    for name in ("first", "second"):
        capped.ok("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    deadline = time.monotonic() + 40 * SLOW
    while (before := _total(capped)) <= CAP * 2:
        assert time.monotonic() < deadline, f"only {before} bytes were written"
        time.sleep(0.05)
    while _total(capped) > CAP:
        assert time.monotonic() < deadline, f"the logs have {_total(capped)} bytes"
        time.sleep(0.1)
    assert "logs were over the cap of 200KiB" in capped.log_text()
    assert capped.ok("logs", "-n", "5", "first").splitlines(), "what was written last is still there"
    capped.ok("rm", "-f", "first", "second")


def _total(engine: EngineProcess) -> int:
    return sum(path.stat().st_size for path in Path(engine.root, "containers").glob("*/*-json.log*"))


def test_a_log_is_rotated_by_hand(capped: EngineProcess) -> None:
    script = "echo early; while [ ! -e /go ]; do usleep 20000; done; echo late"
    capped.ok("run", "-d", "--name", "hand", "busybox", "sh", "-c", script)
    until(lambda: capped.ok("logs", "hand") == "early")
    done = capped.berth("logs", "--rotate", "hand")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    capped.ok("exec", "hand", "touch", "/go")
    capped.ok("wait", "hand")
    assert [path.name.rpartition("-json.log")[2] for path in files(capped, "hand")] == ["", ".1.gz"]
    assert capped.ok("logs", "hand").splitlines() == ["early", "late"]
    done = capped.berth("logs", "--rotate", "hand")
    assert done.returncode == 1 and "is not running: nobody writes to its log" in done.stderr
    capped.ok("rm", "hand")
    capped.ok("run", "-d", "--name", "mute", "--log-driver", "none", "busybox", "sleep", "60")
    done = capped.berth("logs", "--rotate", "mute")
    assert done.stderr == "berth: container mute has no log to rotate: its log driver is none\n"
    capped.ok("rm", "-f", "mute")


def test_a_wrong_option_is_refused_at_the_start(capped: EngineProcess) -> None:
    command = [str(BIN / "berthd"), "--log-opt", "max-sice=1m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and done.stderr == "berthd: --log-opt: unknown log opt 'max-sice' for json-file log driver\n"


def test_the_local_driver_keeps_five_compressed_files_of_twenty_megabytes(engine: EngineProcess) -> None:
    """By effect: what is written is more than that, and the engine's own limits do not count."""
    line = "0123456789" * 8
    script = f"yes {line} | head -n 2000000; echo last"
    engine.ok("run", "--name", "loud", "--log-driver", "local", "busybox", "sh", "-c", script)
    assert engine.ok("inspect", "-f", "{{.LogPath}}", "loud") == "", "nobody but the engine is to read them"
    folder = Path(engine.root, "containers", engine.ok("inspect", "-f", "{{.Id}}", "loud"))
    found = sorted(folder.glob("*-json.log*"))
    assert [path.name.rpartition("-json.log")[2] for path in found] == ["", ".1.gz", ".2.gz", ".3.gz", ".4.gz"]
    sizes = [len(gzip.decompress(path.read_bytes())) for path in found[1:]]
    assert all((20 << 20) - 200 < size < (20 << 20) + 200 for size in sizes), sizes
    assert engine.ok("logs", "-n", "1", "loud") == "last"
    assert engine.ok("logs", "loud").count(line) > 4 * (20 << 20) // 160
    engine.ok("rm", "loud")
