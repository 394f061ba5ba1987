"""Progress of pull, push, load and import: one line a layer that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from berth.model.units import human_size

_BAR = 30


def bar(current: int, total: int, width: int = _BAR) -> str:
    """[=====>     ]  12MB/34MB; without a total only what was done."""
    if total <= 0:
        return human_size(current) if current else ""
    filled = min(width, current * width // total)
    drawn = "=" * filled + (">" if filled < width else "")
    return f"[{drawn.ljust(width)}]  {human_size(min(current, total))}/{human_size(total)}"


class Display:
    """Draws messages on a terminal. Lines with an id are rewritten in place, others are appended."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._count = 0

    def show(self, message: dict[str, Any]) -> None:
        """One message."""
        identifier, text = message.get("id", ""), message.get("status", "")
        detail = message.get("progressDetail") or {}
        drawn = bar(int(detail.get("current") or 0), int(detail.get("total") or 0)) if detail else ""
        line = f"{identifier}: {text} {drawn}".rstrip() if identifier else str(text)
        columns = _columns()
        line = line[:columns]
        if identifier and identifier in self._rows:
            up = self._count - self._rows[identifier]
            sys.stdout.write(f"\x1b[{up}A\r\x1b[2K{line}\x1b[{up}B\r")
        else:
            if identifier:
                self._rows[identifier] = self._count
            else:
                self._rows.clear()
            sys.stdout.write(f"\r\x1b[2K{line}\n")
            self._count += 1
        sys.stdout.flush()


def _columns() -> int:
    try:
        return max(20, os.get_terminal_size(1).columns - 1)
    except OSError:
        return 120


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
            print(f"{message['id']}: {message['status']}" if message.get("id") else message["status"])
    return aux
