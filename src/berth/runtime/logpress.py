"""Compression of a rotated log file, by a process of its own beside the shim. Lean code.

    path.1  ->  path.1.gz      gzip, whose header has, as the file's name, what path.1 was: INODE-SIZE-NANOSECONDS

A reader that still holds path.1 open knows by that which file it was, so it neither repeats nor skips a line. The
process is a grandchild: nobody has to reap it, and what the shim knows of its children stays true.
"""

from __future__ import annotations

import os

_PIECE = 1 << 18
_HEADER = 10
_HAS_NAME = 0x08


def begin(path: str) -> int:
    """Start; a descriptor that reads as ended once `path` has become `path`.gz, or has been left as it was."""
    done, work = os.pipe2(os.O_CLOEXEC)
    try:
        child = os.fork()
    except OSError:
        os.close(done)
        os.close(work)
        raise
    if child == 0:
        try:
            if os.fork() == 0:
                # What the shim holds open must not be held longer by us: clients wait for the end of their streams.
                os.closerange(0, work)
                os.closerange(work + 1, os.sysconf("SC_OPEN_MAX"))
                compress(path)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(work)
    return done


def await_end(done: int) -> None:
    """Until the process is through; closes the descriptor."""
    try:
        os.read(done, 1)
    finally:
        os.close(done)


def compress(path: str) -> None:
    """Write `path`.gz and remove `path`. Whatever fails, one of the two is there, whole."""
    import zlib

    part = f"{path}.gz.part"
    try:
        with open(path, "rb") as source, open(part, "wb") as target:
            state = os.fstat(source.fileno())
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            head = packer.compress(b"")
            while len(head) < _HEADER and (data := source.read(_PIECE)):
                head += packer.compress(data)
            target.write(_named(head, f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}"))
            while data := source.read(_PIECE):
                target.write(packer.compress(data))
            target.write(packer.flush())
        os.rename(part, f"{path}.gz")
        os.unlink(path)
    except OSError:
        try:
            os.unlink(part)
        except OSError:
            # It was never made, or the container has been removed meanwhile.
            pass


def _named(head: bytes, name: str) -> bytes:
    """zlib's header of ten bytes with a file name in it (RFC 1952, section 2.3)."""
    return head[:3] + bytes([_HAS_NAME]) + head[4:_HEADER] + name.encode() + b"\0" + head[_HEADER:]
