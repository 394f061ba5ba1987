"""The files of a container's log, rotated and compressed ones included, as one stream of whole lines.

    path.2.gz  path.1  path      oldest to newest; the shim appends to `path` and renames when it is full

The shim renames, compresses and removes while we read. So every file is told from the others by what it was as `path`: inode,
size and time of the last write (a compressed one has them in its header, see runtime.logpress). No line is read twice or skipped.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterable

from berth.kernel.thread import to_its_end

_PIECE = 1 << 20
_BLOCK = 1 << 16
_GZIP = b"\x1f\x8b\x08\x08"
_HEADER = 10
_WHOLE = 1 << 62
# How often the files are opened anew because they were rotated meanwhile.
_TRIES = 50


def names(path: str) -> list[str]:
    """The log's files, newest first. A rotated one that is being compressed is there in both forms: the plain one counts."""
    return [name for name, _ in _present(path)]


def _present(path: str) -> list[tuple[str, int]]:
    """Names and inodes. While the shim renames, a number between others is missing: what is older is there all the same."""
    directory, base = os.path.split(path)
    found: dict[int, tuple[str, int]] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                number, packed = _number(entry.name, base)
                if number >= 0 and not (packed and number in found):
                    found[number] = (f"{directory}/{entry.name}", entry.inode())
    except OSError:
        # A container that has been removed has no log; damage of the disk is told of by whoever opens a file there.
        return []
    return [found[number] for number in sorted(found)]


def _number(name: str, base: str) -> tuple[int, bool]:
    """Which of the log's files a name is, 0 the newest and -1 none of them, and whether it is compressed."""
    if name == base:
        return 0, False
    plain = name.removesuffix(".gz")
    digits = plain.removeprefix(base + ".")
    if plain == digits or not digits.isdecimal() or not digits.isascii() or digits.startswith("0"):
        return -1, False
    return int(digits), plain != name


class _File:
    """An open file of the log."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        head = os.pread(fd, 128, 0)
        self.compressed = head.startswith(_GZIP)
        self._origin = head[_HEADER:].split(b"\0")[0].decode() if self.compressed else ""

    def origin(self) -> str:
        """What tells it from all others. Numbers of inodes come again, but not with the same size and time."""
        if self._origin:
            return self._origin
        state = os.fstat(self.fd)
        return f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}"

    def same(self, other: _File) -> bool:
        """Whether it is the other one, which may be compressed by now."""
        if self._origin or other._origin:
            return self.origin() == other.origin()
        return os.path.samestat(os.fstat(self.fd), os.fstat(other.fd))

    def expand(self) -> None:
        """Be what it was before compression, in a file without a name beside it. OSError when there is no space."""
        if not self.compressed:
            return
        packed, self.fd = self.fd, -1
        with os.fdopen(packed, "rb") as source, tempfile.TemporaryFile(dir=_directory(packed)) as target:
            unpacker = zlib.decompressobj(31)
            try:
                while data := unpacker.unconsumed_tail or source.read(_BLOCK):
                    # What a container writes may be a thousand times its compressed size.
                    target.write(unpacker.decompress(data, _PIECE))
                target.write(unpacker.flush())
            except zlib.error:
                # Damaged by the disk: what is before the damage is the log.
                pass
            target.flush()
            self.fd = os.dup(target.fileno())
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.compressed = False


def _directory(fd: int) -> str | None:
    """Where an open file is; None (the default place) when that directory has been removed."""
    directory = os.path.dirname(os.readlink(f"/proc/self/fd/{fd}"))
    return directory if os.path.isdir(directory) else None


def _open_all(path: str) -> list[_File]:
    """All files, oldest first, as they were at one moment: a rotation moves each to another name while they are opened."""
    for _ in range(_TRIES):
        present = _present(path)
        found = _open_each(name for name, _ in present)
        if _present(path) == present:
            break
        while found:
            os.close(found.pop().fd)
    else:
        # A log that is rotated faster than it can be opened.
        found = _open_each(names(path))
    return found


def _open_each(paths: Iterable[str]) -> list[_File]:
    """What can be opened of the files, in the opposite order."""
    found: list[_File] = []
    try:
        for name in paths:
            if os.path.isdir(name):
                # Nothing of ours: what is before and after it is the log.
                continue
            try:
                file = _File(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                # Renamed, removed or compressed in this moment.
                continue
            if any(file.same(other) for other in found):
                os.close(file.fd)
            else:
                found.insert(0, file)
    except BaseException:
        # Whatever it is: nobody else knows of the descriptors.
        while found:
            os.close(found.pop().fd)
        raise
    return found


class Source:
    """A series of files read as one stream of whole lines: with what is written meanwhile, unless it is `as_it_is`."""

    def __init__(self, path: str, *, as_it_is: bool = False) -> None:
        self._path = path
        self._as_it_is = as_it_is
        self._queue: list[_File] = []
        self._rest = b""
        # Where the last file ends for us; a container may write faster than anybody reads.
        self._end: int | None = None

    def open(self) -> None:
        """Open what there is now."""
        self._queue = _open_all(self._path)
        if self._as_it_is:
            self._end = lines_end(self._queue[-1].fd) if self._queue and not self._queue[-1].compressed else _WHOLE

    def skip_to_tail(self, count: int) -> None:
        """Leave out all but the last `count` lines."""
        index, offset = len(self._queue), 0
        if count == 0 and self._queue:
            # None at all: only what is written from now on.
            index, offset = index - 1, os.fstat(self._queue[-1].fd).st_size
        while index > 0 and count > 0:
            index -= 1
            self._queue[index].expand()
            last = index == len(self._queue) - 1
            offset, found = line_start(self._queue[index].fd, count, self._end if last else None)
            count -= found
        for file in self._queue[:index]:
            os.close(file.fd)
        self._queue = self._queue[index:]
        if self._queue:
            os.lseek(self._queue[0].fd, offset, os.SEEK_SET)

    async def next(self) -> bytes:
        """Like `read`; expanding what is compressed does not hold up the engine."""
        if any(file.compressed for file in self._queue):
            return await to_its_end(self.read)
        return self.read()

    def read(self) -> bytes:
        """The next whole lines; empty when there is nothing more for now."""
        while True:
            if not self._queue and self._end is None:
                self._queue = _open_all(self._path)
            if not self._queue:
                return b""
            self._queue[0].expand()
            data = os.read(self._queue[0].fd, self._room())
            if data:
                lines, newline, rest = (self._rest + data).rpartition(b"\n")
                self._rest = rest
                if newline:
                    return lines + newline
                continue
            if len(self._queue) == 1 and self._end is None:
                self._queue += self._newer()
            if len(self._queue) == 1:
                return b""
            os.close(self._queue.pop(0).fd)

    def _room(self) -> int:
        """How much to read at once."""
        if self._end is None or len(self._queue) > 1:
            return _PIECE
        return max(0, min(_PIECE, self._end - os.lseek(self._queue[0].fd, 0, os.SEEK_CUR)))

    def _newer(self) -> list[_File]:
        """The files after the one that has been read: all of them when it is gone."""
        if self._is_newest():
            return []
        found = _open_all(self._path)
        mine = next((n for n, file in enumerate(found) if file.same(self._queue[0])), -1)
        for file in found[: mine + 1]:
            os.close(file.fd)
        return found[mine + 1 :]

    def _is_newest(self) -> bool:
        """Whether the file that has been read is the one that the shim appends to; so it is, nearly always."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._queue[0].fd))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close all files."""
        for file in self._queue:
            if file.fd >= 0:
                os.close(file.fd)
        self._queue = []


def lines_end(fd: int) -> int:
    """Where the last whole line ends."""
    position = os.fstat(fd).st_size
    while position > 0:
        start = max(0, position - _BLOCK)
        at = os.pread(fd, position - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        position = start
    return 0


def line_start(fd: int, count: int, before: int | None = None) -> tuple[int, int]:
    """The offset at which the last `count` lines of the file (of what is `before` an offset) begin, and how many there are."""
    end = os.fstat(fd).st_size if before is None else min(before, os.fstat(fd).st_size)
    position, found = end, 0
    while position > 0:
        start = max(0, position - _BLOCK)
        block = os.pread(fd, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            # The newline that ends the file's last line begins no further one.
            if start + at + 1 < end:
                found += 1
                if found == count:
                    return start + at + 1, found
        position = start
    return 0, found + (1 if end else 0)
