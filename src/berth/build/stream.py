"""Between the event loop and threads: archives are read and written by blocking code, their bytes come and go asynchronously.

`consume` runs a function in a thread that reads an asynchronous stream as a file; `produce` turns a generator of bytes
that runs in a thread into an asynchronous stream. Both move only as fast as the slower side, and both end the thread
when the waiting task is cancelled.
"""

from __future__ import annotations

import asyncio
import bz2
import concurrent.futures
import io
import lzma
from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO, TypeVar, cast

from backports import zstd
from isal import igzip

T = TypeVar("T")
ByteStream = AsyncIterator[bytes]

CHUNK = 256 * 1024
_THREADS = concurrent.futures.ThreadPoolExecutor(max_workers=16, thread_name_prefix="build")


class StreamAborted(OSError):
    """The other side of the stream went away."""


class _Pulled(io.RawIOBase):
    """A file for one thread; each read waits for the next piece of the asynchronous stream."""

    def __init__(self, stream: ByteStream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._rest = memoryview(b"")
        self._pending: concurrent.futures.Future[bytes] | None = None
        self._aborted = False
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest and not self._ended:
            if self._aborted:
                raise StreamAborted("the stream was given up")
            self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            try:
                piece = self._pending.result()
            except concurrent.futures.CancelledError:
                raise StreamAborted("the stream was given up") from None
            self._ended = not piece
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

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


def as_file(stream: ByteStream, loop: asyncio.AbstractEventLoop) -> tuple[io.BufferedReader, Callable[[], None]]:
    """The stream as a file for a thread, and the function that ends its waiting."""
    raw = _Pulled(stream, loop)
    return io.BufferedReader(raw, CHUNK), raw.abort


async def consume(stream: ByteStream, work: Callable[[io.BufferedReader], T]) -> T:
    """Run `work` in a thread on the stream. Cancelling waits until the thread has noticed and ended."""
    loop = asyncio.get_running_loop()
    reader, abort = as_file(stream, loop)
    return await run_in_thread(lambda: work(reader), abort)


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


async def produce(make: Callable[[], Iterator[bytes]], abort: Callable[[], None] | None = None) -> ByteStream:
    """The generator's pieces; it runs in threads of the pool, one step at a time."""
    iterator = make()
    try:
        while True:
            piece = await run_in_thread(lambda: next(iterator, None), abort)
            if piece is None:
                return
            yield piece
    finally:
        if abort is not None:
            abort()
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def is_compressed(start: bytes) -> bool:
    """Whether these first bytes are those of a compression that is understood."""
    return start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"))


def is_tar(start: bytes) -> bool:
    """Whether these first bytes (512 at least) are a tar header."""
    if len(start) < 512:
        return False
    if start[257:262] == b"ustar":
        return True
    try:
        recorded = int(start[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return recorded == sum(start[:148]) + 8 * 32 + sum(start[156:512])


def decompressed(reader: io.BufferedReader) -> BinaryIO:
    """The plain bytes, by the magic number; the reader itself when it is not compressed."""
    start = reader.peek(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, igzip.IGzipFile(fileobj=reader, mode="rb"))  # type: ignore[no-untyped-call]
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(reader))
    if start.startswith(b"\xfd7zXZ\x00"):
        return cast(BinaryIO, lzma.LZMAFile(reader))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return cast(BinaryIO, zstd.ZstdFile(reader))
    return cast(BinaryIO, reader)
