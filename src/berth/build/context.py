"""The build context: a tar from the client (or one Dockerfile), unpacked into a private directory and indexed.

    <root>/build/context-<random>/...      removed when the build ends

The index knows type, mode, size and digest of everything, so that cache keys need no second reading, and so that paths
are resolved in the index and never by the kernel: nothing in a context can lead out of it. Only the builder writes there.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, BinaryIO, cast

from berth.build.stream import decompressed, is_compressed, is_tar
from berth.errors import DataLoss, InvalidArgument, ResourceExhausted
from berth.model.ignore import IgnoreRules, glob_regex

MAX_DOCKERFILE = 4 * 1024 * 1024
_CHUNK = 1024 * 1024
_LINKS = 40


@dataclass(frozen=True, slots=True)
class Entry:
    """`kind` is f, d or l (symbolic link, to `target`). `digest` is that of a file's content, in hex."""

    kind: str
    mode: int
    mtime: float
    size: int = 0
    digest: str = ""
    target: str = ""

    def identity(self) -> str:
        """What counts for a cache: everything but the time."""
        return f"{self.kind} {self.mode:o} {self.digest or self.target}"


@dataclass(slots=True)
class Context:
    """`entries` by path relative to `root`, without the root itself."""

    root: str
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
        with open(f"{self.root}/{found}", "rb") as file:
            return file.read()

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
                self._remove(name)
                continue
            parts = name.split("/")
            needed.update("/".join(parts[:count]) for count in range(1, len(parts)))

    def drop_file(self, name: str) -> None:
        """Take out one file, if it is there."""
        entry = self.entries.get(name)
        if entry is not None and entry.kind != "d":
            self._remove(name)

    def _remove(self, name: str) -> None:
        if self.entries.pop(name).kind == "d":
            os.rmdir(f"{self.root}/{name}")
        else:
            os.unlink(f"{self.root}/{name}")


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


def unpack(reader: io.BufferedReader, root: str, dockerfile: str = "Dockerfile") -> Context:
    """Fill the empty directory `root` from a tar, plain or compressed; anything else is taken for a Dockerfile.

    InvalidArgument for an archive that is damaged, or that tries to leave the directory.
    """
    context = Context(root)
    start = reader.peek(512)
    try:
        if not is_compressed(start) and not is_tar(start) and start.strip(b"\0"):
            data = reader.read(MAX_DOCKERFILE + 1)
            if len(data) > MAX_DOCKERFILE or b"\0" in data:
                raise InvalidArgument("the build context is neither a tar archive nor a Dockerfile")
            _Unpacker(context).add_file(dockerfile, 0o644, 0, io.BytesIO(data))
            return context
        source = _Completed(decompressed(reader))
        with tarfile.open(fileobj=cast(BinaryIO, source), mode="r|", errorlevel=2) as archive:
            unpacker = _Unpacker(context)
            for member in archive:
                unpacker.add(archive, member)
                if member.isreg() and member.offset_data + member.size > source.real:
                    raise InvalidArgument(f"the build context is cut off in {member.name!r}")
            unpacker.finish()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InvalidArgument(f"the build context is not a readable tar archive: {error}") from error
    except OSError as error:
        if error.errno is not None and error.errno in (28, 122):
            raise ResourceExhausted(f"no space left on device while the build context was unpacked into {root}") from error
        if error.errno is None:
            raise InvalidArgument(f"the build context is damaged: {error}") from error
        raise DataLoss(f"the build context could not be unpacked: {error}") from error
    return context


class _Completed:
    """A tar without its end: clients send some that stop after the last byte of the last file. `real` counts what was there."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.real = 0
        self._tail: bytes | None = None

    def read(self, size: int) -> bytes:
        if self._tail is None:
            data = self._source.read(size)
            self.real += len(data)
            if data:
                return data
            self._tail = b"\0" * (-self.real % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
        data, self._tail = self._tail[:size], self._tail[size:]
        return data


class _Unpacker:
    """Writes below the root. Since only it writes there, its index knows for each ancestor that it is a real directory."""

    def __init__(self, context: Context) -> None:
        self.root = context.root
        self.entries = context.entries

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = self._name(member.name)
        if not name:
            return
        mode = member.mode & 0o7777
        if member.isdir():
            self._parents(name)
            self._directory(name, mode, member.mtime)
        elif member.issym():
            self._parents(name)
            self._clear(name)
            os.symlink(member.linkname, f"{self.root}/{name}")
            self.entries[name] = Entry("l", 0o777, member.mtime, target=member.linkname)
        elif member.islnk():
            self._hard_link(name, self._name(member.linkname))
        elif member.isreg():
            content = archive.extractfile(member)
            assert content is not None
            self.add_file(name, mode, member.mtime, content)
        else:
            raise InvalidArgument(f"{member.name!r} in the build context is a device or a pipe: leave it out by .dockerignore")

    def add_file(self, name: str, mode: int, mtime: float, content: IO[bytes]) -> None:
        self._parents(name)
        self._clear(name)
        digest, size = hashlib.sha256(), 0
        with open(f"{self.root}/{name}", "xb") as file:
            while piece := content.read(_CHUNK):
                digest.update(piece)
                file.write(piece)
                size += len(piece)
            os.fchmod(file.fileno(), mode)
        os.utime(f"{self.root}/{name}", (mtime, mtime))
        self.entries[name] = Entry("f", mode, mtime, size, digest.hexdigest())

    def finish(self) -> None:
        """Times of directories, once nothing is added to them any more."""
        for name, entry in self.entries.items():
            if entry.kind == "d":
                os.chmod(f"{self.root}/{name}", entry.mode)
                os.utime(f"{self.root}/{name}", (entry.mtime, entry.mtime))

    def _name(self, raw: str) -> str:
        parts = [part for part in raw.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in raw:
            raise InvalidArgument(f"invalid path {raw!r} in the build context: it leads out of it")
        return "/".join(parts)

    def _parents(self, name: str) -> None:
        parts = name.split("/")
        for count in range(1, len(parts)):
            parent = "/".join(parts[:count])
            entry = self.entries.get(parent)
            if entry is None:
                self._directory(parent, 0o755, 0)
            elif entry.kind != "d":
                raise InvalidArgument(f"{name!r} in the build context lies behind {parent!r}, which is not a directory")

    def _directory(self, name: str, mode: int, mtime: float) -> None:
        entry = self.entries.get(name)
        if entry is None or entry.kind != "d":
            self._clear(name)
            os.mkdir(f"{self.root}/{name}", 0o700)
        self.entries[name] = Entry("d", mode, mtime)

    def _hard_link(self, name: str, target: str) -> None:
        entry = self.entries.get(target)
        if entry is None or entry.kind == "d":
            raise InvalidArgument(f"the hard link {name!r} in the build context points to {target!r}, which is not in it")
        if name == target:
            return
        self._parents(name)
        self._clear(name)
        os.link(f"{self.root}/{target}", f"{self.root}/{name}", follow_symlinks=False)
        self.entries[name] = entry

    def _clear(self, name: str) -> None:
        entry = self.entries.get(name)
        if entry is None:
            return
        if entry.kind == "d":
            if any(other.startswith(name + "/") for other in self.entries):
                raise InvalidArgument(f"{name!r} is twice in the build context, once as a directory that is not empty")
            os.rmdir(f"{self.root}/{name}")
        else:
            os.unlink(f"{self.root}/{name}")
        del self.entries[name]
