"""Every kind of file that an engine keeps, damaged while it is down: it starts, other containers work, the damaged thing is named
with what to do, nothing is made worse, and when the file is put back everything is as before.

The database has a test of its own (conformance/test_bad_start.py): without it there is no engine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import audit, leak
from support.damage import fill_with_garbage, remove, replace_by_the_other, truncate
from support.engine import EngineProcess
from support.zygote import Zygote

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root")


@dataclass(frozen=True)
class Place:
    """An engine with `victim` (has ended with 3, said "said") and `runs`, and where their files are."""

    engine: EngineProcess
    victim: str
    image: str
    layer: str

    def container(self, name: str) -> Path:
        return Path(self.engine.root, "containers", self.victim, name)

    def root(self, name: str) -> Path:
        return Path(self.engine.root, name)


# Name, where it is, and what a user is told when he uses it: a command and words of its error. Without these it is no loss.
Told = tuple[tuple[str, ...], str] | None
FILES: dict[str, tuple[Callable[[Place], Path], Told]] = {
    "shared memory of the log": (lambda p: p.root("berth.db-shm"), None),
    "reserve": (lambda p: p.root("berth.db.reserve"), None),
    "events": (lambda p: p.root("events.jsonl"), None),
    "log": (lambda p: p.container(f"{p.victim}-json.log"), None),
    "exit record": (lambda p: p.container("exit.json"), None),
    "hosts": (lambda p: p.container("hosts"), None),
    "resolv.conf": (lambda p: p.container("resolv.conf"), None),
    "image config": (lambda p: p.root(f"blobs/sha256/{p.image}"), (("image", "inspect", "busybox"), "sha256:")),
}


def zero(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


DAMAGES = (truncate, fill_with_garbage, remove, replace_by_the_other)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    zygote = Zygote()
    engine = EngineProcess("--pool-size", "0", zygote=zygote)
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            assert engine.docker("run", "--name", "victim", "busybox", "sh", "-c", "echo said; exit 3").returncode == 3
            engine.ok("run", "-d", "--name", "runs", "-v", "vessel:/v", "busybox", "sleep", "100000")
            image = engine.ok("image", "inspect", "-f", "{{.Id}}", "busybox").removeprefix("sha256:")
            layer = next(name for name in os.listdir(f"{engine.root}/layers") if len(name) == 64)
            yield Place(engine, engine.ok("inspect", "-f", "{{.Id}}", "victim"), image, layer)
            engine.ok("rm", "-fv", *engine.ok("ps", "-aq").split())
        finally:
            engine.shut_down()
            zygote.close()


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_harms_nobody_else_and_is_told(place: Place, name: str, tmp_path: Path) -> None:
    engine, (where, told) = place.engine, FILES[name]
    path, kept = where(place), tmp_path / "kept"
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "runs")
    for damage in DAMAGES:
        engine.kill()
        if not path.exists():
            engine.start()
            return
        if name == "shared memory of the log" and damage is replace_by_the_other:
            # SQLite takes the database for read-only then: told at the start, in one line.
            engine.start()
            continue
        if path.is_dir() and damage in (truncate, fill_with_garbage):
            engine.start()
            continue
        shutil.copytree(path, kept, symlinks=True) if path.is_dir() else shutil.copy2(path, kept)
        damage(path)
        case = f"{name}, {damage.__name__}"
        engine.start()
        assert engine.ok("inspect", "-f", "{{.State.Pid}}", "runs") == pid, case
        assert engine.ok("exec", "runs", "sh", "-c", "echo kept > /v/file; cat /v/file") == "kept", case
        assert set(engine.ok("ps", "-a", "--format", "{{.Names}}").split()) == {"runs", "victim"}, case
        assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "victim") == "3", case
        for words in ("logs", "victim"), ("start", "-a", "victim"), ("images",), ("system", "df"), ("diff", "victim"):
            done = engine.docker(*words)
            assert "internal error" not in done.stderr and "Traceback" not in engine.log_text(), (case, done, engine.log_text())
        if told is not None:
            done = engine.docker(*told[0])
            assert done.returncode == 0 or told[1] in done.stderr, (case, done)
        engine.kill()
        with suppress(FileNotFoundError):
            remove(path)
        shutil.copytree(kept, path, symlinks=True) if kept.is_dir() else shutil.copy2(kept, path)
        remove(kept)
        engine.start()
        audit.await_consistency(engine)
        assert engine.docker("start", "-a", "victim").returncode == 3, case
        assert engine.ok("run", "--rm", "busybox", "echo", "again") == "again", case


def cut_off(path: Path) -> None:
    """In the middle of what was written; the log is longer from the beginning."""
    os.truncate(path, len(path.read_bytes().rstrip(b"\0")) // 2)


@pytest.mark.parametrize("damage", [cut_off, zero, remove])
def test_what_a_damaged_log_of_the_database_has_lost_is_not_removed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """An engine that was killed has its latest changes there only; containers run that its next one does not know."""
    zygote = Zygote()
    engine = EngineProcess("--pool-size", "0", zygote=zygote)
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            program = "echo kept > /v/file; sleep 100000"
            engine.ok("run", "-d", "--name", "runs", "-v", "vessel:/v", "busybox", "sh", "-c", program)
            pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "runs")
            engine.kill()
            root = tmp_path / "root"
            shutil.copytree(engine.root, root, symlinks=True)
            damage(Path(engine.root, "berth.db-wal"))
            engine.start()
            assert "the latest changes are lost" in engine.log_text() and "berth.db.incomplete" in engine.log_text()
            assert os.path.exists(f"/proc/{pid}"), "a container was ended on the word of a damaged log"
            assert Path(engine.root, "volumes/vessel/_data/file").read_text() == "kept\n"
            engine.kill()
            engine.start()
            assert os.path.exists(f"/proc/{pid}"), "by the engine after the next"
            engine.kill()
            # The copy is put back: all is there again.
            for name in os.listdir(engine.root):
                if name.startswith("berth.db"):
                    os.unlink(f"{engine.root}/{name}")
            for name in ("berth.db", "berth.db-wal"):
                shutil.copy2(root / name, engine.root)
            engine.start()
            assert engine.ok("inspect", "-f", "{{.State.Pid}}", "runs") == pid
            assert engine.ok("exec", "runs", "cat", "/v/file") == "kept"
            engine.ok("rm", "-fv", "runs")
        finally:
            engine.shut_down()
            zygote.close()
