"""The fixture of tests that launch: import it by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.runtime import cgroup
from support import leak
from support.launching import PARENT, Bench


@pytest.fixture(scope="module")
def _module_bench() -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and control groups are made")
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def bench(_module_bench: Bench) -> Iterator[Bench]:
    """Launches of busybox; afterwards nothing may be left."""

    def snapshot() -> set[str]:
        # Only what these tests make: others may be at work on the same machine.
        mounts = {line for line in Path("/proc/self/mountinfo").read_text().splitlines() if _module_bench.base in line}
        links = {name for name in os.listdir("/sys/class/net") if name.startswith("btl")}
        groups = {path for path in cgroup.directories(_module_bench.compiler.group("/" + PARENT)) if os.path.isdir(path)}
        return (
            mounts | links | {f"{path}/{name}" for path in groups for name in os.listdir(path) if os.path.isdir(f"{path}/{name}")}
        )

    with leak.nothing_left(snapshot):
        yield _module_bench
