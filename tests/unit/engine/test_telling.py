"""Events that an engine that was killed did not come to tell: the next one tells them, and none twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from berth.engine.containers.creation import CreateBody
from berth.engine.events import Events
from berth.engine.exec import ExecService
from berth.errors import NotFound
from berth.wire.container import HostConfig
from support.container_twins import TwinTask, World


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


async def started(world: World, name: str = "web", **host: Any) -> TwinTask:
    body = CreateBody(image="busybox", cmd=["sleep"], host_config=HostConfig(**host))
    await world.service.create(name, body)
    await world.service.start(name)
    return world.runtime.launched[-1]


async def next_engine(world: World, swallowed: Callable[[str], bool]) -> None:
    """Kill it before the swallowed ones of its last events were written, and start the next one."""
    for container in world.service.parts.catalog:
        if container.watcher is not None:
            container.watcher.cancel()
    kept = [message for message in world.events.kept if not swallowed(message.action or "")]
    world.events = Events()
    # What any engine tells first: its log reaches back to before its first container.
    world.events._kept.extend(kept)
    world.reopen()
    await world.service.restore()
    ExecService(world.service).restore()


def begun(world: World) -> None:
    world.events.publish("image", "import", "sha256:1")


@pytest.mark.parametrize("swallowed", [(), ("start",), ("create", "start")])
def test_a_start_that_was_not_told(tmp_path: Path, swallowed: tuple[str, ...]) -> None:
    async def case() -> None:
        world = World(tmp_path)
        begun(world)
        await started(world)
        await next_engine(world, lambda action: action in swallowed)
        assert world.actions() == ["create", "start"]
        await world.service.shutdown(False)

    run(case())


def test_an_end_that_was_not_told(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        begun(world)
        task = await started(world)
        ended = world.service.get("web").next_exit()
        task.finish(7)
        await ended
        world.runtime.known.pop(task.id, None)
        await next_engine(world, lambda action: action == "die")
        assert world.actions() == ["create", "start", "die"]
        last = world.events.kept[-1]
        assert last.actor is not None and last.actor.attributes is not None
        assert last.actor.attributes["exitCode"] == "7" and last.actor.attributes["name"] == "web"

    run(case())


def test_an_end_while_no_engine_was_there_is_told_after_its_start(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        begun(world)
        task = await started(world)
        world.service.get("web").watcher.cancel()  # type: ignore[union-attr]
        task.finish(3)
        await next_engine(world, lambda action: action == "start")
        assert world.actions() == ["create", "start", "die"]

    run(case())


def test_a_pause_and_its_end(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        begun(world)
        await started(world)
        await world.service.pause("web")
        await next_engine(world, lambda action: action == "pause")
        assert world.actions() == ["create", "start", "pause"]
        await world.service.unpause("web")
        await next_engine(world, lambda action: action == "unpause")
        assert world.actions() == ["create", "start", "pause", "unpause"]
        await world.service.shutdown(False)

    run(case())


def test_a_removal_that_was_not_told(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        begun(world)
        identifier = (await world.service.create("web", CreateBody(image="busybox"))).id
        await world.service.remove("web", force=False, volumes=False)
        await next_engine(world, lambda action: action == "destroy")
        assert world.actions() == ["create", "destroy"]
        actor = world.events.kept[-1].actor
        assert actor is not None and actor.id == identifier and actor.attributes == {"image": "busybox", "name": "web"}

    run(case())


def test_what_lies_before_the_events_that_are_kept_was_told(tmp_path: Path) -> None:
    async def case() -> None:
        world = World(tmp_path)
        await started(world)
        world.events = Events()
        begun(world)
        await next_engine(world, lambda action: False)
        assert world.actions() == []
        await world.service.shutdown(False)

    run(case())


def test_a_container_that_has_gone_is_not_renamed(tmp_path: Path) -> None:
    """Its new name would be taken for ever, by nobody."""

    async def case() -> None:
        world = World(tmp_path)
        await world.service.create("web", CreateBody(image="busybox"))
        container = world.service.get("web")
        async with container.lock:
            renaming = asyncio.create_task(world.service.rename("web", "other"))
            await asyncio.sleep(0)
            container.tell_removed()
        with pytest.raises(NotFound):
            await renaming
        await world.service.create("other", CreateBody(image="busybox"))

    run(case())
