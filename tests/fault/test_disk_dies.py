"""The disk under an engine becomes read-only, as a filesystem does after an I/O error: it says so, containers can still be
looked at, used and stopped, and when the disk is back nothing is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import audit
from support.engine import SLOW, EngineProcess, busybox_tar

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem: needs root"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4 (e2fsprogs)"),
]
DEAD = ("read-only file system", "input/output error", "berth.db cannot be written")


class Disk:
    """An ext4 filesystem in a file."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "image"
        self.place = directory / "disk"
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(48 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._image)], check=True)

    def mount(self) -> bool:
        """Whether that was possible."""
        return subprocess.run(["mount", "-o", "loop", str(self._image), str(self.place)], capture_output=True).returncode == 0

    def die(self) -> None:
        """What the kernel does with a filesystem whose disk gave an error: from now on nothing can be written."""
        subprocess.run(["mount", "-o", "remount,abort", str(self.place)], check=False, capture_output=True)
        with pytest.raises(OSError, match="Read-only file system"):
            (self.place / "probe").touch()

    def unmount(self) -> None:
        """Returns when nobody uses it any more, or after some seconds."""
        subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)
        deadline = time.monotonic() + 10 * SLOW
        while subprocess.run(["losetup", "-j", str(self._image)], capture_output=True, check=True).stdout:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounted."""
    found = Disk(tmp_path)
    if not found.mount():
        pytest.skip("this host has no loop devices to mount")
    yield found
    found.unmount()


def test_a_disk_that_can_only_be_read_any_more(disk: Disk, tmp_path: Path) -> None:
    engine = EngineProcess("--pool-size", "0", root=f"{disk.place}/root")
    engine.start()
    try:
        engine.add_busybox()
        script = "trap 'exit 6' TERM; while :; do echo line; sleep 0.1; done"
        engine.ok("run", "-d", "--name", "runs", "busybox", "sh", "-c", script)
        engine.ok("create", "--name", "made", "busybox", "true")
        disk.die()
        for words in (
            ("create", "busybox"), ("start", "made"), ("volume", "create", "vessel"), ("network", "create", "net"),
            ("tag", "busybox", "other"), ("commit", "runs", "committed"), ("rm", "made"), ("rename", "made", "unmade"),
        ):  # fmt: skip
            done = engine.docker(*words)
            assert done.returncode != 0 and any(text in done.stderr.lower() for text in DEAD), (words, done)
            assert "internal error" not in done.stderr, (words, done)
        done = engine.docker("import", "-", "other", input=busybox_tar())
        assert done.returncode != 0 and any(text in done.stderr.lower() for text in DEAD), done
        assert engine.ok("ps", "--format", "{{.Names}}") == "runs"
        assert engine.ok("exec", "runs", "echo", "inside") == "inside"
        assert "made" in engine.ok("ps", "-a", "--format", "{{.Names}}").split()
        engine.ok("stop", "-t", "10", "runs")
        assert engine.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "runs") == "exited 6"
        engine.kill()
        disk.unmount()
        assert disk.mount()
        engine.start()
        # That it has ended is known; with which code, the disk did not take.
        assert engine.ok("inspect", "-f", "{{.State.Status}}", "runs") == "exited"
        audit.await_consistency(engine)
        assert engine.ok("run", "--rm", "busybox", "echo", "again") == "again"
        engine.ok("start", "made")
        engine.ok("rm", "-f", "runs", "made")
    finally:
        engine.shut_down()


def test_a_data_root_that_is_read_only_at_the_start(tmp_path: Path) -> None:
    engine = EngineProcess()
    engine.start()
    engine.add_busybox()
    engine.terminate()
    subprocess.run(["mount", "--bind", engine.root, engine.root], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", engine.root], check=True)
        engine.spawn()
        assert engine.process is not None and engine.process.wait(20) == 1
        last = engine.log_text().splitlines()[-1]
        assert f"data root {engine.root} (choose another one with --root)" in last and "read-only file system" in last
    finally:
        subprocess.run(["umount", engine.root], check=True)
    engine.start()
    assert engine.ok("run", "--rm", "busybox", "echo", "again") == "again"
    engine.shut_down()
