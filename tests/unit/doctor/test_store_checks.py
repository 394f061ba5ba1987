"""The deep diagnosis: a store with each kind of damage, made with the store's own schema."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.doctor.check import Running
from berth.doctor.registry import CHECKS, examine
from berth.storage.database import Database
from berth.wire.doctor import Finding
from support.fake_host import scene

CONFIG = b'{"architecture":"amd64","os":"linux"}'
IMAGE = hashlib.sha256(CONFIG).hexdigest()
LAYER, PARENT = "b" * 64, "a" * 64
CONTAINER = "c" * 64


def _write(path: Path, data: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _store(top: Path) -> Path:
    """One image with two layers, one container, one volume; everything whole."""
    root = top / "srv/berth"
    root.mkdir(parents=True)
    database = Database(str(root / "berth.db"))
    for chain, parent in ((PARENT, None), (LAYER, f"sha256:{PARENT}")):
        (root / f"layers/{chain}/fs").mkdir(parents=True)
        database.execute("INSERT INTO layers VALUES (?, ?, ?, 0, NULL, '')", (f"sha256:{chain}", f"sha256:{chain}", parent))
    (root / "layers/empty").mkdir()
    _write(root / f"blobs/sha256/{IMAGE}", CONFIG)
    database.execute("INSERT INTO images VALUES (?, ?, 0, NULL, 0, 0)", (f"sha256:{IMAGE}", f"sha256:{LAYER}"))
    database.execute("INSERT INTO tags VALUES ('app:1', ?, NULL)", (f"sha256:{IMAGE}",))
    database.execute("INSERT INTO containers VALUES (?, 'box', 0, x'')", (CONTAINER,))
    database.execute("INSERT INTO snapshots VALUES (?, ?)", (CONTAINER, f"sha256:{LAYER}"))
    (root / f"containers/{CONTAINER}/upper").mkdir(parents=True)
    database.execute("INSERT INTO volumes VALUES ('data', 0, x'')")
    (root / "volumes/data/_data").mkdir(parents=True)
    database.close()
    return root


def _change(root: Path, sql: str) -> None:
    database = Database(str(root / "berth.db"))
    database.execute("PRAGMA foreign_keys=OFF")
    database.execute(sql)
    database.close()


def _findings(top: Path, *, running: bool = False) -> list[Finding]:
    machine = scene(top, engine=Running(info={}) if running else None)
    return [finding for check in CHECKS if check.deep for finding in examine(check, machine)]


def _bad(top: Path, *, running: bool = False) -> list[Finding]:
    return [finding for finding in _findings(top, running=running) if finding.severity != "ok"]


def test_a_whole_store_is_ok(tmp_path: Path) -> None:
    root = _store(tmp_path)
    before = {path: os.stat(path).st_mtime_ns for path in root.rglob("*")}
    found = _findings(tmp_path)
    assert [f for f in found if f.severity != "ok"] == []
    assert {f.check for f in found} == {check.name for check in CHECKS if check.deep}
    assert {path: os.stat(path).st_mtime_ns for path in root.rglob("*")} == before, "the doctor changes nothing"


def _damage_content(root: Path) -> None:
    _write(root / f"blobs/sha256/{'d' * 64}", b"something else")


def _damage_database(root: Path) -> None:
    data = bytearray((root / "berth.db").read_bytes())
    data[4096:12288] = os.urandom(8192)
    (root / "berth.db").write_bytes(data)


@pytest.mark.parametrize(
    ("check", "damage", "severity", "words"),
    [
        ("store.layers", lambda root: (root / f"layers/{PARENT}/fs").rmdir(), "problem", "1 layers have lost their files"),
        ("store.layers", lambda root: (root / f"layers/{'e' * 64}").mkdir(), "note", "belong to nothing"),
        ("store.images", lambda root: (root / f"blobs/sha256/{IMAGE}").unlink(), "problem", "app:1 is damaged"),
        ("store.images", lambda root: _change(root, f"INSERT INTO indexes VALUES ('sha256:{'f' * 64}', 'sha256:{IMAGE}')"),
         "problem", "is incomplete"),
        ("store.content", _damage_content, "problem", "does not match its digest"),
        ("store.containers", lambda root: (root / f"containers/{CONTAINER}/upper").rmdir(), "problem", "lost their files: box"),
        ("store.containers", lambda root: (root / "containers/ffff").mkdir(), "note", "ffff"),
        ("store.volumes", lambda root: (root / "volumes/data/_data").rmdir(), "problem", "lost their data: data"),
        ("store.volumes", lambda root: (root / "volumes/old").mkdir(), "warning", "belong to none: old"),
        ("store.leftovers", lambda root: (root / "layers/.trash-1").mkdir(), "note", "half made or half removed"),
        ("store.database", lambda root: _change(root, "INSERT INTO tags VALUES ('x:1', 'sha256:0', NULL)"), "problem",
         "name images"),
        ("store.database", lambda root: _change(root, "PRAGMA user_version=99"), "problem", "newer berth"),
    ],
)  # fmt: skip
def test_each_damage_is_found_alone(
    check: str, damage: Callable[[Path], object], severity: str, words: str, tmp_path: Path
) -> None:
    damage(_store(tmp_path))
    found = _bad(tmp_path)
    assert [(f.check, f.severity, words in f.summary) for f in found] == [(check, severity, True)], found
    assert found[0].change


def test_a_missing_layer_below_and_on_top(tmp_path: Path) -> None:
    root = _store(tmp_path)
    _change(root, f"DELETE FROM layers WHERE chain_id = 'sha256:{PARENT}'")
    found = _bad(tmp_path)
    assert [(f.check, f.severity) for f in found] == [("store.layers", "problem"), ("store.layers", "note")]
    assert "stand on layers that are not in the store" in found[0].summary
    _change(root, f"DELETE FROM layers WHERE chain_id = 'sha256:{LAYER}'")
    assert {f.check for f in _bad(tmp_path)} == {"store.layers", "store.images"}


def test_a_database_that_cannot_be_read(tmp_path: Path) -> None:
    _damage_database(_store(tmp_path))
    found = {f.check: f for f in _bad(tmp_path)}
    assert found["store.database"].severity == "problem" and "put back a copy" in found["store.database"].change


def test_work_in_progress_of_a_running_engine_is_no_leftover(tmp_path: Path) -> None:
    root = _store(tmp_path)
    (root / "layers/.staging-1").mkdir()
    (root / "containers/ffff").mkdir()
    assert _bad(tmp_path, running=True) == []


def test_without_a_store_there_is_nothing_to_say(tmp_path: Path) -> None:
    found = _findings(tmp_path)
    assert [(f.check, f.severity) for f in found] == [("store.database", "note")]
