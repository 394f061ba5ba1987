"""The lowest layer of every container, below its image: what Docker's containers have whatever their image is.

    .dockerenv                                what programs look for that want to know whether they are in a container
    etc/mtab -> /proc/mounts                  what old programs read
    dev, proc, sys, etc/hosts ...             what the runtime mounts on, so that a launch need not make it

An image that has one of these hides what is here. Docker keeps them in a layer of its own above the image ("-init"), made for
each container; one for all costs nothing, and is no change of the container either.
"""

from __future__ import annotations

import contextlib
import os

_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "etc", "proc", "sys")
_FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")
_LINKS = (("/proc/mounts", "etc/mtab"),)


def make(directory: str) -> None:
    """What is missing of it, below `directory`."""
    os.makedirs(directory, mode=0o755, exist_ok=True)
    for name in _DIRECTORIES:
        os.makedirs(f"{directory}/{name}", mode=0o755, exist_ok=True)
    for name in _FILES:
        os.close(os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o755))
    for target, name in _LINKS:
        with contextlib.suppress(FileExistsError):
            os.symlink(target, f"{directory}/{name}")
