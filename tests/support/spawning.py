"""Starts workers as the launcher would: a process of its own that calls a module's main."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from berth.storage.compression import expand
from berth.storage.tree import TreeStore
from berth.storage.workers import Workers


class Spawner:
    """`spawn` has the shape of Runtime.spawn. `end` waits for all workers, which have to end by themselves."""

    def __init__(self, *prefix: str) -> None:
        self._prefix = prefix
        self.children: list[subprocess.Popen[bytes]] = []

    async def spawn(self, module: str, arguments: Sequence[str], fds: Sequence[int]) -> int:
        """A worker; its process id."""
        code = (
            f"import sys; sys.path[:0] = {sys.path!r}; import {module} as module; "
            "module.main(sys.argv[2:], [int(n) for n in sys.argv[1].split(',')])"
        )
        command = [*self._prefix, sys.executable, "-I", "-S", "-c", code, ",".join(map(str, fds)), *arguments]
        child = subprocess.Popen(command, pass_fds=tuple(fds))
        self.children.append(child)
        return child.pid

    def end(self) -> None:
        """Every worker has ended, without an error."""
        for child in self.children:
            assert child.wait(timeout=20) == 0
        self.children.clear()


@contextmanager
def opened_trees(*prefix: str) -> Iterator[TreeStore]:
    """A tree store whose workers are started with the prefix (strace, say)."""
    spawner = Spawner(*prefix)
    workers = Workers(spawner.spawn)
    yield TreeStore(workers, expand)
    workers.close()
    spawner.end()
