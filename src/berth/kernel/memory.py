"""Memory of this process: the allocator, pages that a fork shares until it writes to them, page tables that it does not get."""

from __future__ import annotations

import ctypes
import os

from berth.kernel.file import read_text
from berth.kernel.libc import libc

_PAGE = os.sysconf("SC_PAGESIZE")
_POPULATE_READ, _POPULATE_WRITE = 22, 23
_PROT_READ_WRITE, _MAP_SHARED_ANONYMOUS = 3, 0x21
# Bits of an entry of /proc/PID/pagemap.
_PRESENT, _EXCLUSIVE = 1 << 63, 1 << 56
_RANGES = 1024
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


class Habit:
    """Which of the pages that a kind of fork shares with its parent it comes to write to.

    One fork that gets as far as `learn` writes it down in memory that all forks share; those after it take these faults in
    advance (`prepare`), while nobody waits. To take all pages would be as quick, and cost several megabytes for each fork.
    A mapping of the fork ends with execve. Linux 5.14; where a range cannot be populated its pages come one by one.
    """

    def __init__(self) -> None:
        """In the parent, before it forks."""
        size = 8 * (1 + 2 * _RANGES)
        libc.mmap.restype = ctypes.c_void_p
        address = libc.mmap(None, ctypes.c_size_t(size), _PROT_READ_WRITE, _MAP_SHARED_ANONYMOUS, -1, ctypes.c_long(0))
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "no memory to share with forks", "mmap")
        # The number of ranges, then first address and length of each.
        self._table = (ctypes.c_uint64 * (1 + 2 * _RANGES)).from_address(address)
        self._spans: list[tuple[int, int]] = []
        self._pages = -1

    def watch(self) -> None:
        """In a fork, while it may still look at itself: unless another has been, be the one that is learned from."""
        if not self._table[0]:
            self._pages = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def prepare(self) -> None:
        """In the same fork, before it waits: take what is known to come."""
        writable = []
        for first, last, modes in _mapped():
            if modes[1] == "w":
                writable.append((first, last))
            else:
                _advise(first, last - first, _POPULATE_READ)
        if self._pages >= 0:
            self._spans = writable
            return
        for index in range(1, 2 * self._table[0], 2):
            _advise(self._table[index], self._table[index + 1], _POPULATE_WRITE)

    def learn(self) -> None:
        """In the same fork, when it has done its work."""
        if self._pages < 0:
            return
        found: list[int] = []
        for first, last in self._spans:
            data = os.pread(self._pages, (last - first) // _PAGE * 8, first // _PAGE * 8)
            for index, entry in enumerate(memoryview(data).cast("Q")):
                if entry & _PRESENT and entry & _EXCLUSIVE:
                    _extend(found, first + index * _PAGE)
        os.close(self._pages)
        self._pages = -1
        del found[2 * _RANGES :]
        for index, value in enumerate(found, 1):
            self._table[index] = value
        self._table[0] = len(found) // 2


def _extend(ranges: list[int], page: int) -> None:
    """One more page: at the end of the last range, or one page behind it, it makes that longer."""
    if ranges and page - ranges[-2] - ranges[-1] <= _PAGE:
        ranges[-1] = page + _PAGE - ranges[-2]
    else:
        ranges += page, _PAGE


def _advise(first: int, length: int, advice: int) -> None:
    libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), advice)


def _mapped() -> list[tuple[int, int, str]]:
    """First and last address and modes of what can be read; not what the kernel put there by itself."""
    found = []
    for line in read_text("/proc/self/maps").splitlines():
        span, modes, _ = line.split(" ", 2)
        if modes[0] == "r" and modes[3] == "p" and (not line.endswith("]") or line.endswith(("[heap]", "[stack]"))):
            first, _, last = span.partition("-")
            found.append((int(first, 16), int(last, 16), modes))
    return found
