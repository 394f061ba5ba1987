"""Progress messages in Docker's form, from many tasks to one listener, in order and not too many.

{"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "progress": "[=>  ]  1B/2B", "id": "abc..."}
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from berth.contract.image import Progress
from berth.errors import BerthError

_INTERVAL = 0.1
_MAX_WAITING = 256
_BAR = 50


def size_text(value: int) -> str:
    """Decimal, four significant digits: 12.34MB."""
    number = float(value)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.4g}{unit}"
        number /= 1000
    return f"{value}B"


def bar(current: int, total: int) -> str:
    """The progress bar that old clients print as it is."""
    if total <= 0:
        return size_text(current)
    filled = min(_BAR, current * _BAR // total)
    line = "=" * max(filled - 1, 0) + ">" * (filled > 0) if filled < _BAR else "=" * (_BAR - 1) + ">"
    return f"[{line:<{_BAR}}]  {size_text(current)}/{size_text(total)}"


class Reporter:
    """What tasks tell. Emitting never waits; the listener gets it from a task of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._last: dict[tuple[str, str], float] = {}

    def message(self, status: str, identifier: str | None = None, **more: Any) -> None:
        """A message as it is."""
        found: dict[str, Any] = {"status": status, **more}
        if identifier is not None:
            found["id"] = identifier
        self._queue.put_nowait(found)

    def state(self, identifier: str, status: str) -> None:
        """The state of one layer."""
        self.message(status, identifier, progressDetail={})

    def raw(self, message: dict[str, Any]) -> None:
        """Anything else."""
        self._queue.put_nowait(message)

    def amount(self, identifier: str, status: str, current: int, total: int) -> None:
        """How far one layer is. At most ten messages a second, fewer for a listener that does not keep up."""
        now, key = self._clock(), (identifier, status)
        if self._queue.qsize() > _MAX_WAITING or (current < total and now - self._last.get(key, -1.0) < _INTERVAL):
            return
        self._last[key] = now
        detail = {"current": current, "total": total} if total > 0 else {"current": current}
        self.message(status, identifier, progressDetail=detail, progress=bar(current, total))

    def meter(self, identifier: str, status: str, total: int) -> Callable[[int], None]:
        """A callback for something that counts bytes."""
        return lambda current: self.amount(identifier, status, current, total)

    async def drain(self, listener: Progress | None) -> None:
        """Hand over until closed."""
        while (message := await self._queue.get()) is not None:
            if listener is not None:
                await listener(message)

    def close(self) -> None:
        """Nothing more will come."""
        self._queue.put_nowait(None)


@asynccontextmanager
async def reporting(listener: Progress | None) -> AsyncIterator[Reporter]:
    """A reporter for the time of a `with` block. Everything emitted is handed over before the block is left, also when
    it fails. A listener that fails (a client that is gone) cancels the work and its error is raised."""
    reporter = Reporter()
    work = asyncio.current_task()
    drain = asyncio.create_task(reporter.drain(listener))
    broken = False

    def ended(task: asyncio.Task[None]) -> None:
        nonlocal broken
        if not task.cancelled() and task.exception() is not None and work is not None:
            broken = True
            work.cancel()

    drain.add_done_callback(ended)
    try:
        yield reporter
    except asyncio.CancelledError:
        if broken and work is not None:
            work.uncancel()
            await drain
        drain.cancel()
        raise
    except BaseException:
        drain.remove_done_callback(ended)
        reporter.close()
        await asyncio.wait([drain])
        raise
    reporter.close()
    drain.remove_done_callback(ended)
    await drain


@asynccontextmanager
async def one_error() -> AsyncIterator[None]:
    """Around a task group: raise the first error of the group instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup):
            found = next((error for error in found.exceptions if isinstance(error, BerthError)), found.exceptions[0])
        raise found from None
