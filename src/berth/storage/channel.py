"""Bounded hand-over of byte chunks from one thread to another.

A slow reader holds the writer up: at most a few chunks are in memory. Either side may give up; the other then notices at
its next call and does not block for ever.
"""

from __future__ import annotations

import threading
from collections import deque

BOUND = 6


class Abandoned(Exception):
    """The reader is gone: there is nobody to produce for. Never leaves this package."""


class Channel:
    """Chunks from one thread to another."""

    def __init__(self, bound: int = BOUND) -> None:
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
