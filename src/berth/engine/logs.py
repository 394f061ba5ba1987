"""Reading of container logs: the shim's json-file records, rotated files included, as Docker's clients want them.

Files (log_files) are read in large pieces of whole lines, and each piece is formatted at once. Following waits for inotify
events of the directory and ends when the container does: by then the shim has written everything.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, contextmanager

import msgspec
from msgspec import Struct

from berth.engine.log_files import Source
from berth.kernel.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, inotify_add_watch, inotify_init1
from berth.kernel.thread import to_its_end
from berth.model.instant import parse_rfc3339
from berth.storage.space import translated

_STREAMS = {"stdout": 1, "stderr": 2}


class LogQuery(Struct, frozen=True, kw_only=True):
    """What to show. Times in nanoseconds since the epoch; `tail` counts records from the end, -1 is all of them."""

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    tail: int = -1
    timestamps: bool = False
    details: bool = False
    follow: bool = False


class Record(Struct):
    """A record of the file."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


_DECODER = msgspec.json.Decoder(Record)


def decode(piece: bytes) -> list[Record]:
    """The records of some whole lines. A damaged line (torn by a power cut) is left out."""
    try:
        return _DECODER.decode_lines(piece)
    except msgspec.MsgspecError:
        pass
    found = []
    for line in piece.splitlines():
        try:
            found.append(_DECODER.decode(line))
        except msgspec.MsgspecError:
            continue
    return found


def _plain(records: list[Record], framed: bool) -> bytes:
    """Everything as it is: the usual case, and the one that has to be fast."""
    texts = [record.log.encode("utf-8", "replace") for record in records]
    if not framed:
        return b"".join(texts)
    pack = struct.Struct(">BxxxL").pack
    numbers = [_STREAMS.get(record.stream, 1) for record in records]
    return b"".join([part for n, text in zip(numbers, texts, strict=True) for part in (pack(n, len(text)), text)])


def encode(records: list[Record], query: LogQuery, *, framed: bool) -> bytes:
    """The records that match, each with Docker's 8-byte header unless the container has a terminal."""
    if query.stdout and query.stderr and not (query.since or query.until or query.timestamps or query.details):
        return _plain(records, framed)
    parts: list[bytes] = []
    timed = bool(query.since or query.until)
    for record in records:
        number = _STREAMS.get(record.stream, 1)
        if not (query.stdout if number == 1 else query.stderr):
            continue
        if timed:
            at = parse_rfc3339(record.time)
            if at < query.since or (query.until and at > query.until):
                continue
        text = record.log
        if query.details:
            attributes = ",".join(f"{k}={v}" for k, v in sorted((record.attrs or {}).items()))
            text = f"{attributes} {text}"
        if query.timestamps:
            text = f"{record.time} {text}"
        data = text.encode("utf-8", "replace")
        if framed:
            parts.append(struct.pack(">BxxxL", number, len(data)))
        parts.append(data)
    return b"".join(parts)


def past(records: list[Record], until: int) -> bool:
    """Whether the last record is later than `until`."""
    return bool(until and records and parse_rfc3339(records[-1].time) > until)


@contextmanager
def _changes(directory: str) -> Iterator[asyncio.Event]:
    """An event that is set whenever something in the directory changes."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    fd = inotify_init1()

    def drain() -> None:
        try:
            os.read(fd, 65536)
        except BlockingIOError:
            return
        changed.set()

    try:
        inotify_add_watch(fd, directory, IN_MODIFY | IN_CREATE | IN_MOVED_TO)
        loop.add_reader(fd, drain)
        try:
            yield changed
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)


async def stream(path: str, query: LogQuery, *, framed: bool, ended: Awaitable[object] | None) -> AsyncIterator[bytes]:
    """The log in pieces of encoded records. With `ended` (resolved at the container's end) it is followed until then."""
    source = Source(path, as_it_is=ended is None or not query.follow)
    try:
        with translated(f"reading the log {path}"):
            await to_its_end(source.open)
            if query.tail >= 0:
                await to_its_end(source.skip_to_tail, query.tail)
            if ended is None or not query.follow:
                while piece := await source.next():
                    records = decode(piece)
                    # To the end also with `until`: when the clock was set back, what came later has earlier times.
                    if data := encode(records, query, framed=framed):
                        yield data
                    await asyncio.sleep(0)
                return
            async with aclosing(_follow(source, path, query, framed, ended)) as followed:  # type: ignore[type-var]  # it is a generator
                async for data in followed:
                    yield data
    finally:
        if isinstance(ended, asyncio.Future):
            ended.cancel()
        source.close()


async def _follow(source: Source, path: str, query: LogQuery, framed: bool, ended: Awaitable[object]) -> AsyncIterator[bytes]:
    end = asyncio.ensure_future(ended)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + query.until / 1e9 - time.time() if query.until else None
    with _changes(os.path.dirname(path)) as changed:
        while True:
            over = end.done()
            changed.clear()
            while piece := await source.next():
                records = decode(piece)
                if data := encode(records, query, framed=framed):
                    yield data
                if past(records, query.until):
                    return
            if over:
                return
            waiting = loop.create_task(changed.wait())
            left = None if deadline is None else max(0.0, deadline - loop.time())
            try:
                done, _ = await asyncio.wait({waiting, end}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if not done:
                return
