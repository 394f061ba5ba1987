"""Points in time as users write them: seconds of the epoch, RFC 3339, or a duration back from now."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from berth.compose.units import parse_duration
from berth.errors import InvalidArgument


def moment(text: str | None) -> str | None:
    """Seconds of the epoch, as the API takes them."""
    if not text:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    try:
        return f"{time.time() - parse_duration(text) / 1e9:.9f}"
    except InvalidArgument:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid time {text!r}: write 10m, 2026-01-31T12:00:00Z or seconds of the epoch") from error
    return f"{(found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp():.9f}"
