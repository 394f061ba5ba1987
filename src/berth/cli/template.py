"""Go templates, the part that Docker's `--format` is used with.

    text {{ action }} text        {{- and -}} trim white space
    actions: pipelines, if / else if / else, range (with index and else), with, end, $variables, comments
    functions: json, join, split, lower, upper, title, pad, truncate, println, print, printf, len, index, slice, eq, ne, lt, le,
    gt, ge, and, or, not

A template is compiled once into nodes and run on each row. Source: Go's text/template, docker/cli's formatting guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from berth.cli.row import json_text
from berth.errors import InvalidArgument

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<variable>\$\w*(?:\.\w+)*)"""
    r"""|(?P<field>(?:\.\w+)+|\.)|(?P<word>\w+)|(?P<mark>:=|[|(),=]))"""
)

Scope = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Token:
    """A word of an action."""

    kind: str
    text: str


@dataclass(slots=True)
class Node:
    """A piece of a template: `text`, or an action with its pipeline and, for blocks, its bodies."""

    kind: str
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


def _fail(message: str) -> InvalidArgument:
    return InvalidArgument(f"template parsing error: template: {message}")


def _tokens(action: str) -> list[Token]:
    found, position = [], 0
    action = action.strip()
    while position < len(action):
        match = _TOKEN.match(action, position)
        if match is None or match.lastgroup is None:
            raise _fail(f"unexpected {action[position:]!r} in {{{{{action}}}}}")
        found.append(Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


def _pieces(template: str) -> Iterator[Node]:
    position, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        text = text.lstrip() if trim else text
        yield Node("text", text.rstrip() if match[1] else text)
        action = match[2].strip()
        if not action.startswith("/*"):
            tokens = _tokens(action)
            first = tokens[0].text if tokens and tokens[0].kind == "word" else ""
            if first in ("if", "range", "with", "else", "end"):
                yield Node(first, tokens=tokens[1:])
            else:
                yield Node("pipeline", tokens=tokens)
        position, trim = match.end(), bool(match[3])
    rest = template[position:]
    if "{{" in rest:
        raise _fail("unclosed action")
    yield Node("text", rest.lstrip() if trim else rest)


def _block(pieces: Iterator[Node], inside: bool) -> tuple[list[Node], Node | None]:
    """Nodes up to the `else` or `end` that closes them."""
    nodes: list[Node] = []
    for node in pieces:
        if node.kind in ("else", "end"):
            if not inside:
                raise _fail(f"unexpected {{{{{node.kind}}}}}")
            return nodes, node
        if node.kind in ("if", "range", "with"):
            _close(node, pieces)
        nodes.append(node)
    if inside:
        raise _fail("unexpected EOF")
    return nodes, None


def _close(node: Node, pieces: Iterator[Node]) -> None:
    node.body, ending = _block(pieces, True)
    if ending is not None and ending.kind == "else":
        if ending.tokens:  # {{else if ...}}
            inner = Node(ending.tokens[0].text, tokens=ending.tokens[1:])
            _close(inner, pieces)
            node.otherwise = [inner]
        else:
            node.otherwise, _ = _block(pieces, True)


class Template:
    """A compiled template. InvalidArgument when it does not parse, or when a row lacks a field it names."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._nodes, _ = _block(_pieces(text), False)

    def render(self, row: Any) -> str:
        """The text for one row."""
        out: list[str] = []
        _run(self._nodes, row, {"$": row}, out)
        return "".join(out)


def _run(nodes: list[Node], dot: Any, scope: Scope, out: list[str]) -> None:
    for node in nodes:
        match node.kind:
            case "text":
                out.append(node.text)
            case "pipeline":
                _pipeline_node(node, dot, scope, out)
            case "if":
                _run(node.body if _truth(_evaluate(node.tokens, dot, scope)) else node.otherwise, dot, scope, out)
            case "with":
                value = _evaluate(node.tokens, dot, scope)
                if _truth(value):
                    _run(node.body, value, scope, out)
                else:
                    _run(node.otherwise, dot, scope, out)
            case "range":
                _range(node, dot, scope, out)


def _pipeline_node(node: Node, dot: Any, scope: Scope, out: list[str]) -> None:
    if len(node.tokens) > 2 and node.tokens[0].kind == "variable" and node.tokens[1].text in (":=", "="):
        scope[node.tokens[0].text] = _evaluate(node.tokens[2:], dot, scope)
        return
    out.append(_text(_evaluate(node.tokens, dot, scope)))


def _range(node: Node, dot: Any, scope: Scope, out: list[str]) -> None:
    tokens, names = node.tokens, []
    if any(t.text == ":=" for t in tokens):
        cut = next(i for i, t in enumerate(tokens) if t.text == ":=")
        names = [t.text for t in tokens[:cut] if t.kind == "variable"]
        tokens = tokens[cut + 1 :]
    value = _evaluate(tokens, dot, scope)
    pairs = sorted(value.items()) if isinstance(value, dict) else list(enumerate(value or ()))
    if not pairs:
        _run(node.otherwise, dot, scope, out)
    for key, item in pairs:
        inner = dict(scope)
        if len(names) == 2:
            inner[names[0]], inner[names[1]] = key, item
        elif names:
            inner[names[0]] = item
        _run(node.body, item, inner, out)


def _evaluate(tokens: list[Token], dot: Any, scope: Scope) -> Any:
    """A pipeline: commands with arguments, joined by |, with parentheses."""
    value, position = _pipeline(tokens, 0, dot, scope)
    if position != len(tokens):
        raise _fail(f"unexpected {tokens[position].text!r}")
    return value


def _pipeline(tokens: list[Token], position: int, dot: Any, scope: Scope) -> tuple[Any, int]:
    value, position = _command(tokens, position, dot, scope, [])
    while position < len(tokens) and tokens[position].text == "|":
        value, position = _command(tokens, position + 1, dot, scope, [value])
    return value, position


def _command(tokens: list[Token], position: int, dot: Any, scope: Scope, piped: list[Any]) -> tuple[Any, int]:
    if position >= len(tokens):
        raise _fail("missing value for command")
    head = tokens[position]
    if head.kind == "word" and head.text not in ("true", "false", "nil"):
        function = FUNCTIONS.get(head.text)
        if function is None:
            raise _fail(f"function {head.text!r} not defined")
        arguments, position = _arguments(tokens, position + 1, dot, scope)
        try:
            return function(*arguments, *piped), position
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise InvalidArgument(f"template: error calling {head.text}: {error}") from error
    value, position = _operand(tokens, position, dot, scope)
    if callable(value):
        arguments, position = _arguments(tokens, position, dot, scope)
        return value(*map(str, [*arguments, *piped])), position
    return value, position


def _arguments(tokens: list[Token], position: int, dot: Any, scope: Scope) -> tuple[list[Any], int]:
    found = []
    while position < len(tokens) and tokens[position].text not in ("|", ")"):
        value, position = _operand(tokens, position, dot, scope)
        found.append(value)
    return found, position


def _operand(tokens: list[Token], position: int, dot: Any, scope: Scope) -> tuple[Any, int]:
    token = tokens[position]
    position += 1
    match token.kind:
        case "string":
            return token.text[1:-1] if token.text[0] == "`" else json.loads(token.text), position
        case "number":
            return float(token.text) if "." in token.text else int(token.text), position
        case "field":
            return _lookup(dot, token.text), position
        case "variable":
            name, dotted, path = token.text.partition(".")
            if name not in scope:
                raise _fail(f"undefined variable {name!r}")
            return _lookup(scope[name], dotted + path), position
        case "word":
            return {"true": True, "false": False, "nil": None}.get(token.text), position
        case _:
            if token.text != "(":
                raise _fail(f"unexpected {token.text!r}")
            value, position = _pipeline(tokens, position, dot, scope)
            if position >= len(tokens) or tokens[position].text != ")":
                raise _fail("unclosed left paren")
            position += 1
            if position < len(tokens) and tokens[position].kind == "field":
                value, position = _lookup(value, tokens[position].text), position + 1
            return value, position


def _lookup(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not name:
            continue
        if isinstance(value, dict):
            if name in value:
                value = value[name]
                continue
            raise InvalidArgument(f"template: can't evaluate field {name}: there are {', '.join(map(str, value)) or 'none'}")
        if value is None:
            return None
        raise InvalidArgument(f"template: can't evaluate field {name} in {type(value).__name__}")
    return value


def _truth(value: Any) -> bool:
    return value not in (None, False, 0, "", [], {})


def _text(value: Any) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{_text(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(_text, value)) + "]"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = (value or {}).get(key, "") if not isinstance(value, list | tuple | str) else value[key]
    return value


def _slice(value: Any, *bounds: int) -> Any:
    return value[bounds[0] if bounds else 0 : bounds[1] if len(bounds) > 1 else None]


def _printf(form: str, *values: Any) -> str:
    plain = re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)v", r"%\1s", form).replace("%q", '"%s"').replace("%t", "%s")
    return plain % tuple(_text(v) if not isinstance(v, int | float) or isinstance(v, bool) else v for v in values)


def _last(values: tuple[Any, ...], stop: Callable[[Any], bool]) -> Any:
    return next((v for v in values if stop(v)), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": json_text,
    "join": lambda items, separator: separator.join(map(_text, items or ())),
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "title": lambda text: text.title(),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else text,
    "truncate": lambda text, length: text[:length],
    "println": lambda *values: " ".join(map(_text, values)) + "\n",
    "print": lambda *values: "".join(map(_text, values)),
    "printf": _printf,
    "len": lambda value: len(value or ()),
    "index": _index,
    "slice": _slice,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda *values: _last(values, lambda v: not _truth(v)),
    "or": lambda *values: _last(values, _truth),
    "not": lambda value: not _truth(value),
}
