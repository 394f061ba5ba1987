r"""From the text of a Dockerfile to logical lines: parser directives, comments, continuation, here-documents.

# escape=`            directives: comments at the very top of the form name=value
RUN a && \            a continued line; comments and empty lines inside are dropped
    # comment
    b
COPY <<one <<-"two" / here-documents of RUN, COPY and ADD, in the order they are named
...
one
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from berth.build.dockerfile.error import DockerfileError, Location, Source

MAX_SIZE = 4 * 1024 * 1024

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_KNOWN_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]+)\Z")
_HEREDOC_KEYWORDS = ("run", "copy", "add")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`content` ends with a newline unless empty; `expand`: variables in it are meant (its name was not quoted)."""

    name: str
    content: str
    expand: bool
    strip_tabs: bool


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """One instruction: the keyword as written, and the rest of the line with continuations joined."""

    keyword: str
    rest: str
    location: Location
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Lexed:
    """All instructions, the escape character, and what is only worth a warning."""

    lines: tuple[LogicalLine, ...]
    escape: str
    warnings: tuple[str, ...]


def lex(source: Source) -> Lexed:
    """DockerfileError for a directive or a here-document that is wrong."""
    if len(source.text) > MAX_SIZE:
        raise DockerfileError(f"the Dockerfile is larger than {MAX_SIZE} characters", Location(source, 1, 1))
    return _Lexer(source).run()


class _Lexer:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.lines = source.text.removeprefix("\ufeff").splitlines()
        self.position = 0
        self.escape = "\\"
        self.warnings: list[str] = []

    def run(self) -> Lexed:
        self._directives()
        continuation = re.compile(rf"(?:^|(?<=[^{re.escape(self.escape)}])){re.escape(self.escape)}[ \t]*\Z")
        found = []
        while self.position < len(self.lines):
            text = self.lines[self.position]
            if not text.strip() or _is_comment(text):
                self.position += 1
                continue
            found.append(self._logical_line(continuation))
        return Lexed(tuple(found), self.escape, tuple(self.warnings))

    def _directives(self) -> None:
        seen: set[str] = set()
        for number, text in enumerate(self.lines, 1):
            match = _DIRECTIVE.match(text.strip())
            if match is None or match[1].lower() not in _KNOWN_DIRECTIVES:
                return
            name, value, where = match[1].lower(), match[2], Location(self.source, number, number)
            if name in seen:
                raise DockerfileError(f"only one {name} parser directive can be used", where)
            seen.add(name)
            if name == "escape":
                if value not in ("\\", "`"):
                    raise DockerfileError(f"invalid ESCAPE '{value}'. Must be ` or \\", where)
                self.escape = value

    def _logical_line(self, continuation: re.Pattern[str]) -> LogicalLine:
        start = self.position + 1
        parts: list[str] = []
        gap = False
        while self.position < len(self.lines):
            text = self.lines[self.position]
            if parts and (_is_comment(text) or not text.strip()):
                gap = gap or not text.strip()
                self.position += 1
                continue
            self.position += 1
            text = text.lstrip() if not parts else text
            match = continuation.search(text)
            if match is None:
                parts.append(text)
                break
            parts.append(text[: match.start()])
        if gap:
            self.warnings.append(f"Empty continuation line found in {self.source.name} near line {start}")
        words = re.split(r"[\t\v\f\r ]+", "".join(parts).strip(), maxsplit=1)
        keyword, rest = words[0], words[1] if len(words) > 1 else ""
        heredocs = self._heredocs(keyword, rest, start)
        return LogicalLine(keyword, rest, Location(self.source, start, self.position), heredocs)

    def _heredocs(self, keyword: str, rest: str, start: int) -> tuple[Heredoc, ...]:
        name = keyword.lower()
        if name == "onbuild":
            name = rest.split(None, 1)[0].lower() if rest.split() else ""
        if name not in _HEREDOC_KEYWORDS or "<<" not in rest:
            return ()
        return tuple(self._read_heredoc(*named, start) for named in heredoc_names(rest, self.escape))

    def _read_heredoc(self, name: str, strip_tabs: bool, expand: bool, start: int) -> Heredoc:
        content: list[str] = []
        while self.position < len(self.lines):
            text = self.lines[self.position]
            self.position += 1
            text = text.lstrip("\t") if strip_tabs else text
            if text == name:
                return Heredoc(name, "".join(line + "\n" for line in content), expand, strip_tabs)
            content.append(text)
        problem = f"unterminated heredoc: there is no line {name!r} after it"
        raise DockerfileError(problem, Location(self.source, start, start))


def heredoc_names(text: str, escape: str) -> list[tuple[str, bool, bool]]:
    """The here-documents that a line announces: (name, strip tabs, expand)."""
    found = []
    for word in split_words(text, escape):
        match = _HEREDOC.match(word)
        if match is None:
            continue
        raw = match[3]
        name = re.sub(r"[\"']", "", raw).replace(escape, "")
        if name:
            found.append((name, match[2] == "-", name == raw))
    return found


def is_heredoc_word(word: str) -> bool:
    """Whether the word announces a here-document."""
    return _HEREDOC.match(word) is not None


def split_words(text: str, escape: str) -> list[str]:
    """Words between white space; quotes and escapes group and are kept as written."""
    words: list[str] = []
    current, quote, index = "", "", 0
    started = False
    while index < len(text):
        char = text[index]
        index += 1
        if quote != "'" and char == escape and index < len(text):
            current += char + text[index]
            index += 1
            started = True
        elif quote:
            current += char
            quote = "" if char == quote else quote
        elif char in " \t\r\n\v\f":
            if started:
                words.append(current)
            current, started = "", False
        else:
            quote = char if char in "\"'" else ""
            current += char
            started = True
    if started:
        words.append(current)
    return words


def _is_comment(text: str) -> bool:
    return text.lstrip().startswith("#")
