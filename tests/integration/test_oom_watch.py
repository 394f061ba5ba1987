"""The kernel's word that a group has run out of memory, on whatever control groups this host has."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.runtime import cgroup, cgroup_layout
from berth.runtime.oom_watch import OomWatch
from support.engine import SLOW

EATER = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]


@pytest.fixture
def group() -> Iterator[cgroup.Group]:
    """A group with a limit of 16 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: control groups are made")
    roots, v2, controllers = cgroup_layout.layout().parts()
    if "memory" not in roots and "memory" not in controllers:
        pytest.skip("this host has no memory control group")
    parent = f"/berth-test-oom-{os.getpid()}"
    made: cgroup.Group = {"path": parent + "/one", "roots": roots, "v2": v2, "enabled": controllers}
    cgroup.create(made)
    where = Path(cgroup.directory(made, "memory"))
    for name in "memory.limit_in_bytes", "memory.max":
        if (where / name).exists():
            (where / name).write_text(str(16 << 20))
    if (where / "memory.swap.max").exists():
        (where / "memory.swap.max").write_text("0")
    yield made
    cgroup.remove(made)
    cgroup.remove({**made, "path": parent})


def eat(group: cgroup.Group) -> int:
    """The exit status of a process in the group that wants more than there is."""
    tasks = cgroup.directory(group, "memory") + "/cgroup.procs"
    return subprocess.run(["sh", "-c", 'echo $$ > "$0" && exec "$@"', tasks, *EATER], check=False, capture_output=True).returncode


def test_each_time_is_heard_and_the_end_is_not(group: cgroup.Group) -> None:
    async def case() -> None:
        watch, heard = OomWatch(), asyncio.Event()
        end = watch.watch(group, heard.set)
        for count in 1, 2:
            heard.clear()
            assert await asyncio.to_thread(eat, group) == -9
            await asyncio.wait_for(heard.wait(), 10 * SLOW)
            assert cgroup.oom_kills(group) == count
        heard.clear()
        other = OomWatch()
        quiet = asyncio.Event()
        other.watch(group, quiet.set)()
        await asyncio.to_thread(cgroup.remove, group)
        # What the kernel says of a removal comes through the same descriptors; let the loop see it.
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert not heard.is_set() and not quiet.is_set()
        end()
        end()
        watch.close()
        other.close()

    asyncio.run(case())


def test_a_group_that_is_gone_is_not_watched() -> None:
    async def case() -> None:
        watch = OomWatch()
        roots = {"memory": "/sys/fs/cgroup/memory"}
        gone: cgroup.Group = {"path": "/berth-test-nowhere", "roots": roots, "v2": None, "enabled": []}
        watch.watch(gone, lambda: None)()
        watch.close()

    asyncio.run(case())
