"""Starting the engine on what it cannot use: one line that says what, where and what to do; exit code 1; nothing overwritten."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import BIN, EngineProcess

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="berthd runs as root")


def refused(root: Path | str, socket: Path | str, *before: str) -> str:
    """What berthd says when it does not start."""
    command = [*before, str(BIN / "berthd"), "--root", str(root), "--socket", str(socket)]
    before_it = leak.processes((str(root),))
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd="/", stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, f"one line, not a traceback:\n{done.stderr}"
    assert done.stderr.startswith("berthd: ")
    deadline = time.monotonic() + 5
    while left := leak.processes((str(root),)) - before_it:
        assert time.monotonic() < deadline, f"the launcher must be gone too: {left}"
        time.sleep(0.05)
    return done.stderr


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[EngineProcess]:
    """An engine with something in it that has been stopped."""
    engine = EngineProcess()
    engine.start()
    engine.add_busybox()
    engine.ok("volume", "create", "kept")
    engine.terminate()
    yield engine
    if engine.process is None or engine.process.poll() is not None:
        engine.start()
    engine.shut_down()


def test_a_directory_where_the_database_should_be(tmp_path: Path) -> None:
    (tmp_path / "root/berth.db").mkdir(parents=True)
    said = refused(tmp_path / "root", tmp_path / "s")
    assert f"cannot open {tmp_path}/root/berth.db" in said
    assert (tmp_path / "root/berth.db").is_dir()


def test_a_database_of_a_newer_berth(filled: EngineProcess) -> None:
    path = Path(filled.root) / "berth.db"
    with sqlite3.connect(path) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("PRAGMA user_version=99")
    database.close()
    before = path.read_bytes()
    said = refused(filled.root, filled.socket)
    assert "was written by a newer berth (schema 99" in said
    assert "upgrade berth" in said
    assert path.read_bytes() == before
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version={version}")
    database.close()
    filled.start()
    assert filled.ok("volume", "ls", "-q") == "kept"


@pytest.mark.parametrize("damage", ["garbage", "truncated", "pages"])
def test_a_damaged_database_is_told_and_left_alone(filled: EngineProcess, damage: str) -> None:
    path = Path(filled.root) / "berth.db"
    good = path.read_bytes()
    assert len(good) > 20_000
    bad = {
        "garbage": os.urandom(9000),
        "truncated": good[: len(good) // 2],
        "pages": good[:8192] + os.urandom(len(good) - 12288) + good[-4096:],
    }[damage]
    path.write_bytes(bad)
    layers = sorted(os.listdir(f"{filled.root}/layers"))
    said = refused(filled.root, filled.socket)
    assert f"the database {path} is damaged" in said
    assert "put back a copy" in said
    assert path.read_bytes() == bad
    assert sorted(os.listdir(f"{filled.root}/layers")) == layers, "nothing is collected on the word of a damaged database"
    path.write_bytes(good)
    filled.start()
    assert filled.ok("run", "--rm", "-v", "kept:/v", "busybox", "echo", "works") == "works"


def test_two_engines_on_one_root_or_one_socket(filled: EngineProcess, tmp_path: Path) -> None:
    filled.start()
    filled.await_slots()
    assert f"another berthd already uses {filled.root}" in refused(filled.root, tmp_path / "s")
    assert f"another engine already listens on {filled.socket}" in refused(tmp_path / "other", filled.socket)
    assert filled.ok("volume", "ls", "-q") == "kept"


def test_a_socket_that_cannot_be(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    assert "choose a shorter --socket" in refused(tmp_path / "root", long)
    (tmp_path / "file").write_text("keep")
    assert "no socket: it is left alone" in refused(tmp_path / "root", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "keep"
    assert "no socket: it is left alone" in refused(tmp_path / "root", tmp_path)
    assert "not a directory" in refused(tmp_path / "root", tmp_path / "file/socket").lower()
    assert not (tmp_path / "root").exists(), "it is told before anything is made"


def test_a_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    for root, words in ((tmp_path / "file", "file exists"), (tmp_path / "file/root", "not a directory")):
        said = refused(root, tmp_path / "s")
        assert f"preparing the data root {root}" in said
        assert words in said
    assert (tmp_path / "file").read_text() == "keep"
    place = tmp_path / "fixed"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)], check=True)
    try:
        assert "read-only file system" in refused(place / "root", tmp_path / "s")
        assert "read-only file system" in refused(place, tmp_path / "s")
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("option", ["size=64k", "nr_inodes=8"])
def test_a_root_without_room(tmp_path: Path, option: str) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "none", str(place)], check=True)
    try:
        assert "no space left on device" in refused(place / "root", tmp_path / "s")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_missing_parents_are_made() -> None:
    engine = EngineProcess()
    engine.root = f"{engine.directory}/a/b/c"
    engine.socket = f"{engine.directory}/d/e/s"
    engine.start()
    assert os.stat(engine.root).st_mode & 0o777 == 0o700
    with engine.client as client:
        client.request("POST", "/berth/stop", query={"containers": True}, versioned=False).read()
    assert engine.process is not None
    assert engine.process.wait(10) == 0
    engine.shut_down()


def test_without_root(tmp_path: Path) -> None:
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    said = refused(tmp_path / "root", tmp_path / "s", *nobody)
    assert "must run as root" in said
    assert "use sudo" in said
    assert not (tmp_path / "root").exists()


def test_the_clients_of_a_user_without_rights(filled: EngineProcess) -> None:
    filled.start()
    os.chmod(filled.directory, 0o755)
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", "HOME=/nonexistent")
    done = filled.run(*nobody, str(BIN / "berth"), "ps")
    assert done.returncode == 1, done
    assert f"permission denied while trying to connect to the Docker daemon socket at unix://{filled.socket}" in done.stderr
    assert "sudo" in done.stderr
    done = filled.run(*nobody, "docker", "ps")
    assert done.returncode == 1
    assert "permission denied" in done.stderr


def test_without_control_groups_everything_but_limits_works(tmp_path: Path) -> None:
    engine = EngineProcess()
    hidden = 'umount -R -l /sys/fs/cgroup; mount -t tmpfs none /sys/fs/cgroup; exec "$0" "$@"'
    with open(engine.log, "ab") as log:
        engine.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", hidden, str(BIN / "berthd"), "--root", engine.root, "--socket", engine.socket],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        for _ in range(200):
            if engine.docker("version").returncode == 0:
                break
            time.sleep(0.05)
        engine.add_busybox()
        assert engine.ok("run", "--rm", "busybox", "echo", "works") == "works"
        limited = engine.docker("run", "--rm", "-m", "64m", "busybox", "true")
        assert limited.returncode == 0, "as with Docker, it runs without the limit, and is told so"
        assert "Your kernel does not support memory limit capabilities or the cgroup is not mounted" in limited.stderr
        engine.ok("run", "-d", "--name", "one", "busybox", "sleep", "1000")
        assert engine.ok("exec", "one", "echo", "inside") == "inside"
        assert engine.docker("stats", "--no-stream", "one").returncode == 0
        paused = engine.docker("pause", "one")
        assert paused.returncode in (0, 1), paused
        if paused.returncode:
            assert "control group" in paused.stderr
        engine.ok("rm", "-f", "one")
    finally:
        engine.shut_down()
