"""`berth system verify`: files of images that somebody has changed below a running container, and how they come back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import EngineProcess

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root")
CHANGED = ("/etc/passwd", "/etc/group", "/bin/busybox", "/usr/bin/more")


def layer_of(engine: EngineProcess, image: str) -> Path:
    (diff_id,) = engine.ok("image", "inspect", "-f", '{{join .RootFS.Layers " "}}', image).split()
    return Path(engine.root, "layers", diff_id.removeprefix("sha256:"), "fs")


def change(fs: Path) -> None:
    """Other content, a file gone, a mode, a file more."""
    (fs / "etc/passwd").write_text("root::0:0:root:/root:/bin/sh\n")
    (fs / "etc/group").unlink()
    (fs / "bin/busybox").chmod(0o4755)
    (fs / "usr/bin/more").write_text("#!/bin/sh\n")


@pytest.fixture
def own_engine() -> Iterator[EngineProcess]:
    found = EngineProcess("--pool-size", "0")
    with leak.nothing_left(found.snapshot):
        found.start()
        try:
            found.add_busybox()
            yield found
        finally:
            found.shut_down()


def test_what_was_changed_is_named_and_repaired(own_engine: EngineProcess, tmp_path: Path) -> None:
    engine, archive = own_engine, f"{tmp_path}/image.tar"
    engine.ok("tag", "busybox", "second")
    engine.ok("save", "-o", archive, "busybox", "second")
    engine.ok("rmi", "busybox", "second")
    # From an archive, so that it has what it came in; and another one beside it.
    engine.ok("load", "-i", archive)
    engine.ok("build", "-q", "-t", "above", "-", input=b"FROM busybox\nRUN echo more > /more\n")
    done = engine.berth("system", "verify")
    assert done.returncode == 0 and done.stdout == "2 layers: all files are what they should be\n", done
    fs = layer_of(engine, "busybox")
    change(fs)
    done = engine.berth("system", "verify")
    assert done.returncode == 1 and "berth system verify --repair" in done.stdout, done
    assert all(f"  {name}\n" in done.stdout for name in CHANGED), done
    head = done.stdout.splitlines()[0]
    assert all(name in head for name in ("busybox:latest", "second:latest", "above:latest", fs.parent.name)), head
    done = engine.berth("system", "verify", "--repair")
    assert done.returncode == 0 and done.stdout.endswith("2 layers: 1 damaged, 1 of them repaired\n"), done
    assert engine.berth("system", "verify").returncode == 0
    assert "worker" in engine.ok("run", "--rm", "above", "cat", "/etc/passwd")


def test_images_of_our_own_and_containers_that_run(own_engine: EngineProcess, tmp_path: Path) -> None:
    """A layer that was made here is named, and mended by loading the image from an archive; who runs on it goes on."""
    engine, archive = own_engine, f"{tmp_path}/image.tar"
    engine.ok("save", "-o", archive, "busybox")
    fs = layer_of(engine, "busybox")
    engine.ok("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "runs")
    change(fs)
    done = engine.berth("system", "verify", "--repair")
    assert done.returncode == 1, done
    assert all(f"  {name}\n" in done.stdout for name in CHANGED), done
    assert "load the image from an archive of it" in done.stdout
    results: list[int] = []
    one = ("run", "--rm", "busybox", "true")
    starts = threading.Thread(target=lambda: results.extend(engine.docker(*one).returncode for _ in range(3)))
    starts.start()
    engine.ok("load", "-i", archive)
    starts.join()
    assert results == [0, 0, 0]
    assert engine.berth("system", "verify").returncode == 0
    assert "worker" in engine.ok("run", "--rm", "busybox", "cat", "/etc/passwd")
    assert engine.ok("inspect", "-f", "{{.State.Pid}}", "runs") == pid
    assert engine.ok("exec", "runs", "echo", "inside") == "inside"
    engine.ok("restart", "-t", "0", "runs")
    assert "worker" in engine.ok("exec", "runs", "cat", "/etc/passwd")
    engine.ok("rm", "-f", "runs")
