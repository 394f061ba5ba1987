"""What COPY and ADD copy from the context: found, filtered, named and digested, before anything is written."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field

from berth.build.context import Context, Entry, has_wildcards, is_tar
from berth.build.tarball import Item, read_range
from berth.contract.store import Expand
from berth.errors import DataLoss, InvalidArgument
from berth.model.ignore import IgnoreRules


@dataclass(slots=True)
class CopyPlan:
    """`items` have names relative to the destination directory. `single`: one file, whose name the destination may give.
    `archives` are files on the host to unpack at the destination. `parts` identify the content, in order."""

    items: list[Item] = field(default_factory=list)
    archives: list[Item] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    sources: int = 0
    single: bool = False
    directory: bool = False

    def label(self) -> str:
        """file:..., dir:... or multi:..., as Docker's history names what was copied."""
        digest = hashlib.sha256("\n".join(self.parts).encode("utf-8", "surrogateescape")).hexdigest()
        kind = "multi" if self.sources > 1 else "dir" if self.directory else "file"
        return f"{kind}:{digest}"

    def add_bytes(self, name: str, data: bytes, mode: int = 0o644, mtime: float = 0) -> None:
        """A file with this content (a here-document)."""
        self._add_file(Item(name, "f", mode, mtime, len(data), data=data), hashlib.sha256(data).hexdigest())

    def add_file(self, name: str, path: str, size: int, digest: str, mode: int, mtime: float) -> None:
        """A file of the host (a download)."""
        self._add_file(Item(name, "f", mode, mtime, size, path=path), digest)

    def add_archive(self, item: Item, digest: str) -> None:
        """An archive to unpack."""
        self.sources += 1
        self.directory = True
        self.archives.append(item)
        self.parts.append(f"archive {digest}")

    def _add_file(self, item: Item, digest: str) -> None:
        self.sources += 1
        self.single = self.sources == 1
        self.items.append(item)
        self.parts.append(f"f {item.mode:o} {digest} {item.name}")


def add_source(
    plan: CopyPlan, context: Context, source: str, *, exclude: IgnoreRules, parents: bool, unpack: Expand | None, command: str
) -> None:
    """Add what a source path or pattern names; archives to be unpacked with `unpack`. For threads. InvalidArgument when it names
    nothing."""
    clean = posixpath.normpath("/" + source).lstrip("/")
    names = context.glob(clean) if has_wildcards(source) else [clean if clean != "." else ""]
    found = 0
    for name in names:
        resolved = context.resolve(name)
        if resolved is None:
            continue
        found += 1
        entry = context.entries.get(resolved)
        prefix = kept_prefix(source, name) if parents else ""
        if entry is None or entry.kind == "d":
            _add_directory(plan, context, resolved, prefix, exclude)
        elif not exclude.excludes(posixpath.basename(name)):
            _add_entry(plan, context, resolved, entry, prefix or posixpath.basename(name), unpack)
    if not found:
        raise InvalidArgument(
            f"{command} failed: file not found in build context or excluded by .dockerignore: stat {source}: file does not exist"
        )


def kept_prefix(source: str, name: str) -> str:
    """With --parents: the part of the path that is kept, which is what follows `./` in the source, if it has one."""
    pivot = source.find("/./")
    if pivot == -1:
        return name
    before = posixpath.normpath("/" + source[:pivot]).lstrip("/")
    depth = len(before.split("/")) if before else 0
    return "/".join(name.split("/")[depth:])


def parent_items(name: str) -> list[Item]:
    """The directories above a name."""
    parts = name.split("/")[:-1]
    return [Item("/".join(parts[:count]), "d", 0o755, 0) for count in range(1, len(parts) + 1)]


def _add_directory(plan: CopyPlan, context: Context, path: str, prefix: str, exclude: IgnoreRules) -> None:
    plan.sources += 1
    plan.directory, plan.single = True, False
    start = f"{prefix}/" if prefix else ""
    if prefix:
        plan.items.extend(parent_items(f"{prefix}/x"))
        plan.parts.append(f"parents {prefix}")
    for name, entry in context.walk(path):
        if exclude.excludes(name, entry.kind == "d"):
            continue
        plan.items.append(_item(start + name, entry))
        plan.parts.append(f"{entry.identity()} {start}{name}")


def _add_entry(plan: CopyPlan, context: Context, path: str, entry: Entry, name: str, unpack: Expand | None) -> None:
    if unpack is not None and entry.kind == "f" and is_archive(entry.path, entry.offset, entry.size, unpack):
        plan.add_archive(_item(name, entry), entry.digest)
        return
    plan.sources += 1
    plan.single = plan.sources == 1 and "/" not in name
    plan.items.extend(parent_items(name))
    plan.items.append(_item(name, entry))
    plan.parts.append(f"{entry.identity()} {name}")


def _item(name: str, entry: Entry) -> Item:
    return Item(name, entry.kind, entry.mode, entry.mtime, entry.size, entry.target, entry.path, entry.offset)


def is_archive(path: str, offset: int, size: int, expand: Expand) -> bool:
    """Whether that part of a file of the host is a tar, plain or compressed: what ADD unpacks."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = read_range(fd, offset, size)
        head = b""
        for piece in expand(lambda: next(pieces, b"")):
            head += piece
            if len(head) >= 512:
                break
        return is_tar(head)
    except DataLoss:
        return False
    finally:
        os.close(fd)


def excluded(patterns: Sequence[str]) -> IgnoreRules:
    """The rules of --exclude."""
    return IgnoreRules.parse("\n".join(patterns), "--exclude")
