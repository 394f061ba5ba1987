"""Sizes, durations and processor counts as Compose files write them."""

from __future__ import annotations

import re
from typing import Any

from berth.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp]?)i?b?)\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def parse_size(value: Any) -> int:
    """Bytes from 512, "64m", "1.5gb", "10MiB"; the units are powers of 1024. -1 is passed through."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    text = str(value).strip()
    if text == "-1":
        return -1
    match = _SIZE.match(text)
    if not match:
        raise InvalidArgument(f"invalid size: '{value}': write a number with b, k, m, g or t")
    return int(float(match.group(1)) * 1024 ** _POWERS[match.group(2).lower()])


def parse_duration(value: Any) -> int:
    """Nanoseconds from "1m30s", "500ms"; a bare number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * 1_000_000_000)
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 1_000_000_000)
    if not text or _DURATION.sub("", text):
        raise InvalidArgument(f"invalid duration: '{value}': write numbers with h, m, s, ms, us or ns")
    return int(sum(float(number) * _NANOSECONDS[unit] for number, unit in _DURATION.findall(text)))


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
