"""Archives that COPY and ADD write into a tree: made from the context, or another tree's with names and owners changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from berth.build.chmod import Chmod
from berth.build.stream import CHUNK, Read
from berth.errors import DataLoss, InvalidArgument
from berth.storage.tar_reader import BLOCK, DIRECTORY, FILE, HARD_LINK, SYMLINK, Member, Source, TarReader
from berth.storage.tar_writer import END, encode

KINDS = {"f": FILE, "d": DIRECTORY, "l": SYMLINK}


@dataclass(frozen=True, slots=True)
class Item:
    """One member: `kind` f, d or l; content from `offset` on of the host's file `path`, or `data`."""

    name: str
    kind: str
    mode: int
    mtime: float
    size: int = 0
    target: str = ""
    path: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Overrides for every member; None leaves what is there."""

    uid: int | None = None
    gid: int | None = None
    mode: Chmod | None = None

    def of(self, kind: int, uid: int, gid: int, mode: int) -> tuple[int, int, int]:
        """Owner, group and mode of a member."""
        if self.mode is not None and kind != SYMLINK:
            mode = self.mode.apply(mode, kind == DIRECTORY)
        return uid if self.uid is None else self.uid, gid if self.gid is None else self.gid, mode


def write(items: Iterable[Item], ownership: Ownership) -> Iterator[bytes]:
    """An archive of the items."""
    with ExitStack() as stack:
        opened: dict[str, int] = {}
        for item in items:
            kind = KINDS[item.kind]
            uid, gid, mode = ownership.of(kind, 0, 0, item.mode)
            size = item.size if kind == FILE else 0
            name, link = os.fsencode(item.name), os.fsencode(item.target)
            yield encode(name, kind, mode=mode, uid=uid, gid=gid, size=size, mtime=int(item.mtime), link=link)
            if kind != FILE:
                continue
            if not item.path:
                yield item.data
            else:
                if item.path not in opened:
                    opened[item.path] = os.open(item.path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, opened[item.path])
                yield from read_range(opened[item.path], item.offset, size)
            if size % BLOCK:
                yield bytes(-size % BLOCK)
    yield END


def read_range(fd: int, offset: int, size: int) -> Iterator[bytes]:
    """A part of a file, exactly. DataLoss when the file is shorter."""
    while size:
        piece = os.pread(fd, min(size, CHUNK), offset)
        if not piece:
            raise DataLoss("a file became shorter while it was copied")
        yield piece
        offset += len(piece)
        size -= len(piece)


def rewrite(
    read: Read, rename: Callable[[str, bool], str | None], ownership: Ownership, digest: hashlib._Hash | None = None
) -> Iterator[bytes | memoryview]:
    """The archive, a plain tar, with members renamed, or left out (None), and owners changed. `rename` gets the
    name and whether it is a directory. `digest` gets what identifies the result: everything but times.

    Hard links are renamed like their targets. One whose target was left out is an InvalidArgument, and so is a sparse file.
    """
    reader = TarReader(Source(read))
    names: dict[bytes, bytes] = {}
    while (member := reader.next()) is not None:
        new = rename(os.fsdecode(member.name), member.kind == DIRECTORY)
        if new is None:
            continue
        if member.sparse is not None:
            raise InvalidArgument(f"{os.fsdecode(member.name)!r} is a sparse file, which is not supported here")
        name = os.fsencode(new)
        link = member.link
        if member.kind == HARD_LINK:
            if link not in names:
                shown = (os.fsdecode(member.name), os.fsdecode(link))
                raise InvalidArgument(f"{shown[0]!r} is a hard link to {shown[1]!r}, which is not copied with it")
            link = names[link]
        names[member.name] = name
        head = _header(member, name, link, ownership, 0)
        if digest is not None:
            digest.update(head)
        yield _header(member, name, link, ownership, member.mtime // 1_000_000_000)
        while piece := reader.piece():
            if digest is not None:
                digest.update(piece)
            yield piece
        if member.size % BLOCK:
            yield bytes(-member.size % BLOCK)
    yield END


def _header(member: Member, name: bytes, link: bytes, ownership: Ownership, mtime: int) -> bytes:
    uid, gid, mode = ownership.of(member.kind, member.uid, member.gid, member.mode)
    return encode(
        name,
        member.kind,
        mode=mode,
        uid=uid,
        gid=gid,
        size=member.size,
        mtime=mtime,
        link=link,
        device=(member.major, member.minor),
        xattrs=member.xattrs,
    )
