"""Where the bytes below the data root are: every inode is counted once, in one area, so the areas add up to what `du` says.

Sizes are blocks on the disk, not lengths. What is in another filesystem that is mounted below the root is not counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from berth.storage.layer import LayerStore

SHARED, UNIQUE, IMAGELESS = "image layers, shared", "image layers, of one image", "layers of no image"
CONTENT, DOWNLOADS, LEFT = "image content", "downloads begun", "left behind"
WRITTEN, LOGS, FILES = "containers, written", "containers, logs", "containers, files of the engine"
VOLUMES, BUILDS, DATABASE, EVENTS, ENGINE = "volumes", "build cache mounts", "database", "events", "engine"

# In the order in which they are told, with what can be done about them.
HINTS = {
    SHARED: "goes with the last image that has them",
    UNIQUE: "berth image prune -a, berth rmi",
    IMAGELESS: "berth builder prune; containers may stand on them",
    CONTENT: "goes with its images",
    DOWNLOADS: "the next pull goes on from them; gone after a day",
    WRITTEN: "berth container prune",
    LOGS: "--log-opt max-size, max-file",
    FILES: "",
    VOLUMES: "berth volume prune -a",
    BUILDS: "berth builder prune",
    DATABASE: "",
    EVENTS: "",
    LEFT: "the engine removes it when it starts, a day old",
    ENGINE: "",
}


class Area(Struct, frozen=True):
    """One line of the account; `size` in bytes."""

    name: str
    size: int
    hint: str


@dataclass(frozen=True, kw_only=True)
class Census:
    """What the rows say there should be, by the names of directories and files. `images` counts the images on a layer."""

    images: Mapping[str, int] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
    blobs: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()


def account(root: str, census: Census) -> list[Area]:
    """All areas, also empty ones. Blocks for as long as a walk of the tree takes."""
    sizes = dict.fromkeys(HINTS, 0)
    seen: set[int] = set()
    for path, status in _walk(root):
        if status.st_ino not in seen:
            seen.add(status.st_ino)
            sizes[area_of(path, census)] += status.st_blocks * 512
    return [Area(name, size, HINTS[name]) for name, size in sizes.items()]


def _walk(root: str) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
    """Everything below, the root too, as parts of the path from there. What vanishes meanwhile is left out."""
    top = os.stat(root)
    yield (), top
    for folder, folders, files, fd in os.fwalk(root):
        parts = tuple(part for part in os.path.relpath(folder, root).split("/") if part != ".")
        for names, is_folder in ((list(folders), True), (files, False)):
            for name in names:
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if status.st_dev == top.st_dev:
                    yield (*parts, name), status
                elif is_folder:
                    folders.remove(name)


def area_of(path: tuple[str, ...], census: Census) -> str:
    """The area that a path below the root belongs to."""
    if len(path) < 2:
        return _of_root(path[0] if path else "")
    found = _RULES.get(path[0])
    return found(path[1:], census) if found else ENGINE


def _of_root(name: str) -> str:
    if name.startswith("berth.db"):
        return DATABASE
    return EVENTS if name.startswith("events.jsonl") else ENGINE


def _layer(path: tuple[str, ...], census: Census) -> str:
    count = census.images.get(path[0], 0)
    if count:
        return SHARED if count > 1 else UNIQUE
    if path[0] in census.layers:
        return IMAGELESS
    return ENGINE if f"layers/{path[0]}" in LayerStore.fixed else LEFT


def _blob(path: tuple[str, ...], census: Census) -> str:
    if len(path) < 2:
        return ENGINE
    return CONTENT if path[1] in census.blobs else LEFT


def _container(path: tuple[str, ...], census: Census) -> str:
    if path[0] not in census.containers:
        return LEFT
    if len(path) > 1 and path[1] in ("upper", "work"):
        return WRITTEN
    return LOGS if len(path) > 1 and ".log" in path[1] else FILES


def _volume(path: tuple[str, ...], census: Census) -> str:
    return VOLUMES if path[0] in census.volumes else LEFT


_RULES: dict[str, Callable[[tuple[str, ...], Census], str]] = {
    "layers": _layer,
    "blobs": _blob,
    "containers": _container,
    "volumes": _volume,
    "ingest": lambda path, census: DOWNLOADS,
    "build": lambda path, census: BUILDS,
}
