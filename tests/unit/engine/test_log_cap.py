"""The cap over all logs of a host: what goes first, and what is never lost to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from berth.engine.containers.creation import CreateBody
from berth.engine.containers.log_cap import LogCap
from support.container_twins import World


def capped(tmp_path: Path, cap: int, case: Callable[[World, LogCap], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        world = World(tmp_path, log_cap=cap)
        await case(world, LogCap(world.service.parts))

    asyncio.run(asyncio.wait_for(run(), 20))


async def made(world: World, name: str, *sizes: int, start: bool = False) -> Path:
    """A container whose log files, newest first, have these sizes."""
    answer = await world.service.create(name, CreateBody(image="busybox", cmd=["sleep"]))
    if start:
        await world.service.start(name)
    path = Path(world.service.parts.log_path(answer.id or ""))
    for number, size in enumerate(sizes):
        (path if number == 0 else path.with_name(f"{path.name}.{number}")).write_bytes(b"x" * size)
    return path


def left(path: Path) -> list[str]:
    return sorted(p.name.rpartition("-json.log")[2] for p in path.parent.glob("*-json.log*"))


def test_the_oldest_rotated_files_of_the_largest_log_go_first(tmp_path: Path) -> None:
    async def case(world: World, cap: LogCap) -> None:
        large = await made(world, "large", 100, 300, 300, 300)
        small = await made(world, "small", 100, 200)
        assert await cap.enforce() == 600
        assert left(large) == ["", ".1"] and left(small) == ["", ".1"]
        assert await cap.enforce() == 0

    capped(tmp_path, 800, case)


def test_below_the_cap_nothing_goes(tmp_path: Path) -> None:
    async def case(world: World, cap: LogCap) -> None:
        path = await made(world, "web", 100, 100)
        assert await cap.enforce() == 0 and left(path) == ["", ".1"]

    capped(tmp_path, 200, case)


def test_where_nothing_is_rotated_the_largest_is_begun_anew_by_its_shim(tmp_path: Path) -> None:
    async def case(world: World, cap: LogCap) -> None:
        running = await made(world, "running", 900, start=True)
        stopped = await made(world, "stopped", 500)
        await cap.enforce()
        # The shim writes to that file: only it may take it away.
        assert [task.rotations for task in world.runtime.launched] == [1] and left(running) == [""]
        assert left(stopped) == [""]

    capped(tmp_path, 700, case)


def test_the_log_of_a_stopped_container_goes_as_the_last(tmp_path: Path) -> None:
    async def case(world: World, cap: LogCap) -> None:
        stopped = await made(world, "stopped", 500, 100)
        await cap.enforce()
        assert left(stopped) == []

    capped(tmp_path, 10, case)
