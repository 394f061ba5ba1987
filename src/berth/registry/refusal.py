"""What registries refuse, as kinds of errors: the `errors` document of the distribution API, in Docker's spelling."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec
from msgspec import Struct

from berth.errors import BerthError, Forbidden, InvalidArgument, NotFound, ResourceExhausted, Unauthenticated, Unavailable
from berth.model.malformed import MALFORMED

_MAX_TEXT = 600


class _Entry(Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Errors(Struct, frozen=True):
    errors: list[_Entry] = []
    details: str = ""


class ManifestUnknown(NotFound):
    """The registry has the repository, but not this tag or digest."""


class RepositoryUnknown(NotFound):
    """The registry has no such repository, or does not tell us."""


def retry_seconds(text: str) -> float | None:
    """How long a Retry-After header says to wait: seconds, or the moment as a date (RFC 9110, section 10.2.3); None without."""
    if text.strip().isascii() and text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment.tzinfo else None
    except ValueError:
        return None


def refusal(status: int, body: bytes, retry_after: str = "") -> BerthError:
    """The error for an answer with this status and body, and its Retry-After header."""
    code, text = _read(body)
    text = text or _PLAIN.get(status, f"received unexpected HTTP status: {status}")
    if code == "MANIFEST_UNKNOWN":
        return ManifestUnknown(text)
    if code == "NAME_UNKNOWN":
        return RepositoryUnknown(text)
    if status == 401 or code == "UNAUTHORIZED":
        return Unauthenticated(text)
    if status == 403 or code == "DENIED":
        return Forbidden(text)
    if status == 404:
        return NotFound(text)
    if status == 429 or code == "TOOMANYREQUESTS":
        return ResourceExhausted(f"{_limited(text)}: {_when(retry_after)}, log in, or set up a registry mirror")
    if status in (400, 405, 413, 415, 422):
        return InvalidArgument(text)
    return Unavailable(text)


_PLAIN = {
    401: "unauthorized: authentication required",
    403: "denied: requested access to the resource is denied",
    404: "not found",
    429: "toomanyrequests: the registry limits the number of requests",
}


def _limited(text: str) -> str:
    return text if text.startswith("toomanyrequests") else f"toomanyrequests: {text}"


def _when(retry_after: str) -> str:
    seconds = retry_seconds(retry_after)
    if seconds is None:
        return "try again later"
    return f"try again in {seconds:.0f} seconds" if seconds < 120 else f"try again in {seconds / 60:.0f} minutes"


def _read(body: bytes) -> tuple[str, str]:
    try:
        document = msgspec.json.decode(body, type=_Errors)
    except MALFORMED:
        return "", ""
    if not document.errors:
        return "", _clean(document.details)
    lines = [f"{entry.code.lower().replace('_', ' ')}: {entry.message}".strip(": ") for entry in document.errors[:5]]
    return document.errors[0].code.upper(), _clean("; ".join(lines))


def _clean(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:_MAX_TEXT]
