"""What forks learn of each other's memory."""

from __future__ import annotations

import mmap
import os
import resource
from collections.abc import Callable
from contextlib import suppress

from berth.kernel.memory import Habit, _extend

PAGES = 400


def _area() -> mmap.mmap:
    """Private pages that are there, each of its own."""
    area = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        # A kernel without huge pages does not know the advice.
        area.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(PAGES):
        area[page * mmap.PAGESIZE] = 2
    return area


def _faults_of(touch: Callable[[], None], habit: Habit | None, *, learn: bool) -> int:
    """How many faults `touch` costs in a fork."""
    answer, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if habit is not None:
                habit.watch()
                habit.prepare()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            touch()
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            if habit is not None and learn:
                habit.learn()
            os.write(tell, str(faults).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with open(answer, "rb") as pipe:
        found = int(pipe.read())
    assert os.waitpid(pid, 0)[1] == 0
    return found


def test_what_one_fork_has_touched_the_next_has_taken_in_advance() -> None:
    hot = range(PAGES // 2)

    def touch() -> None:
        for page in hot:
            area[page * mmap.PAGESIZE] = 1

    with _area() as area:
        habit = Habit()
        assert _faults_of(touch, None, learn=False) >= len(hot)
        assert _faults_of(touch, habit, learn=False) >= len(hot), "nothing has been learned yet"
        assert _faults_of(touch, habit, learn=True) >= len(hot), "the one that is learned from pays itself"
        assert _faults_of(touch, habit, learn=False) < len(hot) // 4


def test_only_what_was_touched_is_taken() -> None:
    with _area() as area:
        habit = Habit()
        cold = range(PAGES // 2, PAGES)

        def touch(pages: range) -> None:
            for page in pages:
                area[page * mmap.PAGESIZE] = 1

        _faults_of(lambda: touch(range(PAGES // 2)), habit, learn=True)
        assert _faults_of(lambda: touch(cold), habit, learn=False) >= len(cold)


def test_neighbours_are_one_range() -> None:
    ranges: list[int] = []
    for page in (0x1000, 0x2000, 0x4000, 0x8000, 0x9000):
        _extend(ranges, page)
    assert ranges == [0x1000, 0x4000, 0x8000, 0x2000]
