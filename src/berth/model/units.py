"""Sizes, durations and ages, read and written as Docker's command line does."""

from __future__ import annotations

import re

from berth.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([kmgtp]?)i?b?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def parse_size(text: str) -> int:
    """Bytes from 512m, 1.5g, 64KiB, 1024: powers of 1024, as for limits."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise InvalidArgument(f"invalid size: '{text}': give a number with b, k, m, g or t, such as 512m")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def parse_duration(text: str) -> int:
    """Nanoseconds from Go's form: 1h30m, 10s, 1.5s, 500ms, 0."""
    text = text.strip()
    sign = -1 if text.startswith("-") else 1
    rest = text.lstrip("+-")
    if rest == "0":
        return 0
    total, position = 0.0, 0
    for match in _DURATION.finditer(rest):
        if match.start() != position:
            break
        total += float(match[1]) * _NANOSECONDS[match[2]]
        position = match.end()
    if position != len(rest) or not rest:
        raise InvalidArgument(f"invalid duration: {text!r}: give a number with ms, s, m or h, such as 1m30s")
    return sign * int(total)


def _scaled(size: float, base: float, units: tuple[str, ...], precision: int) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    text = f"{size:.{precision}g}"
    return (f"{size:.0f}" if "e" in text else text) + units[index]


def human_size(size: float, precision: int = 4) -> str:
    """Powers of 1000, as image sizes: 118MB, 1.05GB."""
    return _scaled(float(size), 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"), precision)


def human_binary_size(size: float) -> str:
    """Powers of 1024, as memory: 7.66MiB."""
    return _scaled(float(size), 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), 4)


def human_duration(seconds: float) -> str:
    """About a minute, 5 hours, 3 weeks."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, size, unit in (
        (48, 1, "hours"),
        (24 * 7 * 2, 24, "days"),
        (24 * 30 * 2, 24 * 7, "weeks"),
        (24 * 365 * 2, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{int(seconds / 3600) // (24 * 365)} years"
