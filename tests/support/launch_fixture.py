"""The fixture of tests that launch: import it by name."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

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
        mounts = {entry for entry in leak.mounts() if _module_bench.base in entry}
        links = {entry for entry in leak.links() if entry.startswith("link btl")}
        return mounts | links | leak.control_groups(PARENT)

    with leak.nothing_left(snapshot):
        yield _module_bench
