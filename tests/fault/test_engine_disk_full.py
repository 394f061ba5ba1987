"""A whole engine on a disk that runs full, of bytes or of inodes: it says so, containers run on, and room cures everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import EngineProcess, busybox_tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs: needs root")
FULL = "no space left on device"


def fill_bytes(place: Path) -> None:
    for size in (65536, 16):
        try:
            with open(place / "filler", "ab", buffering=0) as file:
                while True:
                    file.write(b"x" * size)
        except OSError:
            continue


def fill_inodes(place: Path) -> None:
    (place / "filler").mkdir()
    try:
        for number in range(100_000):
            (place / f"filler/{number}").touch()
    except OSError:
        return


def empty(place: Path) -> None:
    filler = place / "filler"
    if filler.is_dir():
        shutil.rmtree(filler)
    else:
        filler.unlink()


@pytest.fixture(params=["size=24m", "nr_inodes=340"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[EngineProcess, Path, Callable[[Path], None]]]:
    """An engine on a small disk, and what fills that disk."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "none", str(place)], check=True)
    engine = EngineProcess(root=f"{place}/root")
    try:
        with leak.nothing_left(engine.snapshot):
            engine.start()
            try:
                engine.add_busybox()
                yield engine, place, fill_bytes if "size" in request.param else fill_inodes
                engine.ok("rm", "-fv", *engine.ok("ps", "-aq").split())
            finally:
                engine.shut_down()
    finally:
        subprocess.run(["umount", "-R", str(place)], check=True)


def test_a_disk_runs_full_and_is_cleared(small: tuple[EngineProcess, Path, Callable[[Path], None]], tmp_path: Path) -> None:
    engine, place, fill = small
    archive = tmp_path / "busybox.tar"
    engine.ok("save", "-o", str(archive), "busybox")
    script = "while :; do echo line line line line line line line line; sleep 0.02; done"
    engine.ok("run", "-d", "--name", "loud", "busybox", "sh", "-c", script)
    engine.ok("run", "-d", "--name", "short", "busybox", "sh", "-c", "sleep 3; exit 5")
    fill(place)
    before = {name for name in os.listdir(f"{engine.root}/layers") if name.startswith(".")}
    attempts: dict[str, subprocess.CompletedProcess[str]] = {
        "import": engine.docker("import", "-", "other", input=busybox_tar()),
        "load": engine.docker("load", input=archive.read_bytes()),
        "build": engine.docker("build", "-t", "built", "-", input=b"FROM busybox\nRUN echo more > /file\n"),
        "cp": engine.docker("cp", str(archive), "loud:/tmp/file"),
    }
    for name, done in attempts.items():
        assert done.returncode != 0, name
        assert FULL in done.stderr, (name, done)
    # These need next to nothing, and may find it in what the database had set aside.
    for words in (
        ("create", "busybox"),
        ("network", "create", "net"),
        ("volume", "create", "vessel-2"),
        ("commit", "loud", "committed"),
    ):
        done = engine.docker(*words)
        assert done.returncode == 0 or FULL in done.stderr, done
    inside = engine.docker(
        "exec", "loud", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=40 2>&1; for i in 1 2 3; do : > /f$i; done"
    )
    assert FULL in (inside.stdout + inside.stderr).lower(), "the container gets it from the kernel"
    # Nothing stops: the log loses lines rather than the container its output pipe.
    assert engine.ok("inspect", "-f", "{{.State.Status}}", "loud") == "running"
    assert engine.ok("exec", "loud", "echo", "inside") == "inside"
    assert engine.ok("logs", "--tail", "1", "loud").startswith("line")
    assert engine.ok("wait", "short") == "5"
    engine.ok("rm", "short")
    assert "internal error" not in engine.log_text()
    assert {name for name in os.listdir(f"{engine.root}/layers") if name.startswith(".")} == before
    empty(place)
    engine.ok("load", input=archive.read_bytes())
    assert engine.docker("build", "-t", "built", "-", input=b"FROM busybox\nRUN echo more > /file\n").returncode == 0
    assert engine.ok("run", "--rm", "built", "cat", "/file") == "more"
    engine.ok("volume", "create", "vessel")
    assert engine.ok("run", "--rm", "-v", "vessel:/v", "busybox", "sh", "-c", "echo kept > /v/f; cat /v/f") == "kept"
    now = int(time.time())
    time.sleep(1.2)
    assert engine.ok("logs", "--since", str(now), "loud").count("line line") > 5, "logging goes on"
    engine.kill()
    engine.start()
    assert engine.ok("inspect", "-f", "{{.State.Status}}", "loud") == "running"
