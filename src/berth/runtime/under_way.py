"""Launches that are under way when their engine is killed: the next one waits for their end before it looks what there is.

<run>/launches is locked, shared, by the launcher; whoever is forked from it and makes a container holds the same lock by the
same descriptor, until its work is done or execve closes it. Shims and workers, which go on, let go of it. Lean code.
"""

from __future__ import annotations

import fcntl
import os
from time import monotonic, sleep

_PAUSE = 0.005
# The launcher's descriptor, in it and in its forks.
_held: list[int] = []


def hold(run: str) -> None:
    """In the launcher, before its first request."""
    fd = os.open(f"{run}/launches", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    _held[:] = [fd]


def let_go() -> None:
    """In a fork that makes no container."""
    if _held:
        os.close(_held.pop())


def wait(run: str, seconds: float) -> bool:
    """In an engine that starts: until no launch is under way any more; False when there still is one. Blocks."""
    try:
        fd = os.open(f"{run}/launches", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    deadline = monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if monotonic() > deadline:
                    return False
                sleep(_PAUSE)
    finally:
        os.close(fd)
