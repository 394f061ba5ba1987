"""An archive that `load` was given, made readable at random: members are spooled into one file as they arrive.

Names in the archive are keys of a dictionary and never become paths. The spool has no name on disk, so nothing is left
of it when the engine dies.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from berth import failpoint
from berth.contract.store import ByteStream, Expand
from berth.errors import DataLoss, InvalidArgument
from berth.model.digest import Digest
from berth.storage.channel import Abandoned
from berth.storage.space import translated
from berth.storage.stream import StreamReader, run_stoppable
from berth.storage.tar_reader import FILE, HARD_LINK, SYMLINK, Source, TarReader

_MAX_MEMBERS = 50_000
_MAX_NAME = 512
_MAX_LINKS = 8
_PIECE = 1 << 20


class Part:
    """A file of the archive: where it is in the spool."""

    __slots__ = ("offset", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size


class Archive:
    """The spooled members. Reading does not move anything, so several readers may read at once."""

    def __init__(self, fd: int, parts: dict[str, Part], links: dict[str, str]) -> None:
        self._fd = fd
        self._parts = parts
        self._links = links

    def find(self, name: str) -> Part | None:
        """A file by its name; links within the archive are followed."""
        wanted = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if wanted in self._parts:
                return self._parts[wanted]
            if wanted not in self._links:
                return None
            wanted = self._links[wanted]
        return None

    def get(self, name: str) -> Part:
        """Like find. InvalidArgument when the archive does not have it."""
        part = self.find(name)
        if part is None:
            raise InvalidArgument(f"the archive lacks {name[:_MAX_NAME]!r}, which its own list of content names")
        return part

    def read(self, part: Part, limit: int, what: str) -> bytes:
        """A small file, whole."""
        if part.size > limit:
            raise DataLoss(f"{what} in the archive has {part.size} bytes, more than the {limit} that are allowed")
        return os.pread(self._fd, part.size, part.offset)

    def head(self, part: Part) -> bytes:
        """The first bytes, for its magic number."""
        return os.pread(self._fd, min(part.size, 6), part.offset)

    def digest(self, part: Part) -> Digest:
        """Read it all and hash it. For a thread."""
        hasher = hashlib.sha256()
        for offset in range(0, part.size, _PIECE):
            hasher.update(os.pread(self._fd, min(_PIECE, part.size - offset), part.offset + offset))
        return Digest(f"sha256:{hasher.hexdigest()}")

    async def stream(self, part: Part, offset: int = 0) -> AsyncIterator[bytes]:
        """Its bytes from `offset` on."""
        while offset < part.size:
            # What was just spooled is in the page cache: no thread is worth it.
            piece = os.pread(self._fd, min(_PIECE, part.size - offset), part.offset + offset)
            if not piece:
                raise DataLoss("the spooled archive ends too early")
            offset += len(piece)
            yield piece


@asynccontextmanager
async def spooled(stream: ByteStream, directory: str, expand: Expand) -> AsyncIterator[Archive]:
    """The archive, plain or compressed, for the time of a `with` block. `directory` is where its bytes wait."""
    with translated("receiving the archive"):
        file = tempfile.TemporaryFile(dir=directory, prefix="load-", suffix=".tmp")
    reader = StreamReader(stream)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="load") as executor:

            def work(stop: Callable[[], bool]) -> Archive:
                with translated("receiving the archive"):
                    return _spool(expand(reader.read), file.fileno(), stop)

            archive = await run_stoppable(executor, work, reader)
        failpoint.hit("image.load.after-archive")
        yield archive
    finally:
        file.close()


def _spool(pieces: Iterator[bytes], fd: int, stop: Callable[[], bool]) -> Archive:
    parts: dict[str, Part] = {}
    links: dict[str, str] = {}
    source = Source(_stoppable(pieces.__next__, stop))
    members = TarReader(source)
    offset = 0
    while (member := members.next()) is not None:
        if len(parts) + len(links) >= _MAX_MEMBERS:
            raise InvalidArgument(f"the archive has more than {_MAX_MEMBERS} members: it is no archive of images")
        if len(member.name) > _MAX_NAME or len(member.link) > _MAX_NAME:
            raise InvalidArgument("the archive has a member with an overlong name: it is no archive of images")
        name = posixpath.normpath(os.fsdecode(member.name))
        if member.kind == FILE:
            if member.sparse is not None:
                raise InvalidArgument(f"the archive's member {name!r} is sparse: it is no archive of images")
            members.copy_to(fd)
            parts[name] = Part(offset, member.size)
            offset += member.size
        elif member.kind in (SYMLINK, HARD_LINK):
            target = os.fsdecode(member.link)
            base = posixpath.dirname(name) if member.kind == SYMLINK else ""
            links[name] = posixpath.normpath(posixpath.join(base, target))
    return Archive(fd, parts, links)


def _stoppable(following: Callable[[], bytes], stop: Callable[[], bool]) -> Callable[[], bytes]:
    def read() -> bytes:
        if stop():
            raise Abandoned
        try:
            return following()
        except StopIteration:
            return b""

    return read
