"""Typed decoding that several threads may use at once.

msgspec builds what it needs to know of a type at its first use, and letting two threads do that for the same type at the same
time has crashed the interpreter. So a type is prepared under a lock, once; decoding itself runs freely.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_lock = threading.Lock()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    with _lock:
        found = _decoders.get(kind)
        if found is None:
            found = _decoders[kind] = msgspec.json.Decoder(kind, strict=False)
        return found


def decode(data: bytes | str, kind: type[T]) -> T:
    """JSON as a value of the type. Raises msgspec.MsgspecError."""
    value: T = _decoder(kind).decode(data)
    return value


def convert(value: object, kind: type[T]) -> T:
    """Plain values (what untyped decoding gives) as a value of the type. Raises msgspec.MsgspecError."""
    _decoder(kind)
    return msgspec.convert(value, kind)
