"""Ignore rules of a build context (.dockerignore): which paths stay out. Pure; used by the builder and by its clients.

A pattern matches a path, or a directory above it. The last pattern that matches decides; `!` brings back. Patterns are
anchored at the root of the context; `*` and `?` stay within a component, `**` spans any number of them, also none.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from berth.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class _Pattern:
    text: str
    negated: bool
    regex: re.Pattern[str]

    def matches(self, path: str) -> bool:
        if self.regex.match(path):
            return True
        slash = path.find("/")
        while slash != -1:
            if self.regex.match(path[:slash]):
                return True
            slash = path.find("/", slash + 1)
        return False

    def may_match_below(self, directory: str) -> bool:
        """Whether some path inside the directory could match."""
        mine = self.text.split("/")
        for own, other in zip(mine, directory.split("/"), strict=False):
            if own == "**":
                return True
            if not re.match(glob_regex(own), other):
                return False
        return True


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of one file, in order."""

    patterns: tuple[_Pattern, ...] = ()

    @classmethod
    def parse(cls, text: str, name: str = ".dockerignore") -> IgnoreRules:
        """InvalidArgument names the file and the line of a pattern that is not one."""
        found = []
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
            if line.startswith("#"):
                continue
            pattern = line.strip()
            negated = pattern.startswith("!")
            pattern = pattern[1:].strip() if negated else pattern
            if not pattern:
                if negated:
                    raise InvalidArgument(f'{name}:{number}: illegal exclusion pattern "!": name a path after the mark')
                continue
            found.append(_compile(pattern, negated, f"{name}:{number}"))
        return cls(tuple(found))

    def keeping(self, paths: Iterable[str]) -> IgnoreRules:
        """The same rules with these paths brought back, as a client does with the Dockerfile, which it must send."""
        kept = tuple(_Pattern(path, True, re.compile(re.escape(path) + r"\Z")) for path in paths)
        return IgnoreRules(self.patterns + kept)

    def excludes(self, path: str, is_dir: bool = False) -> bool:
        """Whether the path, relative to the context and with slashes, is left out. `is_dir` is for the reader: nothing in
        the rules depends on it."""
        excluded = False
        for pattern in self.patterns:
            if pattern.negated == excluded and pattern.matches(path):
                excluded = not pattern.negated
        return excluded

    def prunes(self, directory: str) -> bool:
        """Whether nothing in the directory can be part of the context, so that a walk need not enter it."""
        if not self.excludes(directory, True):
            return False
        return not any(pattern.negated and pattern.may_match_below(directory) for pattern in self.patterns)


def _compile(pattern: str, negated: bool, where: str) -> _Pattern:
    clean = posixpath.normpath(pattern).lstrip("/")
    try:
        return _Pattern(clean, negated, re.compile(glob_regex(clean)))
    except (re.error, ValueError) as error:
        raise InvalidArgument(f"{where}: invalid pattern {pattern!r}: {error}") from None


def glob_regex(pattern: str) -> str:
    """The regular expression of a pattern with *, ?, [...], backslash escapes and **. ValueError for a bad one."""
    out: list[str] = []
    index = 0
    while index < len(pattern):
        char = pattern[index]
        index += 1
        if char == "*":
            if pattern.startswith("*", index):
                index += 1
                if pattern.startswith("/", index):
                    index += 1
                out.append(".*" if index >= len(pattern) else "(?:.*/)?")
            else:
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            text, index = _class(pattern, index)
            out.append(text)
        elif char == "\\":
            if index >= len(pattern):
                raise ValueError("it ends with a backslash")
            out.append(re.escape(pattern[index]))
            index += 1
        else:
            out.append(re.escape(char))
    return "(?s:" + "".join(out) + r")\Z"


def _class(pattern: str, index: int) -> tuple[str, int]:
    """A character class from behind its bracket on: the regular expression, and where it ends."""
    negated = pattern.startswith("^", index)
    index += negated
    out: list[str] = []
    while True:
        if index >= len(pattern):
            raise ValueError("a bracket is not closed")
        if pattern[index] == "]" and out:
            break
        low, index = _class_char(pattern, index)
        high = low
        if pattern.startswith("-", index):
            high, index = _class_char(pattern, index + 1)
        if high < low:
            raise ValueError(f"the range {low}-{high} is reversed")
        out.append(re.escape(low) + ("-" + re.escape(high) if high != low else ""))
    return f"(?!/)[{'^' if negated else ''}{''.join(out)}]", index + 1


def _class_char(pattern: str, index: int) -> tuple[str, int]:
    if pattern.startswith("\\", index):
        index += 1
    if index >= len(pattern):
        raise ValueError("a bracket is not closed")
    return pattern[index], index + 1
