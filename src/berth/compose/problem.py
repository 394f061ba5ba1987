"""Errors and notices of Compose files, with the place that they are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from berth.errors import InvalidArgument

Path = tuple[str | int, ...]
Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; `line` counts from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class ComposeInvalid(InvalidArgument):
    """A Compose file, or a project made of them, makes no sense. The message begins with file and line where known."""

    def __init__(self, text: str, mark: Mark | None = None) -> None:
        super().__init__(f"{mark}: {text}" if mark else text)
        self.mark = mark


def dotted(path: Path) -> str:
    """services.web.ports.0"""
    return ".".join(str(part) for part in path)
