"""Modes of --chmod: octal (0755), or symbolic as chmod(1) has them (u=rwX,go+r,+x)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


@dataclass(frozen=True, slots=True)
class Chmod:
    """A change of modes. `absolute` when octal; else (who, operator, permissions) one after the other."""

    absolute: int | None = None
    steps: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Chmod:
        """ValueError for what is neither."""
        if re.fullmatch(r"[0-7]{1,5}", text):
            return cls(absolute=int(text, 8) & 0o7777)
        steps: list[tuple[str, str, str]] = []
        for clause in text.split(","):
            match = _CLAUSE.match(clause)
            if match is None:
                raise ValueError(f"invalid --chmod {text!r}: write it as 0755, or as u=rwX,go=rX")
            who = "".join(sorted(set(match[1].replace("a", "ugo")))) or "gou"
            steps.extend((who, operator, permissions) for operator, permissions in _ACTION.findall(match[2]))
        return cls(steps=tuple(steps))

    def apply(self, mode: int, is_dir: bool) -> int:
        """The new mode."""
        if self.absolute is not None:
            return self.absolute
        for who, operator, permissions in self.steps:
            bits = _mask(who, permissions, mode, is_dir)
            if operator == "+":
                mode |= bits
            elif operator == "-":
                mode &= ~bits
            else:
                mode = mode & ~_mask(who, "rwx", mode, is_dir) | bits
        return mode


def _mask(who: str, permissions: str, mode: int, is_dir: bool) -> int:
    bits = 0
    for letter in permissions:
        if letter == "t":
            bits |= 0o1000
        elif letter == "s":
            bits |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
        elif letter != "X" or is_dir or mode & 0o111:
            bits |= sum(_BITS[letter.lower()] << _SHIFT[part] for part in who)
    return bits
