"""Bounded hand-over of byte chunks between threads, and between a thread and the event loop.

A slow reader holds the writer up: at most a few chunks are in memory. Either side may give up; the other then notices at
its next call and does not block for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import TypeVar

_BOUND = 6
T = TypeVar("T")


class Abandoned(Exception):
    """The reader is gone: there is nobody to produce for. Never leaves this package."""


class Channel:
    """Chunks from one thread to another."""

    def __init__(self, bound: int = _BOUND) -> None:
        self._bound = bound
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, chunk: bytes) -> None:
        """Hand over a chunk, waiting for room. Abandoned when the reader has gone."""
        with self._changed:
            while len(self._chunks) >= self._bound and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                raise Abandoned
            self._chunks.append(chunk)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """No more chunks; with an error, the reader gets it once it has read what was there."""
        with self._changed:
            self._finished = True
            self._error = error
            self._changed.notify_all()

    def get(self) -> bytes:
        """The next chunk, empty at the end."""
        with self._changed:
            while not self._chunks and not self._finished:
                self._changed.wait()
            if self._chunks:
                chunk = self._chunks.popleft()
                self._changed.notify_all()
                return chunk
            if self._error is not None:
                raise self._error
            return b""

    def abandon(self) -> None:
        """The reader reads no more."""
        with self._changed:
            self._abandoned = True
            self._chunks.clear()
            self._changed.notify_all()


class StreamReader:
    """Lets a thread read a stream of the event loop. Made in the loop."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._pending: Future[bytes] | None = None
        self._cancelled = False

    def read(self) -> bytes:
        """The next chunk, empty at the end. Abandoned after `cancel`."""
        self._pending = asyncio.run_coroutine_threadsafe(self._following(), self._loop)
        if self._cancelled:
            self._pending.cancel()
        try:
            return self._pending.result()
        except CancelledError:
            raise Abandoned from None

    async def _following(self) -> bytes:
        async for chunk in self._stream:
            if chunk:
                return chunk
        return b""

    def cancel(self) -> None:
        """Wake the thread up: nobody wants the result any more."""
        self._cancelled = True
        if self._pending is not None:
            self._pending.cancel()


async def run_stoppable(executor: Executor, work: Callable[[Callable[[], bool]], T], reader: StreamReader | None = None) -> T:
    """`work(stop)` in a thread. When the caller is cancelled, `stop()` becomes true and the thread's end is awaited."""
    stop = threading.Event()
    running = asyncio.get_running_loop().run_in_executor(executor, work, stop.is_set)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        if reader is not None:
            reader.cancel()
        while not running.done():
            await asyncio.wait([running])
        running.exception()
        raise


async def stream_from(produce: Callable[[Callable[[bytes], None]], None], executor: Executor) -> AsyncIterator[bytes]:
    """What `produce(write)` writes in a thread, chunk by chunk. Closing the stream ends the producer (its `write` raises)."""
    loop = asyncio.get_running_loop()
    room = threading.Semaphore(_BOUND)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    gone = threading.Event()

    def write(chunk: bytes) -> None:
        room.acquire()
        if gone.is_set():
            raise Abandoned
        loop.call_soon_threadsafe(queue.put_nowait, chunk)

    def run() -> None:
        try:
            produce(write)
        except Abandoned:
            pass
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    running = loop.run_in_executor(executor, run)
    try:
        while True:
            chunk = await queue.get()
            if chunk is None:
                break
            room.release()
            yield chunk
    except BaseException:
        gone.set()
        room.release()
        await asyncio.wait([running])
        running.exception()
        raise
    await running
