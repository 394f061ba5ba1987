"""Taking mount points out of a snapshot after a step: what was made only so that something could be mounted on it.

The step is over and nothing is mounted any more; its upper directory may hold anything, also links that were swapped in.
So every path is opened by openat2 without following links, only empty directories and files go, and a parent only where
the layers below have the same directory with the same owner and mode.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from contextlib import ExitStack

from berth.kernel.paths import open_here
from berth.model.rootfs import Overlay

_PATH = os.O_PATH | os.O_NOFOLLOW
_LINKS = 40
_OPAQUE = "trusted.overlay.opaque"


def remove_stubs(overlay: Overlay, targets: Iterable[str]) -> None:
    """Remove the empty mount points of the step from the upper directory, and parents that only hold them."""
    if overlay.upper is None:
        return
    with ExitStack() as stack:
        layers = [overlay.upper, *overlay.layers]
        roots = [_directory(f"{overlay.store}/{path}", stack) for path in layers]
        for target in targets:
            path = _resolve(roots, target)
            if path:
                _remove(roots, path)


def _directory(path: str, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _look(roots: list[int], path: str) -> tuple[os.stat_result, str] | None:
    """The topmost entry at a path without links, and the target if it is a link. None without it, or behind a whiteout."""
    for root in roots:
        try:
            fd = open_here(root, path, _PATH)
        except FileNotFoundError:
            if _is_cut_off(root, path):
                return None
            continue
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                return None
            return found, os.readlink("", dir_fd=fd) if stat.S_ISLNK(found.st_mode) else ""
        finally:
            os.close(fd)
    return None


def _is_cut_off(root: int, path: str) -> bool:
    """Whether this layer hides what lower ones have at the path: an opaque directory or something else above it."""
    parent = posixpath.dirname(path)
    while parent:
        try:
            fd = open_here(root, parent, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            parent = posixpath.dirname(parent)
            continue
        except OSError:
            return True
        try:
            return _is_opaque(fd)
        finally:
            os.close(fd)
    return False


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", _OPAQUE) == b"y"
    except OSError:
        return False


def _resolve(roots: list[int], path: str) -> str:
    """The path with links of the tree followed, relative to its root; empty when it is not there."""
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = _LINKS
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        found = _look(roots, "/".join([*done, part]))
        if found is None:
            return ""
        if found[1]:
            links -= 1
            if links < 0:
                return ""
            if found[1].startswith("/"):
                done.clear()
            todo.extend(piece for piece in reversed(found[1].split("/")) if piece not in ("", "."))
        else:
            done.append(part)
    return "/".join(done)


def _remove(roots: list[int], path: str) -> None:
    upper, lower = roots[0], roots[1:]
    if not _remove_one(upper, path, directories_only=False):
        return
    parent = posixpath.dirname(path)
    while parent:
        below = _look(lower, parent)
        if below is not None and not _same(upper, parent, below[0]):
            return
        if not _remove_one(upper, parent, directories_only=True):
            return
        parent = posixpath.dirname(parent)


def _same(upper: int, path: str, below: os.stat_result) -> bool:
    """Whether the upper directory is a mere copy of the one below."""
    try:
        fd = open_here(upper, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        mine = os.fstat(fd)
        same = (mine.st_mode, mine.st_uid, mine.st_gid) == (below.st_mode, below.st_uid, below.st_gid)
        return same and not _is_opaque(fd)
    finally:
        os.close(fd)


def _remove_one(upper: int, path: str, *, directories_only: bool) -> bool:
    """Remove an empty directory, or an empty file. Whether it went."""
    parent, name = posixpath.split(path)
    try:
        fd = open_here(upper, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=fd)
            return True
        if not directories_only and stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=fd)
            return True
        return False
    except OSError:
        return False
    finally:
        os.close(fd)
