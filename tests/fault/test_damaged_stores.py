"""What stands below containers, damaged while the engine is down: layers, writable layers, run files, claims of host ids, packed
logs. As in test_damaged_files: it starts, others work, the damaged thing is named with what to do; put back, all is as before."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.engine.idrange import CLAIMS, FIRST, SLOT, SLOTS_PER_BLOCK
from support import audit, leak
from support.damage import fill_with_garbage, remove, replace_by_the_other, truncate
from support.engine import EngineProcess, busybox_tar
from support.zygote import Zygote

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root")


@dataclass(frozen=True)
class Place:
    """An engine with `victim`, which has ended with 3, and `runs`, of another image."""

    engine: EngineProcess
    victim: str
    runs: str
    layer: str

    @contextmanager
    def damaged(self, path: Path, how: Callable[[Path], None], kept: Path) -> Iterator[None]:
        """Damaged while the engine is down, and put back; the engine starts."""
        self.engine.kill()
        shutil.copytree(path, kept, symlinks=True) if path.is_dir() else shutil.copy2(path, kept)
        how(path)
        try:
            self.engine.start()
            assert "Traceback" not in self.engine.log_text()
            yield
        finally:
            self.engine.kill()
            if os.path.lexists(path):
                remove(path)
            shutil.copytree(kept, path, symlinks=True) if kept.is_dir() else shutil.copy2(kept, path)
            self.engine.start()
        audit.await_consistency(self.engine)
        assert self.engine.docker("start", "-a", "victim").returncode == 3

    def others_work(self) -> None:
        """What has nothing to do with it."""
        assert self.engine.ok("exec", "runs", "sh", "-c", "echo kept > /v/file; cat /v/file") == "kept"
        assert self.engine.ok("run", "--rm", "other", "echo", "new") == "new"
        assert set(self.engine.ok("ps", "-a", "--format", "{{.Names}}").split()) == {"runs", "victim"}
        assert self.engine.ok("logs", "victim").startswith("said")


def other_tar() -> bytes:
    """The test image with one file more: it shares no layer with it."""
    out = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=out, mode="a") as tar:
        tar.addfile(tarfile.TarInfo("other"))
    return out.getvalue()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    zygote = Zygote()
    engine = EngineProcess("--pool-size", "0", zygote=zygote)
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            before = set(os.listdir(f"{engine.root}/layers"))
            engine.ok("import", "-", "other", input=other_tar())
            engine.ok("run", "-d", "--name", "runs", "-v", "vessel:/v", "other", "sleep", "100000")
            assert engine.docker("run", "--name", "victim", "busybox", "sh", "-c", "echo said; exit 3").returncode == 3
            ids = [engine.ok("inspect", "-f", "{{.Id}}", name) for name in ("victim", "runs")]
            layer = next(name for name in before if len(name) == 64)
            yield Place(engine, *ids, layer)
            engine.ok("rm", "-fv", *engine.ok("ps", "-aq").split())
        finally:
            engine.shut_down()
            zygote.close()


@pytest.mark.parametrize("how", [remove, replace_by_the_other])
@pytest.mark.parametrize("below", ["", "/fs"])
def test_a_layer(place: Place, tmp_path: Path, below: str, how: Callable[[Path], None]) -> None:
    with place.damaged(Path(f"{place.engine.root}/layers/{place.layer}{below}"), how, tmp_path / "kept"):
        place.others_work()
        copied = ("cp", "victim:/etc/passwd", "-")
        for words in ("start", "victim"), ("run", "--rm", "busybox", "true"), copied, ("diff", "victim"):
            said = place.engine.docker(*words)
            assert said.returncode != 0, said
            assert f"layer {place.layer} of the image is missing" in said.stderr and "load or build it again" in said.stderr, said
        assert place.layer in place.engine.berth("doctor", "--deep", "--severity", "problem", "--format", "json").stdout
        for words in ("system", "df"), ("images",), ("image", "inspect", "other"):
            assert place.engine.docker(*words).returncode == 0, words


@pytest.mark.parametrize("how", [remove, replace_by_the_other])
def test_a_writable_layer(place: Place, tmp_path: Path, how: Callable[[Path], None]) -> None:
    """A container that has lost its files is still there: its log, its volumes, its configuration."""
    path = Path(f"{place.engine.root}/containers/{place.victim}/upper")
    with place.damaged(path, how, tmp_path / "kept"):
        place.others_work()
        for words in ("start", "victim"), ("cp", "victim:/etc/passwd", "-"), ("diff", "victim"):
            said = place.engine.docker(*words)
            assert said.returncode != 0 and f"the writable layer {path} is missing" in said.stderr, said
        assert "containers have lost their files: victim" in place.engine.berth("doctor", "--deep", "--format", "json").stdout


@pytest.mark.parametrize("how", [remove, replace_by_the_other])
def test_a_work_directory(place: Place, tmp_path: Path, how: Callable[[Path], None]) -> None:
    """There is nothing in it between two runs."""
    with place.damaged(Path(f"{place.engine.root}/containers/{place.victim}/work"), how, tmp_path / "kept"):
        place.others_work()
        assert place.engine.docker("start", "-a", "victim").returncode == 3


@pytest.mark.parametrize("how", [truncate, fill_with_garbage, remove, replace_by_the_other])
def test_a_run_file(place: Place, tmp_path: Path, how: Callable[[Path], None]) -> None:
    """The shim knows all that is in it."""
    pid = place.engine.ok("inspect", "-f", "{{.State.Pid}}", "runs")
    with place.damaged(Path(f"{place.engine.config.shims}/{place.runs}.json"), how, tmp_path / "kept"):
        place.others_work()
        assert place.engine.ok("inspect", "-f", "{{.State.Pid}}", "runs") == pid


@pytest.mark.parametrize("how", [truncate, fill_with_garbage, remove, replace_by_the_other])
def test_a_claim_of_host_ids(place: Place, tmp_path: Path, how: Callable[[Path], None]) -> None:
    """Who has containers that run with ids of it writes it again, before another engine takes them for free."""
    pid = place.engine.ok("inspect", "-f", "{{.State.Pid}}", "runs")
    path = Path(CLAIMS, str((os.stat(f"/proc/{pid}").st_uid - FIRST) // (SLOT * SLOTS_PER_BLOCK)))
    assert path.read_text() == place.engine.root
    with place.damaged(path, how, tmp_path / "kept"):
        place.others_work()
        assert path.read_text() == place.engine.root and f"{path} was damaged or missing" in place.engine.log_text()


@pytest.mark.parametrize("how", [truncate, fill_with_garbage, remove, replace_by_the_other])
def test_a_packed_log(place: Place, how: Callable[[Path], None]) -> None:
    """What is before the damage is shown, and what comes after that file."""
    path = Path(f"{place.engine.root}/containers/{place.victim}/{place.victim}-json.log")
    packed, whole = Path(f"{path}.1.gz"), path.read_bytes()
    lines = b"".join(b'{"log":"old %d\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000000Z"}\n' % n for n in range(2000))
    with gzip.GzipFile("1-2-3", "wb", fileobj=packed.open("wb")) as file:
        file.write(lines)
    assert place.engine.ok("logs", "victim").startswith("old 0\nold 1\n")
    how(packed)
    for words in (), ("-n", "5000"), ("--since", "2020-01-01"):
        said = place.engine.docker("logs", *words, "victim")
        assert said.returncode == 0 and said.stdout.endswith("said\n") and "internal error" not in said.stderr, said
    assert place.engine.ok("logs", "-n", "1", "victim") == "said"
    remove(packed) if os.path.lexists(packed) else None
    assert path.read_bytes() == whole
