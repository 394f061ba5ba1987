"""Named points at which tests make berth fail: before and after every step that changes durable or kernel state.

    failpoint.hit("snapshot.prepare.before-row")         <noun>.<verb>.<before|after>-<step>

Off, a hit is one test of an empty list. On is what was started with BERTH_FAILPOINTS=<directory> in its environment: the
engine hands that on to its launcher, and what is forked there has it. In the directory a file with the name of a point
says what happens to whoever comes there, and `hits` tells who has been where, one line `<name> <pid>` for each:

    kill             it ends there, as by SIGKILL
    hold             it stays there until the file is removed (and somebody else is killed meanwhile)
    error <errno>    OSError
    delay <seconds>  it comes later
    ... @<n>         only the n-th time since `hits` was emptied

Only whoever starts the engine can switch it on: nothing of the API, of an image or of a container leads here. The
directory is used by its descriptor, so that points work in other mount namespaces and under other ids, too. Lean code:
launcher, shims and the first processes of containers come by here.
"""

from __future__ import annotations

import os
from time import sleep

VARIABLE = "BERTH_FAILPOINTS"
HITS = "hits"
_PAUSE = 0.002
# The directory's descriptor, when failpoints are on in this process. There is one such switch for all of its code.
_PLACE: list[int] = []


def enable() -> bool:
    """Once in each program that is started: switch failpoints on if its environment says so. Whether they are on now."""
    directory = os.environ.get(VARIABLE)
    if directory and not _PLACE:
        _PLACE.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    return bool(_PLACE)


def hit(name: str) -> None:
    """The running code has come to this point."""
    if _PLACE:
        _reach(_PLACE[0], name)


def _reach(place: int, name: str) -> None:
    fd = os.open(HITS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666, dir_fd=place)
    os.write(fd, f"{name} {os.getpid()}\n".encode())
    os.close(fd)
    wanted, _, number = _read(place, name).partition("@")
    action, _, value = wanted.strip().partition(" ")
    if not action or (number and _count(place, name) != int(number)):
        return
    if action == "kill":
        os.kill(os.getpid(), 9)
        # The first process of a pid namespace does not die of that.
        os._exit(137)
    elif action == "hold":
        while _read(place, name):
            sleep(_PAUSE)
    elif action == "delay":
        sleep(float(value))
    else:
        raise OSError(int(value), f"{os.strerror(int(value))} (failpoint {name})")


def _count(place: int, name: str) -> int:
    return sum(line.startswith(f"{name} ") for line in _read(place, HITS).splitlines())


def _read(place: int, name: str) -> str:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, 1 << 20).decode()
    finally:
        os.close(fd)
