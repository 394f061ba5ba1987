"""Whether the client is still there: what is done for its answer alone ends when it goes, at once and without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from aiohttp import web

from berth.api.hijack import Protocol
from berth.errors import BerthError

log = logging.getLogger("berth.api")


async def while_connected(request: web.Request, work: Coroutine[Any, Any, None]) -> bool:
    """Run to the end, or until the client goes away; then nothing of it is left running. Whether the client stayed."""
    protocol = request.protocol
    assert isinstance(protocol, Protocol)
    task = asyncio.create_task(work)
    watch = asyncio.create_task(protocol.gone.wait())
    protocol.expendable = True
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    except ConnectionError:
        return False
    finally:
        protocol.expendable = False
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            # Given up, it may have failed on the way out; of interest is only what would have been a bug anyway.
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, (ConnectionError, BerthError)):
                log.error("ending %s %s, whose client has gone", request.method, request.path, exc_info=error)


def give_up(server: web.Server) -> None:
    """The engine ends: cut off what would go on for as long as its client likes. The client sees a broken connection, not an
    answer that looks whole."""
    for protocol in server.connections:
        if isinstance(protocol, Protocol) and protocol.expendable and protocol.transport is not None:
            protocol.transport.abort()


async def copy(request: web.Request, pieces: AsyncIterator[bytes], response: web.StreamResponse) -> None:
    """All pieces into the answer, and its end. The iterator is closed when the client goes, which is no error.

    An answer that has not begun begins with the first piece: what fails before that is told as any error."""

    async def work() -> None:
        async with aclosing(pieces) as source:  # type: ignore[type-var]  # it is a generator
            async for piece in source:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(piece)
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()

    await while_connected(request, work())
