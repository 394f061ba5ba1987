"""GET /system/df and /berth/df: what uses the disk. Clients before 1.52 read lists, later ones a summary of each kind too."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
from aiohttp import web

from berth.api.route import Route, api_version, json_response, query_bool
from berth.build.service import BuildService
from berth.engine.app import Engine
from berth.errors import InvalidArgument
from berth.model.filters import Filters
from berth.storage.account import Area, account
from berth.storage.gc import Collector
from berth.wire.volume import Volume, VolumeUsageData

_KINDS = frozenset({"image", "container", "volume", "build-cache"})
_ACTIVE = ("running", "paused", "restarting")


def routes(engine: Engine, builds: BuildService) -> list[Route]:
    """Both routes."""

    async def handle(request: web.Request) -> web.Response:
        kinds = set(request.query.getall("type", [])) or _KINDS
        if unknown := kinds - _KINDS:
            raise InvalidArgument(f"unknown object type: {', '.join(sorted(unknown))}")
        document: dict[str, Any] = {}
        if "image" in kinds:
            images = engine.images.summaries(Filters(), shared_size=True, count_containers=True)
            document |= {"LayersSize": engine.images.layers_size(), "Images": images}
        if "container" in kinds:
            document["Containers"] = await engine.containers.list(all=True, limit=-1, size=True, filters=Filters())
        if "volume" in kinds:
            document["Volumes"] = await _volumes(engine)
        if "build-cache" in kinds:
            document["BuildCache"] = await builds.records()
        if api_version(request) >= (1, 52):
            document = _summaries(msgspec.to_builtins(document), query_bool(request, "verbose"))
        return json_response(document)

    async def whole(_request: web.Request) -> web.Response:
        """GET /berth/df: every byte below the data root, by area. An extension: Docker tells parts of it."""
        root = engine.config.root
        census = Collector(engine.database, engine.blobs, engine.layers, engine.snapshots).census()
        areas = await asyncio.to_thread(account, root, census)
        return json_response({"Root": root, "Size": sum(area.size for area in areas), "Areas": [_area(a) for a in areas]})

    return [Route("GET", "/system/df", handle), Route("GET", "/berth/df", whole)]


def _area(area: Area) -> dict[str, Any]:
    return {"Name": area.name, "Size": area.size, "Hint": area.hint}


async def _volumes(engine: Engine) -> list[Volume]:
    found, users = [], engine.containers.by_volume()
    for volume in engine.volumes.list(Filters()):
        described = engine.volumes.describe(volume)
        size = await asyncio.to_thread(tree_size, volume.mountpoint)
        described.usage_data = VolumeUsageData(size=size, ref_count=users[volume.name])
        found.append(described)
    return found


def tree_size(path: str) -> int:
    """Bytes that the tree occupies on disk, each inode counted once; links are not followed."""
    seen: set[int] = set()
    total = 0
    for folder, folders, files, fd in os.fwalk(path):
        for name in [*folders, *files]:
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue  # A container removed it meanwhile.
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_blocks * 512
        del folder
    return total


def _summaries(document: dict[str, Any], verbose: bool) -> dict[str, Any]:
    """The shape from 1.52 on, beside the old one."""
    images, containers = document.get("Images"), document.get("Containers")
    volumes, cache = document.get("Volumes"), document.get("BuildCache")
    if images is not None:
        idle = [i for i in images if not i.get("Containers", 0) > 0]
        reclaimable = sum(i["Size"] - max(0, i.get("SharedSize", 0)) for i in idle)
        document["ImageUsage"] = _summary(images, len(images) - len(idle), document["LayersSize"], reclaimable, verbose)
    if containers is not None:
        sizes = [(c.get("SizeRw") or 0, c["State"] in _ACTIVE) for c in containers]
        document["ContainerUsage"] = _summary(containers, *_split(sizes), verbose)
    if volumes is not None:
        sizes = [(v["UsageData"]["Size"], v["UsageData"]["RefCount"] > 0) for v in volumes]
        document["VolumeUsage"] = _summary(volumes, *_split(sizes), verbose)
    if cache is not None:
        sizes = [(c.get("Size") or 0, bool(c.get("InUse"))) for c in cache]
        document["BuildCacheUsage"] = _summary(cache, *_split(sizes), verbose)
    return document


def _split(sizes: list[tuple[int, bool]]) -> tuple[int, int, int]:
    """(number in use, bytes, bytes not in use)."""
    return sum(used for _, used in sizes), sum(size for size, _ in sizes), sum(size for size, used in sizes if not used)


def _summary(items: list[Any], active: int, size: int, idle: int, verbose: bool) -> dict[str, Any]:
    found = {"ActiveCount": active, "TotalCount": len(items), "TotalSize": size, "Reclaimable": idle}
    return found | {"Items": items} if verbose else found
