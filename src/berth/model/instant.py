"""Points in time as Docker writes and reads them: RFC 3339 in UTC with nanoseconds, seconds since the epoch, durations back."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from berth.errors import InvalidArgument
from berth.model.units import parse_duration

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: never."""

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?)?)?(?:[Zz]|([+-])(\d\d):?(\d\d))?\Z"
)
_ZONE = re.compile(r"(?:[Zz]|[Tt ].*[+-]\d\d:?\d\d)\Z")
_UNIX = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9})\d*)?\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**9


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as 2026-01-02T03:04:05.678901000Z, to the microsecond; 0 is Go's zero time."""
    return rfc3339_ns(round(seconds * 1e6) * 1000) if seconds else ZERO


def rfc3339_ns(nanoseconds: int) -> str:
    """The same, from nanoseconds."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch. The time of day, or a part of it, may be left out; without a zone it is UTC."""
    match = _TIME.match(text)
    try:
        if match is None:
            raise ValueError(text)
        year, month, day, hour, minute, second = (int(match[n] or 0) for n in range(1, 7))
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        zone = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0)) * (-1 if match[8] == "-" else 1)
        return int((moment - _EPOCH - zone).total_seconds()) * _SECOND + _fraction(match[7])
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"invalid time {text!r}: give seconds since the epoch, a date such as 2024-05-01T10:00:00Z, or a duration such as 10m"
        ) from None


def _fraction(digits: str | None) -> int:
    return int(((digits or "") + "0" * 9)[:9])


def parse_instant(text: str, now_ns: int | None = None) -> int:
    """Nanoseconds since the epoch from what clients send: 1700000000.5, RFC 3339, a date, or a duration before now."""
    unix = _UNIX.match(text)
    if unix:
        return int(unix[1]) * _SECOND + _fraction(unix[2])
    try:
        back = parse_duration(text)
    except InvalidArgument:
        return parse_rfc3339(text)
    return (time.time_ns() if now_ns is None else now_ns) - back


def parse_moment(text: str, now: float) -> float:
    """The same in seconds, for what is not told apart more finely."""
    return parse_instant(text, int(now * _SECOND)) / _SECOND


def document_time(text: str | None) -> float:
    """Seconds since the epoch from a foreign document (an image's); 0 where it has no time, or none that can be read."""
    try:
        return parse_rfc3339(text or "") / _SECOND
    except InvalidArgument:
        return 0.0


def for_api(text: str | None) -> str | None:
    """What a user wrote for --since or --until, as seconds of the epoch. A time without a zone is one of the user's own."""
    if not text:
        return None
    seconds, rest = divmod(parse_instant(text), _SECOND)
    if _TIME.match(text) and not _ZONE.search(text):
        seconds = int((_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).timestamp())
    return f"{seconds}.{rest:09d}"
