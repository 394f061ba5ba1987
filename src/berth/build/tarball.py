"""Archives that COPY and ADD write into a tree: made from the context, or another tree's with names and owners changed."""

from __future__ import annotations

import copy
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from berth.build.stream import CHUNK
from berth.errors import DataLoss, InvalidArgument

_END = b"\0" * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """One member: `kind` f, d or l; content from `path` on the host, or `data`."""

    name: str
    kind: str
    mode: int
    mtime: float
    size: int = 0
    target: str = ""
    path: str = ""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Overrides for every member; None leaves what is there."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def apply(self, info: tarfile.TarInfo) -> None:
        """Change the header."""
        if self.uid is not None:
            info.uid, info.uname = self.uid, ""
        if self.gid is not None:
            info.gid, info.gname = self.gid, ""
        if self.mode is not None and not info.issym():
            info.mode = self.mode


def header(info: tarfile.TarInfo) -> bytes:
    """The header's blocks."""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def write(items: Iterable[Item], ownership: Ownership) -> Iterator[bytes]:
    """An archive of the items."""
    kinds = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE}
    for item in items:
        info = tarfile.TarInfo(item.name)
        info.type = kinds[item.kind]
        info.mode, info.mtime, info.linkname = item.mode, int(item.mtime), item.target
        info.size = item.size if item.kind == "f" else 0
        ownership.apply(info)
        yield header(info)
        if item.kind == "f":
            with open(item.path, "rb") if item.path else io.BytesIO(item.data) as file:
                yield from _content(file, info.size, item.name)
    yield _END


def rewrite(
    source: IO[bytes], rename: Callable[[tarfile.TarInfo], str | None], ownership: Ownership, digest: hashlib._Hash | None = None
) -> Iterator[bytes]:
    """The archive with members renamed, or left out (None), and owners changed. `digest` gets what identifies the result.

    Hard links are renamed like their targets. One whose target was left out is an InvalidArgument.
    """
    names: dict[str, str] = {}
    with tarfile.open(fileobj=source, mode="r|", errorlevel=2) as archive:
        for member in archive:
            name = rename(member)
            if name is None:
                continue
            info = copy.copy(member)
            info.pax_headers = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            if member.islnk():
                if member.linkname not in names:
                    raise InvalidArgument(f"{member.name!r} is a hard link to {member.linkname!r}, which is not copied with it")
                info.linkname = names[member.linkname]
            names[member.name] = name
            info.name = name
            ownership.apply(info)
            if digest is not None:
                digest.update(_identity(info))
            if member.isreg():
                info.type = tarfile.REGTYPE
            info.size = member.size if member.isreg() else 0
            yield header(info)
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                yield from _content(file, member.size, member.name, digest)
    yield _END


def _identity(info: tarfile.TarInfo) -> bytes:
    mode = info.mode & 0o7777
    device = (info.devmajor, info.devminor)
    xattrs = sorted(info.pax_headers.items())
    parts = (info.name, info.type, mode, info.uid, info.gid, info.size, info.linkname, device, xattrs)
    return repr(parts).encode("utf-8", "surrogateescape")


def _content(file: IO[bytes], size: int, name: str, digest: hashlib._Hash | None = None) -> Iterator[bytes]:
    left = size
    while left:
        piece = file.read(min(CHUNK, left))
        if not piece:
            raise DataLoss(f"{name!r} became shorter while it was copied")
        left -= len(piece)
        if digest is not None:
            digest.update(piece)
        yield piece
    if size % tarfile.BLOCKSIZE:
        yield b"\0" * (tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)
