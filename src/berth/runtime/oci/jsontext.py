"""JSON by the C code below the standard library's json, whose own import takes longer than everything it would do here."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    import _json
except ImportError:
    _json = None  # type: ignore[assignment]  # the fallback of a module

_BLANKS = " \t\n\r"


class _Rules:
    """What the scanner asks of its owner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def decode(text: str) -> Any:
    """The value of a document. ValueError says where it is wrong."""
    if _json is not None:
        body = text.lstrip(_BLANKS)
        try:
            rules: Any = _Rules()
            value, end = _json.make_scanner(rules)(body, 0)
            if not body[end:].strip(_BLANKS):
                return value
        except (StopIteration, SystemError):
            # It is wrong: the library, which has the words for it, finds it once more.
            pass
    import json

    return json.loads(text)


def encode(value: Any, indent: int = 0) -> str:
    """The document of a value, on one line, or indented as many blanks."""
    if _json is None or indent:
        import json

        return json.dumps(value, indent=indent or None, separators=None if indent else (",", ":"))
    encoder = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False)
    return "".join(encoder(value, 0))


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is no JSON value")
