"""The events of earlier engines on the same data root, so that `docker events --since` reaches back over a restart.

    <root>/events.jsonl, events.jsonl.1      one event a line as GET /events writes it; the second is the older half

A line is one write without a flush: an engine that is killed loses nothing, a machine without power may lose the last ones. When
a file has `stored` lines it takes the other's place, so at least that many can be read, and at most twice as many are stored
(16,384 lines are about 5 MB). Files are read line by line: memory holds only the last ones (see events).
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import takewhile

import msgspec

from berth.wire.system import EventMessage

log = logging.getLogger("berth.events")


class EventLog:
    """Writes and reads the files. A disk that takes nothing costs the history, never the event."""

    def __init__(self, path: str, stored: int) -> None:
        self._path = path
        self._stored = stored
        self._lines = 0
        self._fd = -1
        self._complained = False

    def last(self, count: int) -> list[EventMessage]:
        """The last ones that are stored, oldest first."""
        lines: deque[bytes] = deque(maxlen=count)
        for path in self._paths():
            try:
                with open(path, "rb") as file:
                    self._lines = 0
                    for line in file:
                        self._lines += 1
                        lines.append(line)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("earlier events cannot be told: %s: %s", path, error.strerror)
        return list(_decoded(lines))

    def before(self, message: EventMessage) -> Iterator[EventMessage]:
        """What is stored of the time before this one, oldest first; nothing when this one is not stored itself."""
        until = msgspec.json.encode(message) + b"\n"
        if any(line == until for line in self._raw()):
            yield from _decoded(takewhile(lambda line: line != until, self._raw()))

    def _paths(self) -> tuple[str, str]:
        return f"{self._path}.1", self._path

    def _raw(self) -> Iterator[bytes]:
        """The lines of both files as they are at the beginning: those that come while they are read are not asked for."""
        with ExitStack() as stack:
            files = []
            for path in self._paths():
                # What cannot be opened was told of at the start.
                with suppress(OSError):
                    files.append(stack.enter_context(open(path, "rb")))
            for file in files:
                yield from file

    def append(self, message: EventMessage) -> None:
        """Store one more."""
        try:
            if self._lines >= self._stored:
                self.close()
                os.replace(self._path, f"{self._path}.1")
                self._lines = 0
            if self._fd < 0:
                self._open()
            os.write(self._fd, msgspec.json.encode(message) + b"\n")
            self._lines += 1
        except OSError as error:
            self.close()
            if not self._complained:
                log.warning("events are not kept for the next engine: %s: %s", self._path, error.strerror)
            self._complained = True

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _decoded(lines: Iterable[bytes]) -> Iterator[EventMessage]:
    """Lines that a killed engine or a full disk left unfinished are passed over."""
    for line in lines:
        with suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(line, type=EventMessage)
