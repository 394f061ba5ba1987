"""Work in threads for callers that are cancelled."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from berth.kernel.thread import to_its_end


def test_gives_what_the_work_gives() -> None:
    assert asyncio.run(to_its_end(int, "11", base=2)) == 3
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(to_its_end(int, "x"))


@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_that_is_cancelled_twice_goes_on_when_the_thread_has_ended(fails: bool) -> None:
    begun, order = threading.Event(), []

    def work() -> None:
        begun.set()
        time.sleep(0.1)
        order.append("work")
        if fails:
            raise RuntimeError

    async def caller() -> None:
        try:
            await to_its_end(work)
        finally:
            order.append("caller")

    async def case() -> None:
        task = asyncio.create_task(caller())
        await asyncio.to_thread(begun.wait)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(case())
    assert order == ["work", "caller"]
