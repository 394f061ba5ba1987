"""What happens to files and directories on a bad disk, or by somebody's hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def truncate(path: Path) -> None:
    """Half of it is left."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill_with_garbage(path: Path) -> None:
    """What is no text in any encoding."""
    path.write_bytes(b"\xff\xfe\0" + os.urandom(max(64, path.stat().st_size)))


def remove(path: Path) -> None:
    """A file, or a whole tree."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_by_the_other(path: Path) -> None:
    """A directory instead of a file, a file instead of a directory."""
    was_directory = path.is_dir()
    remove(path)
    path.write_bytes(b"not a directory") if was_directory else path.mkdir()
