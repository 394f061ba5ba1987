"""Sizes, durations and processor counts as Compose files write them."""

from __future__ import annotations

import re
from typing import Any

from berth.errors import InvalidArgument
from berth.model import units


def parse_size(value: Any) -> int:
    """Bytes from 512, "64m", "1.5gb", "10MiB"; the units are powers of 1024. -1 is passed through."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    text = str(value).strip()
    if text == "-1":
        return -1
    return units.parse_size(text)


def parse_duration(value: Any) -> int:
    """Nanoseconds from "1m30s", "500ms"; a bare number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * 1_000_000_000)
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 1_000_000_000)
    return units.parse_duration(text)


def seconds(value: Any) -> int:
    """Whole seconds, rounded up, of a duration."""
    return -(-parse_duration(value) // 1_000_000_000)


def parse_bool(value: Any) -> bool:
    """A boolean, or the text of one."""
    if isinstance(value, bool):
        return value
    lowered = str(value).strip().lower()
    if lowered in ("true", "y", "yes", "on", "1", "t"):
        return True
    if lowered in ("false", "n", "no", "off", "0", "f", ""):
        return False
    raise InvalidArgument(f"invalid boolean: {value!r}")
