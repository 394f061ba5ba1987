"""The C library and raw system calls, the base of this package: one function per syscall elsewhere, named as the syscall.

`ctypes.PyDLL` keeps the interpreter lock during a call: the launch path is single-threaded and its calls take
microseconds, so handing the lock over would cost more than it gives. A call that may block for long goes through `os`.
"""

from __future__ import annotations

import ctypes
import os

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# Of a fixed length, so that nothing has to be converted by hand: integers and addresses travel in the same registers.
_MOST = 6
libc.syscall.argtypes = [ctypes.c_long, *[ctypes.c_void_p] * _MOST]
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_UNUSED = [(0,) * (_MOST - count) for count in range(_MOST + 1)]


def look_up(names: tuple[str, ...]) -> None:
    """Find functions now rather than at their first use, which may be in each of many forks. Names that there are not are
    passed over."""
    for name in names:
        getattr(libc, name, None)
    for name in "PyOS_BeforeFork", "PyOS_AfterFork_Child", "PyOS_AfterFork_Parent":
        getattr(ctypes.pythonapi, name)


def check(result: int, what: str = "") -> int:
    """The result of a C call, or OSError from errno with `what` as the file name."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None, what: str = "") -> int:
    """A raw system call (x86_64 numbers are in `kernel.number`). Integers go as longs, bytes as pointers, None as NULL."""
    return check(libc.syscall(number, *arguments, *_UNUSED[len(arguments)]), what)
