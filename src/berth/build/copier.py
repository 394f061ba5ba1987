"""COPY and ADD: one layer per instruction, written as a stream of tar into the tree of a snapshot.

From the context the archive is made from the index; from another stage or an image it is that tree's own archive with names and
owners changed on the way. All of it goes through a worker that confines every path to the tree.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace

from berth.build.chmod import Chmod
from berth.build.context import has_wildcards
from berth.build.copy_plan import CopyPlan, kept_prefix
from berth.build.stream import ByteStream, Pieces, produce
from berth.build.tarball import Item, Ownership, read_range, rewrite, write
from berth.build.tree_path import is_directory, is_link, owner, resolve
from berth.contract.store import Expand, PathStat, Tree
from berth.errors import InvalidArgument, NotFound
from berth.model.ignore import IgnoreRules, glob_regex


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """`path` is absolute; `directory`: it was written as one (a slash at its end, or `.`)."""

    path: str
    directory: bool
    chown: str = ""
    mode: Chmod | None = None

    @classmethod
    def of(cls, text: str, working_dir: str, chown: str, mode: Chmod | None) -> Destination:
        """From the instruction's last word."""
        directory = text in ("", ".") or text.endswith(("/", "/.", "/.."))
        path = posixpath.normpath(posixpath.join("/", working_dir or "/", text))
        return cls(path="/" + path.lstrip("/"), directory=directory, chown=chown, mode=mode)


async def write_plan(tree: Tree, plan: CopyPlan, destination: Destination, expand: Expand) -> None:
    """Copy from the context."""
    uid, gid = await owner(tree, destination.chown) if destination.chown else (0, 0)
    ownership = Ownership(uid, gid, destination.mode)
    items, base = plan.items, destination.path
    if plan.single and not destination.directory and not await _is_directory(tree, base):
        base, name = posixpath.split(base)
        items = [replace(items[0], name=name)]
    links = DirectoryLinks(tree, base)
    items = [item for item in items if item.kind != "d" or not await links.holds(item.name)]
    await tree.make_directories(base, uid=uid, gid=gid)
    if items:
        await tree.put(base, produce(lambda: write(items, ownership)))
    for archive in plan.archives:
        await tree.put(base, _archive(archive, Ownership(uid, gid) if destination.chown else None, expand))


def _archive(archive: Item, ownership: Ownership | None, expand: Expand) -> ByteStream:
    """A local archive, uncompressed, as it is or with all of it given to one owner."""

    def pieces() -> Iterator[bytes | memoryview]:
        fd = os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            compressed = read_range(fd, archive.offset, archive.size)
            content = expand(lambda: next(compressed, b""))
            if ownership is None:
                yield from content
            else:
                yield from rewrite(lambda: next(content, b""), lambda name, _: name, ownership)
        finally:
            os.close(fd)

    return produce(pieces)


async def _is_directory(tree: Tree, path: str) -> bool:
    found = await resolve(tree, path)
    return found is not None and is_directory(found[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeCopy:
    """Sources in another tree."""

    sources: tuple[str, ...]
    exclude: IgnoreRules
    parents: bool
    command: str


class DirectoryLinks:
    """Which directories at the destination are links to directories (/bin of many distributions): they stay, and what is
    copied into them goes where they lead. An archive without the directory's own entry does just that."""

    def __init__(self, tree: Tree, base: str) -> None:
        self._tree = tree
        self._base = base
        self._missing: set[str] = set()

    async def holds(self, name: str) -> bool:
        """Whether that directory, relative to the destination, is such a link."""
        if posixpath.dirname(name) in self._missing:
            self._missing.add(name)
            return False
        path = posixpath.join(self._base, name)
        try:
            stat = await self._tree.stat(path)
        except NotFound:
            self._missing.add(name)
            return False
        return is_link(stat) and await _is_directory(self._tree, path)


async def copy_tree(
    source: Tree, target: Tree, copy: TreeCopy, destination: Destination, before: Callable[[], AbstractAsyncContextManager[Tree]]
) -> str:
    """Copy from another tree; owners are kept unless --chown. The digest of what was copied. `before` opens the target as it
    was, since the target itself is busy while it is written to."""
    if destination.chown:
        uid, gid = await owner(target, destination.chown)
        ownership = Ownership(uid, gid, destination.mode)
    else:
        uid, gid = 0, 0
        ownership = Ownership(None, None, destination.mode)
    several = len(copy.sources) > 1 or any(has_wildcards(text) for text in copy.sources)
    if len(copy.sources) > 1 and not destination.directory and not copy.parents:
        raise InvalidArgument(several_sources(copy.command))
    into = destination.directory or several or copy.parents or await _is_directory(target, destination.path)
    digest = hashlib.sha256()
    for text in copy.sources:
        mapping = await _mapping(source, text, copy)
        base, name = destination.path, posixpath.basename(posixpath.normpath(text))
        if not into and not mapping.directory:
            base, name = posixpath.split(destination.path)
        existing = mapping.directory and await _is_directory(target, base)
        await target.make_directories(posixpath.dirname(base) if mapping.mode else base, uid=uid, gid=gid)
        if mapping.mode:
            await target.make_directories(base, uid=uid, gid=gid, mode=mapping.mode)
        async with AsyncExitStack() as stack:
            links = DirectoryLinks(await stack.enter_async_context(before()), base) if existing else None
            await _pipe(source, target, base, mapping, name, links, ownership, digest)
        if not mapping.found:
            raise InvalidArgument(_missing(copy.command, text))
    return digest.hexdigest()


def several_sources(command: str) -> str:
    """Docker's words."""
    return f"When using {command} with more than one source file, the destination must be a directory and end with a /"


def _missing(command: str, text: str) -> str:
    return f"{command} failed: stat {text}: file does not exist in the source of --from"


class _Mapping:
    """From names in a tree's archive to names at the destination. `root` is the path that is asked of the tree."""

    def __init__(self, root: str, pattern: str, prefix: Callable[[str], str], exclude: IgnoreRules, stat: PathStat) -> None:
        self.root = root
        self.directory = bool(pattern) or is_directory(stat)
        self.mode = stat.mode & 0o777 if self.directory and not pattern else 0
        self.found = not pattern
        self._base = posixpath.basename(root)
        self._depth = pattern.count("/") + 1 if pattern else 0
        self._regex = re.compile(glob_regex(pattern)) if pattern else None
        self._prefix = prefix
        self._exclude = exclude

    def name(self, old: str, is_dir: bool) -> str | None:
        """The new name of a member; None leaves it out."""
        parts = [part for part in old.split("/") if part not in ("", ".")]
        if self._base and parts and parts[0] == self._base:
            parts = parts[1:]
        if self._regex is None:
            return self._below("", "/".join(parts), is_dir)
        top = "/".join(parts[: self._depth])
        if len(parts) < self._depth or not self._regex.match(top):
            return None
        self.found = True
        return self._below(top, "/".join(parts[self._depth :]), is_dir)

    def _below(self, top: str, rest: str, is_dir: bool) -> str | None:
        """`rest` is relative to the source; empty for the source itself."""
        prefix = self._prefix(top)
        if not rest:
            if is_dir:
                return prefix or None
            return None if self._exclude.excludes(posixpath.basename(top or self.root)) else (prefix or posixpath.basename(top))
        if self._exclude.excludes(rest, is_dir):
            return None
        return f"{prefix}/{rest}" if prefix else rest


async def _mapping(source: Tree, text: str, copy: TreeCopy) -> _Mapping:
    clean = posixpath.normpath("/" + text).lstrip("/")
    parts = clean.split("/")
    wild = next((index for index, part in enumerate(parts) if has_wildcards(part)), len(parts))
    fixed, pattern = "/".join(parts[:wild]), "/".join(parts[wild:])
    found = await resolve(source, "/" + fixed)
    if found is None or (pattern and not is_directory(found[1])):
        raise InvalidArgument(_missing(copy.command, text))
    path, stat = found

    def prefix(top: str) -> str:
        return kept_prefix(text, posixpath.join(fixed, top).strip("/")) if copy.parents else ""

    return _Mapping(path, pattern, prefix, copy.exclude, stat)


async def _pipe(
    source: Tree,
    target: Tree,
    base: str,
    mapping: _Mapping,
    name: str,
    links: DirectoryLinks | None,
    ownership: Ownership,
    digest: hashlib._Hash,
) -> None:
    """Stream the archive of one path from tree to tree. `name` is for a source that is a single file."""
    pieces = Pieces(source.get(mapping.root))
    loop = asyncio.get_running_loop()

    def rename(old: str, is_dir: bool) -> str | None:
        new = mapping.name(old, is_dir)
        if new is None or not mapping.directory:
            return new if new is None else new or name
        if is_dir and links is not None and asyncio.run_coroutine_threadsafe(links.holds(new), loop).result():
            return None
        return new

    await target.put(base, produce(lambda: rewrite(pieces.read, rename, ownership, digest), pieces.abort))
