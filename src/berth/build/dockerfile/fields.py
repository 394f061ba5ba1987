"""Pieces of instructions: flags, JSON arrays, name=value pairs, durations, sizes. Each raises ValueError with the reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from berth.build.dockerfile.lexer import split_words

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Flags:
    """Flags in front of an instruction's arguments, and what follows. `values` keeps their order; a bare flag has no value."""

    values: tuple[tuple[str, str | None], ...]
    rest: str

    def allow(self, *names: str) -> None:
        """ValueError for another one."""
        for name, _ in self.values:
            if name not in names:
                known = ", ".join(f"--{n}" for n in names)
                raise ValueError(f"unknown flag: --{name}" + (f" (known: {known})" if known else ""))

    def one(self, name: str) -> str:
        """The value of a flag that may be given once, empty without it."""
        found = [value for flag, value in self.values if flag == name]
        if len(found) > 1:
            raise ValueError(f"duplicate flag specified: --{name}")
        if found and found[0] is None:
            raise ValueError(f"missing a value on flag: --{name}")
        return found[0] or "" if found else ""

    def many(self, name: str) -> tuple[str, ...]:
        """The values of a flag that may be repeated."""
        return tuple(value or "" for flag, value in self.values if flag == name)

    def switch(self, name: str) -> bool | None:
        """A bare flag, =true or =false; None without it."""
        found = [value for flag, value in self.values if flag == name]
        if not found:
            return None
        if found[-1] is None:
            return True
        return boolean(found[-1], f"--{name}")


def boolean(text: str, what: str) -> bool:
    """As Go reads booleans."""
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError(f"expecting boolean value for {what}, not: {text}")


def split_flags(text: str, escape: str) -> Flags:
    """`--name=value` words from the start on; `--` alone ends them."""
    values: list[tuple[str, str | None]] = []
    rest = text.strip()
    while rest.startswith("--"):
        word = split_words(rest, escape)[0]
        rest = rest[len(word) :].lstrip()
        if word == "--":
            break
        name, equals, value = _unquote(word[2:], escape).partition("=")
        values.append((name, value if equals else None))
    return Flags(tuple(values), rest)


def _unquote(word: str, escape: str) -> str:
    return re.sub(rf"{re.escape(escape)}(.)|[\"']", lambda match: match[1] or "", word)


def json_array(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, None when the text is not one."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(value)


def name_value_pairs(text: str, keyword: str, escape: str) -> tuple[tuple[tuple[str, str], ...], bool]:
    """`a=b c="d e"`, or the old form `a the whole rest`; the second value tells that it is the old form."""
    words = split_words(text, escape)
    if not words:
        raise ValueError(f"{keyword} requires at least one argument")
    if "=" not in words[0]:
        parts = text.split(None, 1)
        if len(parts) < 2:
            raise ValueError(f"{keyword} must have two arguments")
        return ((parts[0], parts[1]),), True
    pairs = []
    for word in words:
        if "=" not in word:
            raise ValueError(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        name, _, value = word.partition("=")
        if not name:
            raise ValueError(f"{keyword} names can not be blank")
        pairs.append((name, value))
    return tuple(pairs), False


def duration(text: str, what: str) -> int:
    """A Go duration (1m30s) in nanoseconds; at least a millisecond, or 0."""
    total, position = 0.0, 0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if text != "0" and (not text or position != len(text)):
        raise ValueError(f"invalid duration {text!r} for {what}: write it as 30s, 1m30s or 500ms")
    if 0 < total < 1_000_000:
        raise ValueError(f"Interval {text!r} for {what} cannot be less than 1ms")
    return int(total)


def size(text: str, what: str) -> int:
    """A size in bytes, with k, m, g or t."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise ValueError(f"invalid size {text!r} for {what}: write it as 64m or 1g")
    power = " kmgt".index(match[2].lower() or " ")
    return int(match[1]) << (10 * power)


def octal(text: str, what: str) -> int:
    """A file mode."""
    if not re.fullmatch(r"[0-7]{1,5}", text):
        raise ValueError(f"invalid mode {text!r} for {what}: it must be octal, such as 0755")
    return int(text, 8)


def number(text: str, what: str) -> int:
    """A numeric user or group id."""
    if not text.isascii() or not text.isdigit() or int(text) > 2**32 - 2:
        raise ValueError(f"invalid value {text!r} for {what}: it must be a number")
    return int(text)
