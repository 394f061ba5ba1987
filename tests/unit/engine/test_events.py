"""Events, and what the next engine knows of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from berth.engine.events import Events


def told(events: Events) -> list[str]:
    async def work() -> list[str]:
        return [message.action or "" async for message in events.listen(0, time.time_ns())]

    return asyncio.run(work())


def test_the_next_engine_knows_the_events_of_the_last(tmp_path: Path) -> None:
    path = str(tmp_path / "events.jsonl")
    first = Events(path)
    first.publish("container", "create", "1", {"name": "a"})
    first.publish("container", "start", "1")
    # Nothing is closed: the engine is killed.
    second = Events(path)
    second.publish("container", "die", "1")
    assert told(second) == ["create", "start", "die"]
    first.close()
    second.close()
    assert told(Events(path)) == ["create", "start", "die"]


def test_half_a_line_costs_one_event_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = Events(str(path))
    first.publish("container", "create", "1")
    first.publish("container", "start", "1")
    first.close()
    path.write_bytes(path.read_bytes()[:-20])
    second = Events(str(path))
    second.publish("container", "die", "1")
    second.close()
    assert told(Events(str(path))) == ["create", "die"]


def test_the_files_do_not_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = Events(str(path))
    for number in range(5000):
        events.publish("volume", "create", str(number))
    events.close()
    assert sum(len(file.read_bytes().splitlines()) for file in tmp_path.iterdir()) <= 2048
    assert len(told(Events(str(path)))) == 1024


def test_a_disk_that_takes_nothing_costs_the_history_only(tmp_path: Path) -> None:
    events = Events(str(tmp_path / "nowhere" / "events.jsonl"))
    events.publish("volume", "create", "1")
    assert told(events) == ["create"]
