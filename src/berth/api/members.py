"""Names of members in bodies as Docker's server takes them: Go's JSON decoder finds a member in any case, and some clients
rely on it (`detachKeys` of docker-py's exec, for one). Exact names come first, and what has no name at all is left alone.

    shape of a Struct = its fields by exact name ──> shape of the field's own type, where that has members
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from msgspec import inspect

Renamed = Callable[[Any], Any]


def rename(value: Any, kind: type) -> Any:
    """The decoded document with the names of `kind`; changed in place where that is needed."""
    shape = _shape(kind)
    return shape(value) if shape else value


@cache
def _shape(kind: type) -> Renamed | None:
    return _of(inspect.type_info(kind), {})


def _of(info: inspect.Type, known: dict[type, Renamed]) -> Renamed | None:
    """What renames a value of the type; None where there is nothing to rename."""
    if isinstance(info, inspect.StructType):
        return _of_struct(info, known)
    if isinstance(info, inspect.UnionType):
        shapes = [shape for inner in info.types if (shape := _of(inner, known))]
        return shapes[0] if len(shapes) == 1 else None
    if isinstance(info, inspect.ListType):
        return _of_list(_of(info.item_type, known))
    return _of_mapping(_of(info.value_type, known)) if isinstance(info, inspect.DictType) else None


def _of_list(inner: Renamed | None) -> Renamed | None:
    return (lambda value: [inner(item) for item in value] if isinstance(value, list) else value) if inner else None


def _of_mapping(inner: Renamed | None) -> Renamed | None:
    if inner is None:
        return None
    return lambda value: {key: inner(item) for key, item in value.items()} if isinstance(value, dict) else value


def _of_struct(info: inspect.StructType, known: dict[type, Renamed]) -> Renamed:
    if info.cls in known:
        return known[info.cls]
    shapes: dict[str, Renamed | None] = {}
    folded: dict[str, str] = {}

    def renamed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name in [name for name in value if name not in shapes]:
            exact = folded.get(name.lower())
            if exact is not None and exact not in value:
                value[exact] = value.pop(name)
        for name, inner in value.items():
            shape = shapes.get(name)
            if shape is not None:
                value[name] = shape(inner)
        return value

    known[info.cls] = renamed
    for field in info.fields:
        shapes[field.encode_name] = _of(field.type, known)
        folded.setdefault(field.encode_name.lower(), field.encode_name)
    return renamed
