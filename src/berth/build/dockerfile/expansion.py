"""Variables and quotes in the words of a Dockerfile, by the rules of its reference (a part of POSIX shell's).

    $x ${x} ${x:-w} ${x-w} ${x:+w} ${x+w} ${x:?w} ${x?w} ${x#p} ${x##p} ${x%p} ${x%%p} ${x/p/w} ${x//p/w}

Quotes are removed: nothing is special in single quotes; in double quotes variables are replaced and the escape character
counts before `"`, `$` and itself. Outside, it makes the next character plain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from berth.model.ignore import glob_regex

_SPECIAL = "@*#?-!$0123456789"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_DEPTH = 50


class ExpansionError(ValueError):
    """The word cannot be expanded; the message says why."""


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The word with variables replaced and quotes removed. A variable that is not set is empty. ExpansionError."""
    return "".join(char for char, _ in _Expander(text, variables, escape).run())


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """The same, split into words at white space that is not quoted; white space in a variable's value splits too."""
    words: list[str] = []
    current: list[str] = []
    started = False
    for char, plain in _Expander(text, variables, escape).run():
        if plain and char in " \t\r\n":
            if started:
                words.append("".join(current))
            current, started = [], False
        else:
            started = True
            current.append(char)
    if started:
        words.append("".join(current))
    return words


def expand_document(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """A here-document: variables are replaced, quotes stay, and the escape character counts only before `$` and itself, as
    in a shell's."""
    return _Expander(text, variables, escape).document()


class _Expander:
    """Walks the text once. Its result is a list of (character, plain), where plain means neither quoted nor escaped."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str, depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise ExpansionError("variables are nested too deeply")
        self.text = text
        self.variables = variables
        self.escape = escape
        self.depth = depth
        self.index = 0

    def run(self) -> list[tuple[str, bool]]:
        out: list[tuple[str, bool]] = []
        while self.index < len(self.text):
            char = self._next()
            if char == "'":
                out.extend((c, False) for c in self._single_quoted())
            elif char == '"':
                out.extend((c, False) for c in self._double_quoted())
            elif char == "$":
                out.extend((c, True) for c in self._dollar())
            elif char == self.escape:
                if self.index < len(self.text):
                    out.append((self._next(), False))
            else:
                out.append((char, True))
        return out

    def document(self) -> str:
        """The whole text by the rules of a here-document."""
        out: list[str] = []
        while self.index < len(self.text):
            char = self._next()
            if char == "$":
                out.append(self._dollar())
            elif char == self.escape and self._peek() and self._peek() in ("$", self.escape):
                out.append(self._next())
            else:
                out.append(char)
        return "".join(out)

    def _next(self) -> str:
        char = self.text[self.index]
        self.index += 1
        return char

    def _peek(self) -> str:
        return self.text[self.index : self.index + 1]

    def _single_quoted(self) -> str:
        end = self.text.find("'", self.index)
        if end == -1:
            raise ExpansionError("unexpected end of statement while looking for matching single-quote")
        content = self.text[self.index : end]
        self.index = end + 1
        return content

    def _double_quoted(self) -> str:
        out: list[str] = []
        while self.index < len(self.text):
            char = self._next()
            if char == '"':
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
            elif char == self.escape and self._peek() in ('"', "$", self.escape) and self._peek():
                out.append(self._next())
            else:
                out.append(char)
        raise ExpansionError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        following = self._peek()
        if following == "{":
            self.index += 1
            return self._braced()
        name = self._name()
        if not name:
            return "$"
        return self.variables.get(name, "")

    def _name(self) -> str:
        match = _NAME.match(self.text, self.index)
        if match is not None:
            self.index = match.end()
            return match[0]
        if self._peek() and self._peek() in _SPECIAL:
            return self._next()
        return ""

    def _braced(self) -> str:
        name = self._name()
        if not name:
            raise ExpansionError("bad substitution: a name is missing after ${")
        value = self.variables.get(name)
        operator = self._next() if self.index < len(self.text) else ""
        if operator == "}":
            return value or ""
        if operator == ":":
            operator = self._next() if self.index < len(self.text) else ""
            if operator not in ("-", "+", "?"):
                raise ExpansionError(f"unsupported modifier (:{operator}) in substitution of {name}")
            return self._conditional(name, value if value else None, value, operator)
        if operator in ("-", "+", "?") and operator:
            return self._conditional(name, value, value, operator)
        if operator in ("#", "%") and operator:
            return self._trimmed(value or "", operator)
        if operator == "/":
            return self._replaced(value or "")
        if not operator:
            raise ExpansionError(f"syntax error: missing '}}' in substitution of {name}")
        raise ExpansionError(f"unsupported modifier ({operator}) in substitution of {name}")

    def _conditional(self, name: str, present: str | None, value: str | None, operator: str) -> str:
        word = self._closed()
        if operator == "-":
            return present if present is not None else self._sub(word)
        if operator == "+":
            return self._sub(word) if present is not None else ""
        if present is None:
            raise ExpansionError(f"{name}: {self._sub(word) or 'not set'}")
        return value or ""

    def _sub(self, word: str) -> str:
        return "".join(char for char, _ in _Expander(word, self.variables, self.escape, self.depth + 1).run())

    def _closed(self) -> str:
        """The operand up to the closing brace, which is consumed."""
        word = self._operand("}")
        self.index += 1
        return word

    def _operand(self, ends: str) -> str:
        """The raw text before the first of `ends` that is neither quoted nor nested; it is not consumed."""
        start, nested, quote = self.index, 0, ""
        while self.index < len(self.text):
            char = self.text[self.index]
            if not quote and not nested and char in ends:
                return self.text[start : self.index]
            self.index += 1
            if char == self.escape and quote != "'":
                self.index += 1
            elif quote:
                quote = "" if char == quote else quote
            elif char in "\"'":
                quote = char
            elif char == "$" and self._peek() == "{":
                nested += 1
            elif char == "}":
                nested -= 1
        raise ExpansionError("syntax error: missing '}'")

    def _pattern(self, word: str) -> str:
        """A shell pattern as a regular expression without its end anchor; `/` is not special here."""
        text = "".join(
            char if plain else ("\\" + char if char in "*?[\\" else char)
            for char, plain in _Expander(word, self.variables, self.escape, self.depth + 1).run()
        )
        try:
            regex = glob_regex(text.replace("**", "*"))
        except ValueError as error:
            raise ExpansionError(f"invalid pattern {text!r}: {error}") from None
        return regex.removesuffix(r"\Z").replace("[^/]", ".").replace("(?!/)", "")

    def _trimmed(self, value: str, operator: str) -> str:
        greedy = self._peek() == operator
        if greedy:
            self.index += 1
        regex = re.compile(self._pattern(self._closed()) + r"\Z")
        sizes = range(len(value) + 1)
        for size in reversed(sizes) if greedy else sizes:
            part = value[:size] if operator == "#" else value[len(value) - size :]
            if regex.match(part):
                return value[size:] if operator == "#" else value[: len(value) - size]
        return value

    def _replaced(self, value: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self.index += 1
        word = self._operand("/}")
        new = self._sub(self._closed()) if self._next() == "/" else ""
        return re.sub(self._pattern(word), lambda _: new, value, count=0 if everywhere else 1) if word else value
