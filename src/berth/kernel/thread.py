"""Work in a thread for a coroutine that may be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_its_end(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread`, for work with things that the caller closes on its way out: a thread cannot be stopped, so a caller
    that is cancelled goes on only when the thread has ended."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await ended(running)
        raise


async def ended(running: asyncio.Future[T]) -> None:
    """Wait for what cannot be stopped, in a caller that has been cancelled and may be so again. What it gives is dropped."""
    while not running.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([running])
    # Looked at, so that nobody reports it as lost: the caller ends for another reason.
    running.exception()
