"""Points in time as Docker's API writes and reads them: RFC 3339 with up to nine digits, Unix seconds, Go durations."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from berth.errors import InvalidArgument

ZERO = "0001-01-01T00:00:00Z"
_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z")
_PARTIAL = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[Tt](\d\d)(?::(\d\d)(?::(\d\d)(\.\d+)?)?)?)?([Zz]|[+-]\d\d:\d\d)?\Z")
_UNIX = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?\Z")
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+\Z")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def rfc3339(nanoseconds: int) -> str:
    """UTC with nine digits: 2024-05-01T10:00:00.123456789Z."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def now_rfc3339() -> str:
    """The present moment."""
    return rfc3339(time.time_ns())


def parse_rfc3339(text: str | None) -> float:
    """Unix seconds; 0 for None, for an empty string and for what is no RFC 3339 time (image documents are foreign)."""
    match = _RFC3339.match(text or "")
    if match is None:
        return 0.0
    try:
        return _seconds(match)
    except (ValueError, OverflowError):
        return 0.0


def parse_moment(text: str, now: float) -> float:
    """Unix seconds from what the `until` and `since` parameters take: Unix seconds, a date or time, or a Go duration
    before `now`. InvalidArgument for anything else."""
    unix = _UNIX.match(text)
    if unix:
        return float(text)
    if _DURATION.match(text):
        return now - sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    match = _PARTIAL.match(text)
    if match:
        try:
            return _seconds(match)
        except (ValueError, OverflowError):
            pass
    raise InvalidArgument(
        f"invalid time {text!r}: use Unix seconds, a date such as 2024-05-01T10:00:00Z, or a duration such as 10m"
    )


def _seconds(match: re.Match[str]) -> float:
    year, month, day, hour, minute, second = (int(match[n] or 0) for n in range(1, 7))
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    return (moment - _zone(match[8] or "Z")).timestamp() + float(match[7] or 0)


def _zone(text: str) -> timedelta:
    if text in ("Z", "z"):
        return timedelta()
    sign = -1 if text[0] == "-" else 1
    return sign * timedelta(hours=int(text[1:3]), minutes=int(text[4:6]))
