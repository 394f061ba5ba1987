"""Waiting for something to become true, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from support.engine import SLOW

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 20.0) -> T:
    """The first true value of the condition."""
    deadline = time.monotonic() + seconds * SLOW
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.02)
    return value
