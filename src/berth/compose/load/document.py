"""First phase: one file's YAML as plain values, with the place of every value and the `!reset` and `!override` marks.

Scalars follow YAML 1.2 with one exception that Compose files rely on: an integer with a leading zero is octal, as in
`mode: 0440`. `on`, `yes` and `22:22` are strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from berth.compose.problem import ComposeInvalid, Mark, Path

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*\Z")
_PREFIXED = re.compile(r"[-+]?0([xob])[0-9a-fA-F_]+\Z")


@dataclass(frozen=True)
class Document:
    """A parsed file. `data` holds no value that is reset; `resets` and `overrides` name paths inside it."""

    file: str
    data: Mapping[str, Any]
    marks: Mapping[Path, Mark] = field(default_factory=dict)
    resets: frozenset[Path] = frozenset()
    overrides: frozenset[Path] = frozenset()

    def mark(self, path: Path) -> Mark:
        """The place of a path, or of the nearest thing around it."""
        return find_mark(self.marks, path) or Mark(self.file, 1)


def find_mark(marks: Mapping[Path, Mark], path: Path) -> Mark | None:
    """The place of a path, or of the nearest thing around it."""
    for length in range(len(path), 0, -1):
        found = marks.get(path[:length])
        if found is not None:
            return found
    return None


def parse(text: str, file: str) -> Document:
    """Parse one file. Raises ComposeInvalid with the line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = Mark(file, place.line + 1) if place else None
        raise ComposeInvalid(f"yaml: {error.problem or error.context}", mark) from error
    except YAMLError as error:
        raise ComposeInvalid(f"yaml: {error}", Mark(file, 1)) from error
    except (RecursionError, ValueError) as error:
        # ValueError: the parser's own checks of numbers and escapes.
        raise ComposeInvalid(f"yaml: {_reason(error)}", Mark(file, 1)) from error
    if root is None:
        raise ComposeInvalid("empty compose file", Mark(file, 1))
    reader = _Reader(file)
    try:
        data = reader.value(root, ())
    except RecursionError as error:
        raise ComposeInvalid(f"yaml: {_reason(error)}", Mark(file, 1)) from error
    if not isinstance(data, dict):
        raise ComposeInvalid("top-level object must be a mapping", Mark(file, 1))
    return Document(file, data, reader.marks, frozenset(reader.resets), frozenset(reader.overrides))


def _reason(error: Exception) -> str:
    return "values are nested too deep" if isinstance(error, RecursionError) else str(error)


_RESET = object()
_MOST_VALUES = 100_000


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.marks: dict[Path, Mark] = {}
        self.resets: set[Path] = set()
        self.overrides: set[Path] = set()
        self._open: list[int] = []
        self._values = 0

    def value(self, node: Any, path: Path) -> Any:
        self._values += 1
        if self._values > _MOST_VALUES:
            # A few lines of aliases of aliases are billions of values.
            raise ComposeInvalid(f"there are more than {_MOST_VALUES} values, aliases counted each time", self._mark(node))
        self.marks.setdefault(path, self._mark(node))
        tag = str(node.tag)
        if tag == "!reset":
            self.resets.add(path)
            return _RESET
        if tag == "!override":
            self.overrides.add(path)
        elif not tag.startswith(_TAG):
            raise ComposeInvalid(f"unknown YAML tag {tag}: use !reset or !override", self._mark(node))
        if id(node) in self._open:
            raise ComposeInvalid("an alias refers to a value that contains it", self._mark(node))
        self._open.append(id(node))
        try:
            if isinstance(node.value, str):
                return self._scalar(node, tag)
            if node.value and isinstance(node.value[0], tuple):
                return self._mapping(node, path)
            if tag.endswith("seq") or (isinstance(node.value, list) and type(node).__name__ == "SequenceNode"):
                items = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
                return [item for item in items if item is not _RESET]
            return {}
        finally:
            self._open.pop()

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                self._inherit(value_node, path, inherited)
                continue
            if not isinstance(key_node.value, str):
                raise ComposeInvalid("a mapping key must be a string", self._mark(key_node))
            key = key_node.value
            if key in result:
                first = self.marks[(*path, key)].line
                raise ComposeInvalid(f'mapping key "{key}" already defined at line {first}', self._mark(key_node))
            self.marks[(*path, key)] = self._mark(key_node)
            result[key] = self.value(value_node, (*path, key))
        merged = {**{key: value for key, value in inherited.items() if key not in result}, **result}
        return {key: value for key, value in merged.items() if value is not _RESET}

    def _inherit(self, node: Any, path: Path, into: dict[str, Any]) -> None:
        # YAML's merge key: earlier mappings of a list win over later ones.
        sources = node.value if type(node).__name__ == "SequenceNode" else [node]
        for source in sources:
            found = self.value(source, path)
            if not isinstance(found, dict):
                raise ComposeInvalid("the value of << must be a mapping or a list of mappings", self._mark(node))
            for key, value in found.items():
                into.setdefault(key, value)

    def _scalar(self, node: Any, tag: str) -> Any:
        text: str = node.value
        if tag == f"{_TAG}null":
            return None
        if tag == f"{_TAG}bool":
            return text.lower() == "true"
        if tag == f"{_TAG}int":
            return parse_int(text)
        if tag == f"{_TAG}float":
            return _float(text)
        if tag == "!override":
            return text if text not in ("", "null", "~") else None
        return text

    def _mark(self, node: Any) -> Mark:
        return Mark(self.file, node.start_mark.line + 1)


def parse_int(text: str) -> int | str:
    """An integer; with a leading zero an octal one. A text that only looks like a number stays a text."""
    plain = text.replace("_", "")
    sign, digits = (-1, plain[1:]) if plain.startswith("-") else (1, plain.removeprefix("+"))
    try:
        if _PREFIXED.match(text):
            return sign * int(digits, 0)
        if _INT.match(text):
            octal = len(digits) > 1 and digits[0] == "0"
            return sign * int(digits, 8 if octal else 10)
    except ValueError:
        return text
    return text


def _float(text: str) -> float | str:
    lowered = text.lower()
    if lowered.lstrip("+-") in (".inf", ".nan"):
        return float(lowered.replace(".", ""))
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return text
