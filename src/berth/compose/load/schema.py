"""Third phase: the Compose Specification's schema, with messages that say where, what and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import msgspec

from berth.compose.load.document import Document
from berth.compose.problem import ComposeInvalid, dotted

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "null": "null",
}


def validate(document: Document) -> None:
    """Raise ComposeInvalid for the first thing in the document that the schema does not allow."""
    from jsonschema import Draft7Validator

    schema = msgspec.json.decode(resources.files("berth.compose.load").joinpath("compose-spec.json").read_bytes())
    errors = sorted(
        Draft7Validator(schema).iter_errors(document.data), key=lambda error: document.mark(tuple(error.absolute_path)).line
    )
    if not errors:
        return
    lines = []
    for error in errors[:5]:
        path, text = _explain(error)
        lines.append((document.mark(path), text))
    first, rest = lines[0], lines[1:]
    raise ComposeInvalid(first[1] + "".join(f"\n{mark}: {text}" for mark, text in rest), first[0])


def _explain(error: Any) -> tuple[tuple[str | int, ...], str]:
    error = _deepest(error)
    path: tuple[str | int, ...] = tuple(error.absolute_path)
    where = dotted(path) or "the file"
    if error.validator == "additionalProperties":
        unknown = _unknown(error)
        known = sorted(error.schema.get("properties", {}))
        near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
        hint = f": did you mean '{near[0]}'?" if near else (f": known are {', '.join(known)}" if len(known) <= 12 else "")
        inside = dotted(path) if path else "the top level"
        return (*path, unknown), f"additional properties '{unknown}' not allowed in {inside}{hint}"
    if error.validator == "required":
        return path, f"{where}: {error.message.replace(' is a required property', '')} is missing"
    if error.validator == "type":
        return path, f"{where} must be {_type_names(error.validator_value)}"
    if error.validator in ("oneOf", "anyOf"):
        return path, f"{where} must be {' or '.join(_alternatives(error.schema, error.validator))}"
    if error.validator == "enum":
        return path, f"{where}: value must be one of {', '.join(map(repr, error.validator_value))}, not {error.instance!r}"
    if error.validator == "uniqueItems":
        twice = next((item for index, item in enumerate(error.instance) if item in error.instance[:index]), None)
        return path, f"{where}: {twice!r} is there twice, items have to be unique"
    return path, f"{where}: {error.message}"


def _unknown(error: Any) -> str:
    import re

    patterns = error.schema.get("patternProperties", {})
    for key in error.instance:
        if key not in error.schema.get("properties", {}) and not any(re.search(pattern, key) for pattern in patterns):
            return str(key)
    return str(next(iter(error.instance)))


def _deepest(error: Any) -> Any:
    """Of several alternatives, the one whose type fits: its complaint is the useful one."""
    while error.validator in ("oneOf", "anyOf") and error.context:
        fitting = [e for e in error.context if len(e.path) > 0 or e.validator not in ("type",)]
        branches = {e.schema_path[0] for e in fitting}
        if len(branches) != 1:
            return error
        error = max(fitting, key=lambda e: len(e.path))
    return error


def _type_names(value: Any) -> str:
    names = value if isinstance(value, list) else [value]
    return " or ".join(_TYPES.get(name, str(name)) for name in names)


def _alternatives(schema: Any, validator: str) -> Iterator[str]:
    for branch in schema[validator]:
        kind = branch.get("type")
        if kind:
            yield _type_names(kind)
        elif "$ref" in branch:
            yield {"list_of_strings": "a list of strings", "list_or_dict": "a mapping or a list"}.get(
                branch["$ref"].split("/")[-1], "a list or a string"
            )
        else:
            yield "another form"
