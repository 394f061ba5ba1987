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


def check(result: int, what: str = "") -> int:
    """The result of a C call, or OSError from errno with `what` as the file name."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None, what: str = "") -> int:
    """A raw system call (x86_64 numbers are in `kernel.number`). Integers go as longs, bytes as pointers, None as NULL."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(libc.syscall(ctypes.c_long(number), *converted), what)
