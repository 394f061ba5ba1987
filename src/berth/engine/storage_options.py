"""Options of the storage driver, as Docker's overlay2 has them: `size`, of a container and as the engine's default. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from berth.errors import InvalidArgument
from berth.model.units import parse_size
from berth.storage.quota import MOST_BYTES

_DRIVER = "overlay2."
# Mounting an overlay on xfs asks for some hundred KiB at once.
_LEAST_LAYER = 1 << 20


def quota_size(text: str) -> int:
    """Bytes of 10g or 512m; 0 is any size. InvalidArgument."""
    size = parse_size(text)
    if size > MOST_BYTES:
        raise InvalidArgument(f"invalid size: '{text}': the most that can be limited is {MOST_BYTES >> 50}p")
    return size


def container_size(options: Mapping[str, str] | None, default: int) -> int:
    """What a container's writable layer may take up; the default when it names no size. InvalidArgument."""
    size = default
    for name, text in (options or {}).items():
        if name.lower() != "size":
            raise InvalidArgument(f"Unknown option {name.lower()}")
        size = _layer_size(text)
    return size


def _layer_size(text: str) -> int:
    size = quota_size(text)
    if 0 < size < _LEAST_LAYER:
        raise InvalidArgument(f"invalid size: '{text}': a container needs 1m at least to be started")
    return size


def default_size(entries: Iterable[str]) -> int:
    """Of berthd's own --storage-opt: size=10g, or overlay2.size=10g as dockerd has it. InvalidArgument."""
    size = 0
    for entry in entries:
        name, _, text = entry.partition("=")
        if name.lower().removeprefix(_DRIVER) != "size":
            raise InvalidArgument(f"--storage-opt {entry}: unknown option {name}: give size (or overlay2.size), such as size=10g")
        try:
            size = _layer_size(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"--storage-opt {entry}: {error.message}") from None
    return size
