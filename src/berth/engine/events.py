"""Events: what happened, kept for those who ask later and sent to those who listen (GET /events).

Publishing never waits. A listener that does not keep up is cut off rather than slowing the engine down.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from itertools import chain, dropwhile, islice

from berth.engine.event_log import EventLog
from berth.wire.system import EventActor, EventMessage

_KEPT = 1024
_STORED = 16384
_QUEUE = 4096
_BATCH = 64


class Events:
    """The bus. One per engine."""

    def __init__(self, path: str = "") -> None:
        """With a path, the events of earlier engines are there, and these are kept for the next one (see event_log)."""
        self._log = EventLog(path, _STORED) if path else None
        self._kept: deque[EventMessage] = deque(self._log.last(_KEPT) if self._log else (), maxlen=_KEPT)
        self._listeners: set[asyncio.Queue[EventMessage | None]] = set()

    @property
    def kept(self) -> list[EventMessage]:
        """The last ones, oldest first, those of earlier engines among them."""
        return list(self._kept)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def publish(self, kind: str, action: str, actor: str, attributes: Mapping[str, str] | None = None) -> None:
        """`kind` is container, image, network, volume, builder or daemon; `action` as Docker names it; `actor` an id."""
        now = time.time_ns()
        message = EventMessage(
            type=kind,
            action=action,
            actor=EventActor(id=actor, attributes=dict(attributes or {})),
            scope="local",
            time=now // 1_000_000_000,
            time_nano=now,
        )
        self._kept.append(message)
        if self._log is not None:
            self._log.append(message)
        for queue in list(self._listeners):
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                self._listeners.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)

    def close(self) -> None:
        """Nothing is published any more."""
        if self._log is not None:
            self._log.close()

    def _past(self, since_ns: int) -> Iterator[EventMessage]:
        """Those in memory, after what is only on disk where that is asked for. As it is now, however slowly it is read."""
        kept = list(self._kept)
        if self._log is None or len(kept) < _KEPT or (kept[0].time_nano or 0) < since_ns:
            return iter(kept)
        return chain(self._log.before(kept[0]), kept)

    async def listen(self, since_ns: int | None, until_ns: int | None) -> AsyncIterator[list[EventMessage]]:
        """Kept events from the first one at or after `since_ns` on, then those to come, until `until_ns` (for ever without): as
        many at once as there are, at most `_BATCH`.

        In the order in which they came: when the clock is set back, those that come later have earlier times, and whoever asks
        from the last one on that he has seen gets them all the same.
        """
        queue: asyncio.Queue[EventMessage | None] = asyncio.Queue(_QUEUE)
        past: Iterable[EventMessage] = ()
        if since_ns is not None:
            past = dropwhile(lambda m: (m.time_nano or 0) < since_ns, self._past(since_ns))
        loop = asyncio.get_running_loop()
        deadline = None if until_ns is None else loop.time() + until_ns / 1e9 - time.time()
        self._listeners.add(queue)
        try:
            asked = (message for message in past if until_ns is None or (message.time_nano or 0) <= until_ns)
            while batch := list(islice(asked, _BATCH)):
                yield batch
                # However long the past is, others are answered meanwhile.
                await asyncio.sleep(0)
            while True:
                left = None if deadline is None else deadline - loop.time()
                if left is not None and left <= 0:
                    return
                try:
                    item = await asyncio.wait_for(queue.get(), left)
                except TimeoutError:
                    return
                if item is None:
                    return
                yield [item]
        finally:
            self._listeners.discard(queue)
