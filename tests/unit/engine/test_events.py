"""Events, and what the next engine knows of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from berth.engine.events import Events


def told(events: Events) -> list[str]:
    async def work() -> list[str]:
        return [message.action or "" async for batch in events.listen(0, time.time_ns()) for message in batch]

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
    for number in range(50000):
        events.publish("volume", "create", str(number))
    events.close()
    stored = [line for file in tmp_path.iterdir() for line in file.read_bytes().splitlines()]
    assert 16384 <= len(stored) <= 32768
    assert len(told(Events(str(path)))) == len(stored) == len(set(stored)), "all that is stored is told, in memory or not"


def test_what_is_only_on_disk_is_told_before_what_is_in_memory(tmp_path: Path) -> None:
    path = str(tmp_path / "events.jsonl")
    events = Events(path)
    for number in range(3000):
        events.publish("volume", f"a{number}", "1")
    assert told(events) == [f"a{number}" for number in range(3000)]
    events.close()
    later = Events(path)
    assert len(later.kept) == 1024
    later.publish("volume", "a3000", "1")
    assert told(later) == [f"a{number}" for number in range(3001)]

    async def since(moment: int) -> list[str]:
        return [message.action or "" async for batch in later.listen(moment, time.time_ns()) for message in batch]

    oldest = later.kept[0].time_nano or 0
    assert asyncio.run(since(oldest)) == [f"a{number}" for number in range(3001 - 1024, 3001)]
    # A disk that lost lines costs the history, and tells nothing twice.
    (tmp_path / "events.jsonl").write_bytes(b"")
    assert told(later) == [f"a{number}" for number in range(3001 - 1024, 3001)]


def test_a_disk_that_takes_nothing_costs_the_history_only(tmp_path: Path) -> None:
    events = Events(str(tmp_path / "nowhere" / "events.jsonl"))
    events.publish("volume", "create", "1")
    assert told(events) == ["create"]


def test_others_are_answered_while_a_long_past_is_told() -> None:
    events = Events()
    for number in range(1000):
        events.publish("volume", f"a{number}", "1")

    async def work() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        async for _ in events.listen(0, time.time_ns()):
            pass
        beside.cancel()
        return turns

    assert asyncio.run(work()) >= 1000 // 64
