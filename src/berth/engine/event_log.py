"""The events of earlier engines on the same data root, so that `docker events --since` reaches back over a restart.

    <root>/events.jsonl, events.jsonl.1      one event a line as GET /events writes it; the second is the older half

A line is one write without a flush: an engine that is killed loses nothing, a machine without power may lose the last ones. When
a file has `kept` lines it takes the other's place, so at least that many can be read, and at most twice as many are stored.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from itertools import islice

import msgspec

from berth.wire.system import EventMessage

log = logging.getLogger("berth.events")


class EventLog:
    """Writes and reads the files. A disk that takes nothing costs the history, never the event."""

    def __init__(self, path: str, kept: int) -> None:
        self._path = path
        self._kept = kept
        self._lines = 0
        self._fd = -1
        self._complained = False

    def read(self) -> list[EventMessage]:
        """What is stored, oldest first. Lines that a killed engine or a full disk left unfinished are passed over."""
        found: list[EventMessage] = []
        for path in (f"{self._path}.1", self._path):
            with suppress(FileNotFoundError), open(path, "rb") as file:
                self._lines = 0
                for line in file:
                    self._lines += 1
                    with suppress(msgspec.MsgspecError):
                        found.append(msgspec.json.decode(line, type=EventMessage))
        return list(islice(found, max(0, len(found) - self._kept), None))

    def append(self, message: EventMessage) -> None:
        """Store one more."""
        try:
            if self._lines >= self._kept:
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
