"""The output of a build, in the words and the JSON of Docker's classic builder, which its clients parse.

Stages run at the same time, and readers want one story: the earliest stage that is not done speaks at once, the others
are kept back until it is their turn. What is kept back is bounded: beyond that a stage's oldest output goes, and it says so.
"""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]

_KEPT_BACK = 32 * 1024 * 1024
# What a command writes to its standard error is marked so that clients show it in another colour, on any terminal or none.
_RED, _RESET = "\x1b[91m", "\x1b[0m"


class Progress:
    """One build's output. `stages` in the order in which they are to speak."""

    def __init__(self, send: Send, stages: Iterable[int], *, quiet: bool) -> None:
        self._send = send
        self._quiet = quiet
        self._channels = {index: Channel(self) for index in stages}
        self._order = list(self._channels.values())
        self._lock = asyncio.Lock()

    def channel(self, stage: int) -> Channel:
        """What a stage writes to."""
        return self._channels[stage]

    async def send(self, message: Message) -> None:
        """After all stages: the result."""
        async with self._lock:
            await self._send(message)

    async def emit(self, channel: Channel, message: Message) -> None:
        """A message of one stage."""
        async with self._lock:
            if self._quiet:
                channel.keep(message)
            elif self._order and self._order[0] is channel:
                await self._flush(channel)
                await self._send(message)
            else:
                channel.keep(message)

    async def finish(self, channel: Channel) -> None:
        """A stage is done; the next ones may speak."""
        channel.done = True
        if self._quiet:
            return
        async with self._lock:
            while self._order and self._order[0].done:
                await self._flush(self._order.pop(0))
            if self._order:
                await self._flush(self._order[0])

    async def failed(self) -> None:
        """A quiet build has failed: what it would have said is told after all."""
        async with self._lock:
            for channel in self._channels.values():
                await self._flush(channel)

    async def _flush(self, channel: Channel) -> None:
        for message in channel.take():
            await self._send(message)


class Channel:
    """One stage's part of the output."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._kept: deque[Message] = deque()
        self._size = 0
        self._cut = False
        self.done = False

    def keep(self, message: Message) -> None:
        """For later."""
        self._kept.append(message)
        self._size += len(str(message))
        while self._size > _KEPT_BACK:
            self._size -= len(str(self._kept.popleft()))
            self._cut = True

    def take(self) -> list[Message]:
        """What was kept back, which is then the caller's."""
        found = list(self._kept)
        if self._cut:
            found.insert(0, {"stream": "[Warning] the earlier output of this stage was too long to be kept\n"})
        self._kept.clear()
        self._size, self._cut = 0, False
        return found

    async def text(self, text: str) -> None:
        """A piece of the stream."""
        await self._progress.emit(self, {"stream": text})

    async def message(self, message: Message) -> None:
        """Any message, such as a pull's progress."""
        await self._progress.emit(self, message)

    async def finish(self) -> None:
        """No more of this stage."""
        await self._progress.finish(self)


class TextOutput:
    """Bytes of a command's two streams as text for a channel; characters that are cut in two are put together again."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._decoders = {fd: codecs.getincrementaldecoder("utf-8")("replace") for fd in (1, 2)}

    async def write(self, fd: int, data: bytes) -> None:
        """`fd` is 1 or 2."""
        text = self._decoders[fd].decode(data)
        if text:
            await self._channel.text(text if fd == 1 else f"{_RED}{text}{_RESET}")
