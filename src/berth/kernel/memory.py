"""The C library's allocator."""

from __future__ import annotations

import ctypes

from berth.kernel.libc import libc

_M_ARENA_MAX = -8


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
