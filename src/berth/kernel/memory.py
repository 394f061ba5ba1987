"""Memory of this process: the allocator, pages that a fork shares until it writes to them, page tables that it does not get."""

from __future__ import annotations

import ctypes

from berth.kernel.file import read_text
from berth.kernel.libc import libc

_M_ARENA_MAX = -8
_POPULATE_READ, _POPULATE_WRITE = 22, 23


def share_one_arena() -> None:
    """All threads of this process allocate from one arena, to be said before the first thread starts.

    By default each thread gets an arena of its own, and what it leaves there cannot be used by others: in the engine, whose
    threads take turns anyway, that costs 8 MB of 46. Does nothing where the C library has no such setting.
    """
    try:
        mallopt = libc.mallopt
    except AttributeError:
        return
    mallopt(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(1))


def populate() -> None:
    """Take all faults of what is mapped now in advance, in a few calls: every private page becomes this process's own.

    Linux 5.14; where a range cannot be populated its pages come one by one, as without this.
    """
    for line in read_text("/proc/self/maps").splitlines():
        span, modes, _ = line.split(" ", 2)
        if modes[0] != "r" or (line.endswith("]") and not line.endswith(("[heap]", "[stack]"))):
            continue
        first, last = (int(text, 16) for text in span.split("-"))
        advice = _POPULATE_WRITE if modes[1] == "w" else _POPULATE_READ
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)
