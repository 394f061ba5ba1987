"""Byte streams between threads and the event loop, with back-pressure, and threads that end when their caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import TypeVar, cast

from berth.kernel.thread import ended
from berth.storage.channel import BOUND, Abandoned

T = TypeVar("T")


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


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run something in a thread of its own: what may wait for a slow client must not hold a thread that others need."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result, raised = None, None
        try:
            result = work()
        except BaseException as error:
            raised = error
        with contextlib.suppress(RuntimeError):
            # The loop may have ended, and then nobody waits.
            loop.call_soon_threadsafe(settle, result, raised)

    threading.Thread(target=run, name="stream", daemon=True).start()
    return future


async def run_stoppable(
    executor: Executor | None, work: Callable[[Callable[[], bool]], T], reader: StreamReader | None = None
) -> T:
    """`work(stop)` in a thread of the executor, or in one of its own. When the caller is cancelled, `stop()` becomes true and
    the thread's end is awaited."""
    stop = threading.Event()
    if executor is None:
        running = in_thread(lambda: work(stop.is_set))
    else:
        running = asyncio.get_running_loop().run_in_executor(executor, work, stop.is_set)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        if reader is not None:
            reader.cancel()
        await ended(running)
        raise


async def stream_from(
    produce: Callable[[Callable[[bytes], None]], None], abort: Callable[[], None] | None = None
) -> AsyncGenerator[bytes, None]:
    """What `produce(write)` writes in a thread, chunk by chunk. Closing the stream ends the producer: its `write` raises, and
    `abort` wakes it up where it waits for something else."""
    loop = asyncio.get_running_loop()
    room = threading.Semaphore(BOUND)
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

    running = in_thread(run)
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
        if abort is not None:
            abort()
        await asyncio.wait([running])
        running.exception()
        raise
    await running
