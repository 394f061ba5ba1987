"""The build context: a tar from the client (or one Dockerfile), kept in one file and an index.

    <root>/build/context-<random>/files/content   the content of all files, one after the other; gone when the build ends

Nothing of the tar is unpacked on the host, so no name and no link in it can lead anywhere: paths are resolved in the
index. The index knows type, mode, size and digest of everything, and cache keys need no second reading.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from berth.build.stream import Read
from berth.build.tarball import read_range
from berth.contract.store import Expand
from berth.errors import DataLoss, InvalidArgument, ResourceExhausted
from berth.model.ignore import IgnoreRules, glob_regex
from berth.storage.compression import detect
from berth.storage.tar_reader import BLOCK, DIRECTORY, FILE, HARD_LINK, SYMLINK, Member, Source, TarReader, check_header

MAX_DOCKERFILE = 4 * 1024 * 1024
_CHUNK = 1024 * 1024
_LINKS = 40


@dataclass(frozen=True, slots=True)
class Entry:
    """`kind` is f, d or l (symbolic link, to `target`). A file's content is `size` bytes from `offset` on of the host's
    file `path`; `digest` is its SHA-256 in hex."""

    kind: str
    mode: int
    mtime: float
    size: int = 0
    digest: str = ""
    target: str = ""
    path: str = ""
    offset: int = 0

    def identity(self) -> str:
        """What counts for a cache: everything but the time."""
        return f"{self.kind} {self.mode:o} {self.digest or self.target}"


@dataclass(slots=True)
class Context:
    """`entries` by path relative to the root, without the root itself. `directory` is where the content is kept."""

    directory: str
    entries: dict[str, Entry] = field(default_factory=dict)

    def resolve(self, path: str) -> str | None:
        """The path with links followed inside the context, empty for the root itself; None without it or outside."""
        return resolve_in(self.entries, path)

    def read(self, path: str, limit: int = MAX_DOCKERFILE) -> bytes | None:
        """A small file, None without it. InvalidArgument when it is larger or no file."""
        found = self.resolve(path)
        if found is None:
            return None
        entry = self.entries.get(found)
        if entry is None or entry.kind != "f":
            raise InvalidArgument(f"{path} in the build context is not a file")
        if entry.size > limit:
            raise InvalidArgument(f"{path} in the build context is larger than {limit} bytes")
        with open(entry.path, "rb") as file:
            return os.pread(file.fileno(), entry.size, entry.offset)

    def glob(self, pattern: str) -> list[str]:
        """The paths that match, sorted. Components match one by one."""
        return glob_in(self.entries, pattern)

    def walk(self, path: str) -> Iterator[tuple[str, Entry]]:
        """What is below a directory of the index (not itself), parents first, paths relative to it."""
        prefix = f"{path}/" if path else ""
        for name in sorted(self.entries, key=lambda name: name.split("/")):
            if name.startswith(prefix) and name != path:
                yield name[len(prefix) :], self.entries[name]

    def drop(self, rules: IgnoreRules) -> None:
        """Take out what the rules exclude; a directory only when nothing stays in it."""
        needed: set[str] = set()
        for name in sorted(self.entries, reverse=True):
            if name not in needed and rules.excludes(name, self.entries[name].kind == "d"):
                del self.entries[name]
                continue
            parts = name.split("/")
            needed.update("/".join(parts[:count]) for count in range(1, len(parts)))

    def drop_file(self, name: str) -> None:
        """Take out one file, if it is there."""
        entry = self.entries.get(name)
        if entry is not None and entry.kind != "d":
            del self.entries[name]

    def materialise(self, path: str, destination: str) -> None:
        """Write a part of the context to a new path of the host, for a mount. The root belongs to nobody else."""
        entry = self.entries.get(path)
        if entry is not None and entry.kind == "f":
            _write_file(entry, destination)
            return
        os.mkdir(destination, 0o755)
        directories = [(destination, entry)] if entry is not None else []
        for name, below in self.walk(path):
            target = f"{destination}/{name}"
            if below.kind == "d":
                os.mkdir(target, 0o700)
                directories.append((target, below))
            elif below.kind == "l":
                os.symlink(below.target, target)
            else:
                _write_file(below, target)
        for target, below in reversed(directories):
            os.chmod(target, below.mode)
            os.utime(target, (below.mtime, below.mtime))


def _write_file(entry: Entry, destination: str) -> None:
    source = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with open(destination, "xb") as file:
            for piece in read_range(source, entry.offset, entry.size):
                file.write(piece)
            os.fchmod(file.fileno(), entry.mode)
    finally:
        os.close(source)
    os.utime(destination, (entry.mtime, entry.mtime))


def resolve_in(entries: dict[str, Entry], path: str) -> str | None:
    """Resolve a path in an index, with `..` and absolute links staying inside. None when something is missing."""
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = _LINKS
    while todo:
        part = todo.pop()
        if part == "..":
            if done:
                done.pop()
            continue
        here = "/".join([*done, part])
        entry = entries.get(here)
        if entry is None:
            return None
        if entry.kind == "l":
            links -= 1
            if links < 0:
                return None
            if entry.target.startswith("/"):
                done.clear()
            todo.extend(part for part in reversed(entry.target.split("/")) if part not in ("", "."))
            continue
        if entry.kind != "d" and todo:
            return None
        done.append(part)
    return "/".join(done)


def has_wildcards(pattern: str) -> bool:
    """Whether the path is a pattern."""
    return re.search(r"[*?\[\\]", pattern) is not None


def glob_in(entries: dict[str, Entry], pattern: str) -> list[str]:
    """Paths of an index that match a pattern, component by component. InvalidArgument for a bad pattern."""
    clean = posixpath.normpath("/" + pattern).lstrip("/")
    try:
        regex = re.compile(glob_regex(clean))
    except ValueError as error:
        raise InvalidArgument(f"invalid pattern {pattern!r}: {error}") from None
    return sorted(name for name in entries if regex.match(name))


def unpack(read: Read, directory: str, dockerfile: str, expand: Expand) -> Context:
    """Take in a tar, plain or compressed; anything else is taken for a Dockerfile. `directory` is empty and private.

    InvalidArgument for an archive that is damaged, or that tries to leave the context.
    """
    context = Context(directory)
    head = b""
    while len(head) < BLOCK and (piece := read()):
        head += piece
    rest = itertools.chain([head], iter(read, b""))
    try:
        with open(f"{directory}/content", "xb", buffering=_CHUNK) as content:
            intake = _Intake(context, content)
            if not detect(head) and not is_tar(head) and head.strip(b"\0"):
                intake.add_dockerfile(dockerfile, rest)
            else:
                intake.add_archive(expand(lambda: next(rest, b"")))
    except DataLoss as error:
        raise InvalidArgument(f"the build context is not a readable tar archive: {error.message}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"no space left on device while the build context was kept in {directory}") from error
        raise
    return context


def is_tar(start: bytes) -> bool:
    """Whether these first bytes (512 at least) are a tar header."""
    if len(start) < BLOCK:
        return False
    if start[257:262] == b"ustar":
        return True
    try:
        check_header(start[:BLOCK])
    except DataLoss:
        return False
    return True


class _Completed:
    """Pieces of a tar and then its end: clients send some that stop after the last byte of the last file. `ended` tells
    that the end was asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._length = 0
        self.ended = False

    def read(self) -> bytes:
        piece = next(self._pieces, b"")
        self._length += len(piece)
        if piece or self.ended:
            return piece
        self.ended = True
        return bytes(-self._length % BLOCK + 2 * BLOCK)


class _Intake:
    """Fills the index, and one file with all content one after the other."""

    def __init__(self, context: Context, content: BinaryIO) -> None:
        self._entries = context.entries
        self._directory = context.directory
        self._content = content
        self._used = 0

    def add_dockerfile(self, name: str, pieces: Iterator[bytes]) -> None:
        """A body that is no archive."""
        data = bytearray()
        for piece in pieces:
            data += piece
            if len(data) > MAX_DOCKERFILE or b"\0" in piece:
                raise InvalidArgument("the build context is neither a tar archive nor a Dockerfile")
        self._parents(name)
        self._content.write(data)
        digest = hashlib.sha256(data).hexdigest()
        self._entries[name] = Entry("f", 0o644, 0, len(data), digest, path=self._content.name)

    def add_archive(self, pieces: Iterator[bytes]) -> None:
        """All members of a tar."""
        source = _Completed(pieces)
        reader = TarReader(Source(source.read))
        while (member := reader.next()) is not None:
            name = self._name(member.name)
            if name:
                self._add(reader, member, name)
                # The end is only asked for when a file needs more than there was.
                if source.ended and member.kind == FILE and member.size:
                    raise InvalidArgument(f"the build context is cut off in {name!r}")

    def _add(self, reader: TarReader, member: Member, name: str) -> None:
        self._parents(name)
        mtime = member.mtime / 1e9
        if member.kind == DIRECTORY:
            self._replace(name, Entry("d", member.mode, mtime))
        elif member.kind == SYMLINK:
            self._replace(name, Entry("l", 0o777, mtime, target=os.fsdecode(member.link)))
        elif member.kind == HARD_LINK:
            target = self._name(member.link)
            entry = self._entries.get(target)
            if entry is None or entry.kind == "d":
                raise InvalidArgument(f"the hard link {name!r} in the build context points to {target!r}, which is not in it")
            if name != target:
                self._replace(name, entry)
        elif member.kind == FILE:
            self._replace(name, self._file(reader, member, mtime))
        else:
            raise InvalidArgument(f"{name!r} in the build context is a device or a pipe: leave it out by .dockerignore")

    def _file(self, reader: TarReader, member: Member, mtime: float) -> Entry:
        """Keep the content of a file."""
        if member.sparse is not None:
            return self._sparse(reader, member, mtime)
        digest, offset = hashlib.sha256(), self._used
        while piece := reader.piece():
            digest.update(piece)
            self._content.write(piece)
            self._used += len(piece)
        return Entry("f", member.mode, mtime, member.size, digest.hexdigest(), path=self._content.name, offset=offset)

    def _sparse(self, reader: TarReader, member: Member, mtime: float) -> Entry:
        """A sparse file is kept apart, with its holes."""
        path = f"{self._directory}/sparse-{len(self._entries)}"
        with open(path, "x+b") as file:
            reader.copy_to(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Entry("f", member.mode, mtime, member.size, digest, path=path)

    def _name(self, raw: bytes) -> str:
        parts = [part for part in os.fsdecode(raw).split("/") if part not in ("", ".")]
        if ".." in parts or b"\0" in raw:
            raise InvalidArgument(f"invalid path {os.fsdecode(raw)!r} in the build context: it leads out of it")
        return "/".join(parts)

    def _parents(self, name: str) -> None:
        slash = name.find("/")
        while slash != -1:
            parent = name[:slash]
            entry = self._entries.get(parent)
            if entry is None:
                self._entries[parent] = Entry("d", 0o755, 0)
            elif entry.kind != "d":
                raise InvalidArgument(f"{name!r} in the build context lies behind {parent!r}, which is not a directory")
            slash = name.find("/", slash + 1)

    def _replace(self, name: str, entry: Entry) -> None:
        """A later member of the same name wins."""
        before = self._entries.get(name)
        was_directory = before is not None and before.kind == "d" and entry.kind != "d"
        if was_directory and any(other.startswith(name + "/") for other in self._entries):
            raise InvalidArgument(f"{name!r} is twice in the build context, once as a directory that is not empty")
        self._entries[name] = entry
