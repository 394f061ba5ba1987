"""Which code this is: the commit of the checkout that it runs from, and when it was installed. Read once."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import berth
from berth.model.version import VERSION

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LENGTH = 7


def architecture() -> str:
    """Of this machine, in Go's words."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


@cache
def commit() -> str:
    """The checkout's commit, abbreviated as git does; for an installed package its version."""
    package = Path(berth.__file__).parent
    return (head_of(package.parents[1] / ".git") or f"v{VERSION}")[:_LENGTH]


def head_of(repository: Path) -> str:
    """The commit that is checked out, by the files of a .git directory; "" where there is none."""
    try:
        head = (repository / "HEAD").read_text(encoding="ascii").strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (repository / name).exists():
            return (repository / name).read_text(encoding="ascii").strip()
        for line in (repository / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(" " + name):
                return line.split(" ", 1)[0]
    except (OSError, UnicodeDecodeError):
        pass
    return ""


@cache
def installed_at() -> float:
    """When the newest part of the package was written, in seconds since the epoch."""
    folder = Path(berth.__file__).parent
    return max(os.stat(path).st_mtime for path in folder.rglob("*.py"))
