"""Between the event loop and threads: archives are read and written by blocking code, their bytes come and go asynchronously.

`consume` runs a function in a thread that reads an asynchronous stream as a file; `produce` turns a generator of bytes
that runs in a thread into an asynchronous stream. Both move only as fast as the slower side, and both end the thread
when the waiting task is cancelled.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
ByteStream = AsyncIterator[bytes]
Read = Callable[[], bytes]
"""Gives the next piece of a stream, empty at the end."""

CHUNK = 256 * 1024
_THREADS = concurrent.futures.ThreadPoolExecutor(max_workers=16, thread_name_prefix="build")


class StreamAborted(OSError):
    """The other side of the stream went away."""


class Pieces:
    """An asynchronous stream for one thread: `read` waits for its next piece, empty at the end."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._pending: concurrent.futures.Future[bytes] | None = None
        self._aborted = False

    def read(self) -> bytes:
        """In the thread. StreamAborted when the stream was given up."""
        if self._aborted:
            raise StreamAborted("the stream was given up")
        self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        try:
            return self._pending.result()
        except concurrent.futures.CancelledError:
            raise StreamAborted("the stream was given up") from None

    async def _next(self) -> bytes:
        async for piece in self._stream:
            if piece:
                return piece
        return b""

    def abort(self) -> None:
        """From the loop: wake the thread up with StreamAborted, now or at its next read."""
        self._aborted = True
        if self._pending is not None:
            self._pending.cancel()


async def consume(stream: ByteStream, work: Callable[[Read], T]) -> T:
    """Run `work` in a thread on the stream. Cancelling waits until the thread has noticed and ended."""
    pieces = Pieces(stream)
    return await run_in_thread(lambda: work(pieces.read), pieces.abort)


async def run_in_thread(work: Callable[[], T], abort: Callable[[], None] | None = None) -> T:
    """Run `work` in a thread of the builder's own pool. A cancelled caller still waits for its end."""
    future = asyncio.get_running_loop().run_in_executor(_THREADS, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if abort is not None:
            abort()
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise


async def produce(make: Callable[[], Iterator[bytes | memoryview]], abort: Callable[[], None] | None = None) -> ByteStream:
    """The generator's pieces, joined to chunks of some size; it runs in threads of the pool, one chunk at a time."""
    iterator = make()
    try:
        while chunk := await run_in_thread(lambda: _chunk(iterator), abort):
            yield chunk
    finally:
        if abort is not None:
            abort()
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _chunk(iterator: Iterator[bytes | memoryview]) -> bytes:
    parts: list[bytes | memoryview] = []
    size = 0
    for piece in iterator:
        parts.append(piece)
        size += len(piece)
        if size >= CHUNK:
            break
    return b"".join(parts)
