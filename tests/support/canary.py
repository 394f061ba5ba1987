"""A canary: files beside a tree that is attacked. Whatever happens in the tree, they stay as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.stores import picture

SECRET = "canary-content-never-to-be-seen"


@contextmanager
def canary(place: Path) -> Iterator[Path]:
    """Make it; at the end nothing of it may have changed: no content, mode, owner, time, and no new name."""
    (place / "directory").mkdir(parents=True)
    (place / "file").write_text(SECRET)
    (place / "directory/file").write_text(SECRET)
    os.chmod(place / "file", 0o640)
    before = picture(place)
    yield place
    assert picture(place) == before, "the host was changed"
