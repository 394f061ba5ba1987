"""Progress of pull, push, load, import and build: redrawn in place on a terminal, plain lines elsewhere.

Two things are drawn: the engine's messages (`show`, a line a layer), and what this command itself sends or writes (`Meter`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from berth.model.units import human_size

_BAR = 30
_NARROW = 20
_REDRAW_SECONDS = 0.2


def bar(current: int, total: int, width: int = _BAR) -> str:
    """[=====>     ]  12MB/34MB; without a total only what was done, and without room only the numbers."""
    if total <= 0:
        return human_size(current, 3) if current else ""
    numbers = f"{human_size(min(current, total), 3)}/{human_size(total, 3)}"
    if width < 5:
        return numbers
    filled = min(width, current * width // total)
    drawn = "=" * filled + (">" if filled < width else "")
    return f"[{drawn.ljust(width)}]  {numbers}"


def fitted(label: str, current: int, total: int, columns: int) -> str:
    """A label and its bar in so many columns: the bar shrinks first, then it goes, then the label is cut."""
    room = columns - len(label) - len("[]  1.234MB/1.234MB") - 1
    text = f"{label} {bar(current, total, max(0, min(_BAR, room)))}".rstrip()
    return text if len(text) <= columns else f"{label[: max(0, columns - 1)]}…" if len(label) > columns else label


def columns(fd: int) -> int:
    """The terminal's width less the last column, in which some terminals wrap."""
    try:
        return max(_NARROW, os.get_terminal_size(fd).columns - 1)
    except OSError:
        return 120


class Display:
    """Draws messages on a terminal. Lines with an id are rewritten in place, others are appended."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._count = 0

    def show(self, message: dict[str, Any]) -> None:
        """One message."""
        identifier, text = message.get("id", ""), str(message.get("status", ""))
        detail = message.get("progressDetail") or {}
        label = f"{identifier}: {text}" if identifier else text
        line = fitted(label, int(detail.get("current") or 0), int(detail.get("total") or 0), columns(1))
        up = self._count - self._rows.get(identifier, 0)
        if identifier and identifier in self._rows and up < _lines():
            sys.stdout.write(f"\x1b[{up}A\r\x1b[2K{line}\x1b[{up}B\r")
        elif identifier and identifier in self._rows:
            return  # It has scrolled off the screen, where no line can be rewritten.
        else:
            if identifier:
                self._rows[identifier] = self._count
            else:
                self._rows.clear()
                # What stands alone is a result, an id or a digest: it may wrap, but it is not cut.
                line = text
            sys.stdout.write(f"\r\x1b[2K{line}\n")
            self._count += 1 + (len(line) - 1) // (columns(1) + 1)
        sys.stdout.flush()


def _lines() -> int:
    try:
        return os.get_terminal_size(1).lines or 24
    except OSError:
        return 24


class Meter:
    """Counts bytes that go through and says so on stderr: on a terminal as it goes. `total` 0 means unknown."""

    def __init__(self, label: str, *, quiet: bool = False, total: int = 0) -> None:
        self._label, self._total = label, total
        self._count, self._begun, self._shown = 0, time.monotonic(), 0.0
        self._live = not quiet and os.isatty(2)
        self._drawn = False

    def over(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces, counted; the line is gone at their end, whatever the reason."""
        try:
            for piece in pieces:
                self.add(len(piece))
                yield piece
        finally:
            self.clear()

    def add(self, size: int) -> None:
        """So many bytes more."""
        self._count += size
        now = time.monotonic()
        if self._live and now - self._begun > _REDRAW_SECONDS and now - self._shown > _REDRAW_SECONDS:
            self._shown, self._drawn = now, True
            sys.stderr.write(f"\r\x1b[2K{fitted(self._label, self._count, self._total, columns(2))}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._drawn = False
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def summary(self) -> str:
        """Amount and time."""
        return f"{self._label}: {human_size(self._count, 3)} in {time.monotonic() - self._begun:.0f} s"


def show(messages: Iterable[dict[str, Any]], *, quiet: bool = False) -> list[dict[str, Any]]:
    """Draw a stream of messages to its end and return those that carry `aux`."""
    display = Display() if os.isatty(1) and not quiet else None
    aux = []
    for message in messages:
        if "aux" in message:
            aux.append(message["aux"])
        if quiet:
            continue
        if "stream" in message:
            sys.stdout.write(message["stream"])
            sys.stdout.flush()
        elif display is not None and message.get("status"):
            display.show(message)
        elif message.get("status") and not message.get("progressDetail"):
            print(f"{message['id']}: {message['status']}" if message.get("id") else message["status"], flush=True)
    return aux
