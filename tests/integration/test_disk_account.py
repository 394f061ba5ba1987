"""`system df -v`: every byte below the data root is in one area, and the areas add up to what `du` says."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from berth.storage.account import (
    BUILDS,
    CONTENT,
    DATABASE,
    DOWNLOADS,
    EVENTS,
    FILES,
    IMAGELESS,
    LEFT,
    LOGS,
    SHARED,
    UNIQUE,
    VOLUMES,
    WRITTEN,
)
from support.engine import SLOW, EngineProcess

MIB = 1 << 20


def _areas(engine: EngineProcess) -> dict[str, int]:
    with engine.client as client:
        whole = client.system.data_root()
    assert whole["Root"] == engine.root and whole["Size"] == sum(area["Size"] for area in whole["Areas"])
    return {area["Name"]: area["Size"] for area in whole["Areas"]}


def _du(engine: EngineProcess) -> int:
    subprocess.run(["sync", "-f", engine.root], check=True)
    done = subprocess.run(["du", "-s", "-x", "-B1", engine.root], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def _fill(path: str, megabytes: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(os.urandom(megabytes * MIB))


def _write(megabytes: int, path: str) -> str:
    return f"dd if=/dev/urandom of={path} bs=1M count={megabytes} 2>/dev/null"


def test_every_byte_is_accounted_for(own: EngineProcess, tmp_path: Path) -> None:
    before = _areas(own)
    assert before[UNIQUE] > 0 and before[SHARED] == 0
    (tmp_path / "Dockerfile").write_text(
        f"FROM busybox\nRUN {_write(3, '/made')}\nRUN --mount=type=cache,target=/cache {_write(2, '/cache/kept')}\n"
    )
    built = own.docker("build", "-t", "made", str(tmp_path), timeout=120)
    assert built.returncode == 0, built.stderr
    script = f"{_write(5, '/f')}; {_write(7, '/data/f')}; seq 1 16000; sleep 1000"
    own.ok("run", "-d", "--name", "box", "-v", "vol:/data", "busybox", "sh", "-c", script)
    log = own.ok("inspect", "-f", "{{.LogPath}}", "box")
    deadline = time.monotonic() + 20 * SLOW
    while os.path.getsize(log) < MIB:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # What nothing leads to: as after a crash.
    for place, megabytes in (("containers/gone/upper/f", 4), ("volumes/gone/_data/f", 2), ("layers/.staging-1/f", 1)):
        _fill(f"{own.root}/{place}", megabytes)
    _fill(f"{own.root}/ingest/{'a' * 64}.part", 6)
    areas = _areas(own)
    assert sum(areas.values()) == _du(own)
    least = {UNIQUE: 3, BUILDS: 2, WRITTEN: 5, VOLUMES: 7, LOGS: 1, LEFT: 7, DOWNLOADS: 6}
    for name, megabytes in least.items():
        assert megabytes * MIB <= areas[name] < (megabytes + 1) * MIB, (name, areas[name])
    assert areas[SHARED] == before[UNIQUE], "busybox' layer has two images now"
    assert all(areas[name] for name in (CONTENT, DATABASE, EVENTS, FILES))
    shown = own.berth("system", "df", "-v").stdout
    assert f"On disk in {own.root}" in shown and "left behind" in shown and "berth builder prune" in shown
    # What was an image's is the build cache's when the image is gone.
    own.ok("rmi", "made")
    gone = _areas(own)
    assert gone[IMAGELESS] >= 3 * MIB and gone[UNIQUE] == before[UNIQUE] and gone[SHARED] == 0
    assert own.berth("builder", "prune", "-af").returncode == 0
    own.ok("rm", "-fv", "box")
    own.ok("volume", "rm", "vol")
    after = _areas(own)
    assert sum(after.values()) == _du(own)
    assert not any(after[name] >= MIB for name in (IMAGELESS, BUILDS, WRITTEN, VOLUMES, LOGS)), after


def test_another_engines_df_is_shown_as_before(own: EngineProcess) -> None:
    """The docker CLI never sees the extension."""
    assert "Build cache usage" in own.ok("system", "df", "-v")
