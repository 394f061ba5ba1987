"""A racer: swaps a directory and a link without end, as whoever can write to a shared directory may do."""

from __future__ import annotations

import ctypes
import threading
from os import fsencode
from pathlib import Path

_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Racer(threading.Thread):
    """A context manager. `swaps` counts; a test with few of them has shown nothing."""

    def __init__(self, one: Path, other: Path) -> None:
        super().__init__(daemon=True)
        self._paths = fsencode(one), fsencode(other)
        self._over = threading.Event()
        self.swaps = 0

    def run(self) -> None:
        one, other = self._paths
        while not self._over.is_set():
            if _libc.renameat2(-100, one, -100, other, _RENAME_EXCHANGE) == 0:
                self.swaps += 1

    def __enter__(self) -> Racer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self.join()
