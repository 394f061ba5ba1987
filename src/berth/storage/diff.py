"""What a snapshot changes: its upper directory compared with the layers below, in the terms of `docker diff`.

kind 0: changed, 1: added, 2: deleted. The parents of what changed count as changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from berth.kernel.paths import open_here
from berth.model.rootfs import Change
from berth.storage import overlay
from berth.storage.walk import Entry, walk

CHANGED, ADDED, DELETED = 0, 1, 2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Below:
    """The layers below a snapshot, read as overlayfs would. `roots` are their directories, top first."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots

    def stat(self, path: bytes) -> os.stat_result | None:
        """What is at the path in the merged view of the layers, None when nothing is."""
        for root in self._roots:
            status, ends = self._look(root, path)
            if status is not None:
                return None if overlay.is_whiteout(status) else status
            if ends:
                return None
        return None

    @staticmethod
    def _look(root: int, path: bytes) -> tuple[os.stat_result | None, bool]:
        """The entry in one layer; without it, whether the layer hides the path in those below it."""
        try:
            fd = open_here(root, path or b".", os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return None, _hides(root, path)
        try:
            return os.fstat(fd), False
        finally:
            os.close(fd)

    def names(self, path: bytes) -> set[bytes]:
        """The names in a directory of the merged view."""
        found: set[bytes] = set()
        gone: set[bytes] = set()
        for root in self._roots:
            try:
                fd = open_here(root, path or b".", _DIRECTORY)
            except OSError:
                if self._look(root, path)[0] is not None or _hides(root, path):
                    break
                continue
            try:
                for name in os.listdir(os.fsencode(f"/proc/self/fd/{fd}")):
                    if overlay.is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False)):
                        gone.add(name)
                    elif name not in gone:
                        found.add(name)
                if overlay.is_opaque(fd) or _hides(root, path):
                    break
            finally:
                os.close(fd)
        return found


def _hides(root: int, path: bytes) -> bool:
    """Whether the layer has, on the way to the path, something that ends the search: opaque, gone, or no directory."""
    parts = path.split(b"/")
    for count in range(1, len(parts)):
        try:
            fd = open_here(root, b"/".join(parts[:count]), _DIRECTORY)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            if overlay.is_opaque(fd):
                return True
        finally:
            os.close(fd)
    return False


def changes(upper: int, roots: Sequence[int]) -> list[Change]:
    """The differences, sorted by path."""
    return sorted(_Comparison(upper, Below(roots)).run(), key=lambda change: os.fsencode(change.path))


class _Comparison:
    def __init__(self, upper: int, below: Below) -> None:
        self._upper = upper
        self._below = below
        self._found: dict[bytes, int] = {}
        self._suspects: dict[bytes, tuple[os.stat_result, os.stat_result]] = {}

    def run(self) -> Iterable[Change]:
        for entry in walk(self._upper):
            if entry.path:
                self._compare(entry)
        for path in list(self._found):
            self._mark_parents(path)
        for path, (mine, theirs) in self._suspects.items():
            if (
                mine.st_mtime_ns != theirs.st_mtime_ns
                or stat.S_IMODE(mine.st_mode) != stat.S_IMODE(theirs.st_mode)
                or _owner(mine) != _owner(theirs)
            ):
                self._found.setdefault(path, CHANGED)
                self._mark_parents(path)
        return [Change(path="/" + os.fsdecode(path), kind=kind) for path, kind in self._found.items()]

    def _mark_parents(self, path: bytes) -> None:
        while path := _parent(path):
            self._found.setdefault(path, CHANGED)

    def _compare(self, entry: Entry) -> None:
        path, status = entry.path, entry.status
        below = self._below.stat(path)
        if overlay.is_whiteout(status):
            if below is not None:
                self._found[path] = DELETED
            return
        is_directory = stat.S_ISDIR(status.st_mode)
        if below is None:
            self._found[path] = ADDED
            return
        if not (is_directory and stat.S_ISDIR(below.st_mode)):
            self._found[path] = CHANGED
            return
        if overlay.is_opaque(entry.fd):
            self._found[path] = CHANGED
            mine = set(os.listdir(os.fsencode(f"/proc/self/fd/{entry.fd}")))
            for name in self._below.names(path) - mine:
                self._found[path + b"/" + name] = DELETED
            return
        self._suspects[path] = (status, below)


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _owner(status: os.stat_result) -> tuple[int, int]:
    return status.st_uid, status.st_gid
