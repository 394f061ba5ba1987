"""Second phase: variables in values.

    $NAME  ${NAME}              the value, empty (with a warning) when it is not set
    ${NAME:-word} ${NAME-word}  word when it is unset or empty; when it is unset
    ${NAME:?word} ${NAME?word}  an error with word in the same cases
    ${NAME:+word} ${NAME+word}  word in the opposite cases, else empty
    $$                          a dollar sign

Words may contain variables themselves. Keys are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from berth.compose.load.document import Document
from berth.compose.problem import ComposeInvalid, Path, dotted

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")


class InterpolationFailed(Exception):
    """Text inside a value makes no sense, or a variable that is required is missing."""


def interpolate(document: Document, variables: Mapping[str, str], unset: Callable[[str], None]) -> Document:
    """The document with all values expanded; `unset` is told each missing variable that became empty."""

    def walk(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value
        try:
            return expand(value, variables, unset)
        except InterpolationFailed as error:
            raise ComposeInvalid(f"{error} (in {dotted(path)})", document.mark(path)) from error

    return replace(document, data=walk(document.data, ()))


def expand(text: str, variables: Mapping[str, str], unset: Callable[[str], None] = lambda _name: None) -> str:
    """One text expanded. Raises InterpolationFailed."""
    result, end = _expand(text, 0, variables, unset, nested=False)
    assert end == len(text)
    return result


def _expand(text: str, at: int, variables: Mapping[str, str], unset: Callable[[str], None], *, nested: bool) -> tuple[str, int]:
    out: list[str] = []
    while at < len(text):
        char = text[at]
        if nested and char == "}":
            return "".join(out), at
        if char != "$":
            out.append(char)
            at += 1
            continue
        if text.startswith("$$", at):
            out.append("$")
            at += 2
        elif text.startswith("${", at):
            value, at = _braced(text, at + 2, variables, unset)
            out.append(value)
        else:
            match = _NAME.match(text, at + 1)
            if not match:
                raise InterpolationFailed(f"invalid interpolation format {text!r}: you may need to escape any $ with another $")
            out.append(_plain(match.group(), variables, unset))
            at = match.end()
    if nested:
        raise InterpolationFailed(f"invalid interpolation format {text!r}: a brace is not closed")
    return "".join(out), at


def _braced(text: str, at: int, variables: Mapping[str, str], unset: Callable[[str], None]) -> tuple[str, int]:
    match = _NAME.match(text, at)
    if not match:
        raise InterpolationFailed(f"invalid interpolation format {text!r}: a name has to follow the brace")
    name, at = match.group(), match.end()
    if text.startswith("}", at):
        return _plain(name, variables, unset), at + 1
    operator = next((o for o in _OPERATORS if text.startswith(o, at)), None)
    if operator is None:
        raise InterpolationFailed(
            f"invalid interpolation format {text!r}: after {name}, one of :- - :? ? :+ + or a closing brace is expected"
        )
    # Inside the word, missing variables are only worth a warning when the word is used.
    missing: list[str] = []
    word, at = _expand(text, at + len(operator), variables, missing.append, nested=True)
    value = variables.get(name)
    given = value is not None and (value != "" or not operator.startswith(":"))
    kind = operator[-1]
    if kind == "?" and not given:
        raise InterpolationFailed(f"required variable {name} is missing a value" + (f": {word}" if word else ""))
    used = word if (kind == "+") == given else (value or "" if given else "")
    if (kind == "+") == given:
        for each in missing:
            unset(each)
    return used, at + 1


def _plain(name: str, variables: Mapping[str, str], unset: Callable[[str], None]) -> str:
    value = variables.get(name)
    if value is None:
        unset(name)
        return ""
    return value
