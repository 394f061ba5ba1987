"""The engine's end of a connection to a shim: requests with answers, and events, on the engine's asyncio loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from os import dup
from typing import TYPE_CHECKING

from berth import errors
from berth.contract.runtime import LaunchFailed
from berth.errors import BerthError, Internal, ResourceExhausted, Unavailable
from berth.runtime import channel
from berth.runtime.plan import failure_message

if TYPE_CHECKING:
    from berth.runtime.channel import Message

    Answer = tuple[Message, list[int]]


class Disconnected(Unavailable):
    """The shim closed the connection before it answered: it has ended, or been killed."""


class DescriptorsLost(ResourceExhausted):
    """The shim has done what it was asked for, but the descriptors that it answered with did not fit into this process."""

    def __init__(self, result: Message | None) -> None:
        super().__init__(
            "too many open files in the engine: raise the limit that berthd is started with (LimitNOFILE of its unit, ulimit -n)"
        )
        self.result = result


def error_of(document: Message) -> BerthError:
    """The exception for an error record of a shim."""
    if document["kind"] != "launch":
        kind = getattr(errors, document["kind"], Internal)
        error: BerthError = kind(document["message"])
        return error
    step, number, path = str(document["step"]), int(document["errno"]), str(document["path"])
    return LaunchFailed(step, number, path, failure_message(step, number, path))


class Link:
    """One SEQPACKET connection. `on_event` gets what was not asked for, `on_close` comes once when the other side closes."""

    def __init__(self, sock: socket.socket, on_event: Callable[[Message], None], on_close: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_event = on_event
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._queue: list[tuple[Message, list[int]]] = []
        self._next = 0
        self.closed = False
        self._loop.add_reader(sock, self._readable)

    def expect(self) -> asyncio.Future[Answer]:
        """The answer to the next id, for a request that went another way."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._answers[self._next] = future
        self._next += 1
        return future

    def ask(self, op: str, values: Message | None = None, fds: Sequence[int] = ()) -> asyncio.Future[Answer]:
        """Ask; the answer is a result and descriptors, or what the shim refused with. The caller keeps `fds`."""
        if self.closed:
            raise Disconnected("the container's shim has gone")
        id = self._next
        future = self.expect()
        self._send({**(values or {}), "id": id, "op": op}, fds)
        return future

    async def request(self, op: str, values: Message | None = None, fds: Sequence[int] = ()) -> Answer:
        """Ask, and wait for the answer."""
        return await self.ask(op, values, fds)

    def hand_over(self, on_event: Callable[[Message], None], on_close: Callable[[], None]) -> None:
        """Somebody else hears of events and of the end from now on."""
        self._on_event, self._on_close = on_event, on_close

    def close(self) -> None:
        """Close from this side: `on_close` does not come. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        if self._queue:
            self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, fds in self._queue:
            channel.close_all(fds)
        self._queue.clear()
        answers, self._answers = self._answers, {}
        for future in answers.values():
            if not future.done():
                future.set_exception(Disconnected("the container's shim has gone"))

    def _send(self, message: Message, fds: Sequence[int]) -> None:
        if not self._queue:
            try:
                channel.send(self._sock, message, fds)
                return
            except BlockingIOError:
                pass
            except OSError:
                self._lost()
                return
        self._queue.append((message, [dup(fd) for fd in fds]))
        self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        while self._queue:
            message, fds = self._queue[0]
            try:
                channel.send(self._sock, message, fds)
            except BlockingIOError:
                return
            except OSError:
                self._lost()
                return
            channel.close_all(fds)
            self._queue.pop(0)
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        while not self.closed:
            try:
                received = channel.receive(self._sock)
            except BlockingIOError:
                return
            except channel.Cut as cut:
                # Descriptors of ours are lost with it; the connection and the container are not.
                future = self._answers.pop(cut.message.get("id", -1), None)
                if future is not None and not future.done():
                    future.set_exception(DescriptorsLost(cut.message.get("result")))
                continue
            except (OSError, channel.ChannelError):
                received = None
            if received is None:
                self._lost()
                return
            self._dispatch(*received)

    def _dispatch(self, message: Message, fds: list[int]) -> None:
        if "event" in message:
            channel.close_all(fds)
            self._on_event(message)
            return
        future = self._answers.pop(message["id"], None)
        if future is None or future.done():
            channel.close_all(fds)
        elif "error" in message:
            channel.close_all(fds)
            future.set_exception(error_of(message["error"]))
        else:
            future.set_result((message["result"], fds))

    def _lost(self) -> None:
        if not self.closed:
            self.close()
            self._on_close()


def discard(answer: asyncio.Future[Answer]) -> None:
    """An answer that nobody waits for any more: its descriptors are closed, and an error is nobody's business."""
    if not answer.cancelled() and answer.exception() is None:
        channel.close_all(answer.result()[1])


async def readable(fd: int) -> None:
    """Until there is something to read: of a pidfd, the end of its process."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)
