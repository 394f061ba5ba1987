"""Progress lines as Docker's Compose writes them when its output is not a terminal: ` Container demo-db-1  Started`."""

from __future__ import annotations

import sys
import threading
from typing import TextIO


class Progress:
    """Writes lines from several threads. With `quiet`, only errors and notices appear."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, prefix: str = "") -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._prefix = prefix
        self._lock = threading.Lock()

    def step(self, subject: str, state: str) -> None:
        """`subject` is "Container demo-db-1", `state` is "Starting" or "Started"."""
        if not self._quiet:
            self._write(f"{self._prefix} {subject}  {state}")

    def text(self, line: str) -> None:
        """A line of its own, such as a build's output."""
        if not self._quiet:
            self._write(line)

    def warn(self, text: str) -> None:
        """Something the user should know."""
        self._write(f"WARN[0000] {text}")

    def _write(self, line: str) -> None:
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()
