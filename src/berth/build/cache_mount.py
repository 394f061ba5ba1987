"""RUN --mount=type=cache: directories that live on between builds, `<root>/build/mounts/<hash of the id>[-n]`.

sharing=shared    all at once       sharing=locked   one after another      sharing=private   each user a directory of its own
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from berth.build.stream import run_in_thread
from berth.kernel.fs import remove_tree


class CacheMounts:
    """The directories and their locks; one per engine."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def open(self, id: str, sharing: str, mode: int, uid: int, gid: int) -> AsyncIterator[tuple[str, bool]]:
        """The directory for the time of a step, and whether it is new. Owner and mode count when it is made."""
        name = hashlib.sha256(id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        if sharing == "private":
            name = self._unused(name)
        lock = self._locks.setdefault(name, asyncio.Lock()) if sharing == "locked" else None
        self._users[name] = self._users.get(name, 0) + 1
        try:
            if lock is not None:
                await lock.acquire()
            try:
                yield self._make(name, mode, uid, gid)
            finally:
                if lock is not None:
                    lock.release()
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    def _unused(self, name: str) -> str:
        number = 0
        while f"{name}-{number}" in self._users:
            number += 1
        return f"{name}-{number}"

    def _make(self, name: str, mode: int, uid: int, gid: int) -> tuple[str, bool]:
        path = f"{self._root}/{name}"
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return path, False
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        return path, True

    async def all(self) -> list[tuple[str, int, float, bool]]:
        """Name, bytes, time of the last change, whether a step uses it."""
        return await run_in_thread(self._all)

    def _all(self) -> list[tuple[str, int, float, bool]]:
        found = []
        for name in sorted(os.listdir(self._root)) if os.path.isdir(self._root) else []:
            size = 0
            for directory, _, files, fd in os.fwalk(f"{self._root}/{name}", follow_symlinks=False):
                del directory
                size += sum(os.stat(file, dir_fd=fd, follow_symlinks=False).st_size for file in files)
            found.append((name, size, os.stat(f"{self._root}/{name}").st_mtime, name in self._users))
        return found

    async def remove(self, name: str) -> None:
        """Remove a directory that no step uses."""
        if name not in self._users:
            await run_in_thread(lambda: remove_tree(f"{self._root}/{name}"))
