"""Compressed streams, undone in a confined worker: the engine's side of `expansion`.

What is not compressed passes by untouched. A compressed stream goes to the worker through one pipe and comes back through
another; the thread that reads it feeds it, so an expansion needs no thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
from collections.abc import AsyncIterator, Callable, Iterator

from berth.contract.store import ByteStream, Expand
from berth.errors import DataLoss, InvalidArgument, Unavailable
from berth.storage.compression import LONGEST_MAGIC, PIECE, counting, detect, opening
from berth.storage.stream import StreamReader, stream_from
from berth.storage.workers import LONGEST, Control, Workers, answered

_START_SECONDS = 60.0
_END_SECONDS = 60.0


class Expander:
    """Implements contract.store.Expand. Made in the event loop, called from threads.

    `limit` is the most bytes that a stream may expand to, `ratio` the most for each compressed byte of a large one; 0: any."""

    def __init__(self, workers: Workers, *, ratio: int = 0, limit: int = 0) -> None:
        self._workers = workers
        self._limits = [ratio, limit]
        self._loop = asyncio.get_running_loop()

    def __call__(self, read: Callable[[], bytes], consumed: Callable[[int], None] | None = None) -> Iterator[bytes]:
        """See the contract."""
        take = counting(read, consumed)
        name, head = opening(take)
        if name:
            yield from self._confined(name, head, take)
            return
        while head:
            yield head
            head = take()

    def _confined(self, name: str, head: bytes, take: Callable[[], bytes]) -> Iterator[bytes]:
        with contextlib.ExitStack() as stack:
            source, feed = _pipe(stack)
            out, sink = _pipe(stack)
            control = self._start([source.fd, sink.fd])
            stack.callback(control.socket.close)
            source.close()
            sink.close()
            yield from _exchange(feed, out, head, take)
            _judge(control, name)

    def _start(self, fds: list[int]) -> Control:
        starting = asyncio.run_coroutine_threadsafe(self._workers.start({"expand": self._limits}, fds), self._loop)
        try:
            return starting.result(_START_SECONDS)
        except TimeoutError:
            starting.cancel()
            raise Unavailable("the worker that decompresses does not start: try again") from None


class _End:
    """One end of a pipe, closed once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _pipe(stack: contextlib.ExitStack) -> tuple[_End, _End]:
    reading, writing = (_End(fd) for fd in os.pipe2(os.O_CLOEXEC))
    stack.callback(reading.close)
    stack.callback(writing.close)
    # A larger pipe is fewer turns; one of the usual size does it too.
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing.fd, fcntl.F_SETPIPE_SZ, PIECE)
    return reading, writing


def _exchange(feed: _End, out: _End, head: bytes, take: Callable[[], bytes]) -> Iterator[bytes]:
    """Write what `take` gives, and yield what comes back, until the worker closes its end. What is there is yielded before
    more is asked for: `take` may wait for a client."""
    os.set_blocking(feed.fd, False)
    poll = select.poll()
    poll.register(out.fd, select.POLLIN)
    poll.register(feed.fd, select.POLLOUT)
    pending = memoryview(head)
    while True:
        ready = dict(poll.poll())
        if out.fd in ready:
            piece = os.read(out.fd, PIECE)
            if not piece:
                return
            yield piece
        elif ready[feed.fd] == select.POLLOUT:
            pending = pending or memoryview(take())
        if ready.get(feed.fd) == select.POLLOUT and pending:
            pending = pending[_write(feed.fd, pending) :]
        elif feed.fd in ready and out.fd not in ready:
            # The stream has ended, or the worker takes no more of it.
            poll.unregister(feed.fd)
            feed.close()


def _write(fd: int, data: memoryview) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        # The worker has stopped; why, it says at its end.
        return len(data)


def _judge(control: Control, name: str) -> None:
    """The worker's last word. Unavailable when it ended without one."""
    control.socket.settimeout(_END_SECONDS)
    try:
        data = control.socket.recv(LONGEST)
    except OSError:
        data = b""
    if not data:
        raise Unavailable(f"the worker that undoes the {name} compression was ended: try again")
    answered(data)


async def expanded(stream: ByteStream, expand: Expand) -> AsyncIterator[bytes]:
    """A client's archive without its compression. InvalidArgument when that is damaged."""
    head = b""
    async for chunk in stream:
        head += chunk
        if len(head) >= LONGEST_MAGIC:
            break
    pieces = _joined(head, stream)
    if not detect(head):
        async for chunk in pieces:
            yield chunk
        return
    reader = StreamReader(pieces)

    def produce(write: Callable[[bytes], None]) -> None:
        for piece in expand(reader.read):
            write(piece)

    try:
        async with contextlib.aclosing(stream_from(produce, reader.cancel)) as plain:
            async for piece in plain:
                yield piece
    except DataLoss as error:
        # Nothing of ours was lost: the client sent it.
        raise InvalidArgument(f"invalid archive: {error.message}") from error


async def _joined(head: bytes, rest: ByteStream) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for chunk in rest:
        yield chunk
