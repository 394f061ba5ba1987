"""Points in time as Docker writes and reads them: RFC 3339 in UTC with nanoseconds, or seconds since the epoch."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from berth.errors import InvalidArgument

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: never."""

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?(Z|z|[+-]\d\d:?\d\d)?\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as 2026-01-02T03:04:05.678901000Z, to the microsecond; 0 is Go's zero time."""
    return rfc3339_ns(round(seconds * 1e6) * 1000) if seconds else ZERO


def rfc3339_ns(nanoseconds: int) -> str:
    """The same, from nanoseconds."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def parse_duration(text: str) -> int:
    """Go's duration (1h30m, 10s, 500ms) in nanoseconds."""
    if not text or _DURATION.sub("", text.lstrip("-")):
        raise InvalidArgument(f'time: invalid duration "{text}"')
    total = sum(int(float(number) * _UNITS[unit]) for number, unit in _DURATION.findall(text))
    return -total if text.startswith("-") else total


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch. A time without a zone is UTC."""
    match = _RFC3339.match(text)
    if match is None:
        raise InvalidArgument(f"invalid time {text!r}: give seconds since the epoch, RFC 3339, or a duration such as 10m")
    day, clock, fraction, zone = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in (None, 'Z', 'z') else zone}")
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 10**9 + int(((fraction or "") + "0" * 9)[:9])


def parse_instant(text: str, now_ns: int | None = None) -> int:
    """Nanoseconds since the epoch from what clients send: 1700000000.5, RFC 3339, a date, or a duration before now."""
    seconds, dot, fraction = text.partition(".")
    if seconds.lstrip("-").isdigit() and (not dot or fraction.isdigit()):
        return int(seconds) * 10**9 + int((fraction + "0" * 9)[:9])
    if re.match(r"\d{4}-\d\d-\d\d\Z", text):
        return parse_rfc3339(text + "T00:00:00Z")
    if _DURATION.match(text.lstrip("-")) and not re.match(r"\d{4}-", text):
        return (time.time_ns() if now_ns is None else now_ns) - parse_duration(text)
    return parse_rfc3339(text)
