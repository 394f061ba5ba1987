"""Small files of the kernel's pseudo filesystems: one open, one read or write."""

from __future__ import annotations

import ctypes
import os

from berth.kernel.libc import check, libc

PROC_SUPER_MAGIC = 0x9FA0


def write_text(path: str, text: str, dir_fd: int | None = None) -> None:
    """Write with a single write(2), as cgroupfs and /proc demand. OSError names the path."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def read_text(path: str, dir_fd: int | None = None) -> str:
    """The whole file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def filesystem_type(fd: int) -> int:
    """The magic number of the filesystem that `fd` is on (fstatfs)."""
    buffer = ctypes.create_string_buffer(256)
    check(libc.fstatfs(fd, buffer), "fstatfs")
    return int.from_bytes(buffer.raw[:8], "little")
