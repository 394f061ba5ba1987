"""The fixtures of tests that drive an OCI runtime: import it by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.runtime import cgroup_layout
from support import leak
from support.bundle import BERTH, PREFIX, Bundle, Runtime, remove_all


def groups() -> set[str]:
    """The control groups that tests of this file's fixtures made and left."""
    roots, v2, _ = cgroup_layout.layout().parts()
    places = {*roots.values(), *([v2] if v2 else [])}
    return {f"{place}/{name}" for place in places for name in os.listdir(place) if name.startswith(PREFIX)}


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    """A bundle; afterwards no mount, group or process of a test is left."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and control groups are made")
    busybox = next((path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path)), "")
    if not busybox:
        pytest.skip("needs the package busybox-static")
    layer = tmp_path / "layer"
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc", "root", "run"):
        (layer / name).mkdir(parents=True)
    shutil.copy2(busybox, layer / "bin/busybox")
    (layer / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if name != "busybox":
            (layer / "bin" / name).symlink_to("busybox")
    made = tmp_path / "bundle"
    made.mkdir()

    def snapshot() -> set[str]:
        mounts = {line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line}
        return mounts | groups()

    with leak.nothing_left(snapshot):
        yield Bundle(made, str(layer))


@pytest.fixture
def runtime(bundle: Bundle, tmp_path: Path) -> Iterator[Runtime]:
    """berth-runtime on that bundle; what it left is removed."""
    made = Runtime(BERTH, tmp_path / "state", bundle)
    yield made
    remove_all(made)
