"""Building images over the API, and the context that is sent for it."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from berth.client.credentials import all_registries
from berth.client.engine import Engine, FilterMap, Progress, encode_filters
from berth.client.stream import progress
from berth.client.wireline import Body
from berth.errors import InvalidArgument
from berth.model.ignore import IgnoreRules

_PIECE = 1 << 17


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of a build, as the API has them. `dockerfile` is a path inside the context."""

    tags: tuple[str, ...] = ()
    dockerfile: str = "Dockerfile"
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    network_mode: str = ""
    no_cache: bool = False
    pull: bool = False
    quiet: bool = False
    remove: bool = True
    force_remove: bool = False
    shm_size: int = 0
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    extra_hosts: tuple[str, ...] = ()
    cache_from: tuple[str, ...] = ()
    platform: str = ""
    ulimits: tuple[Mapping[str, Any], ...] = ()
    remote: str = ""


class Builds:
    """Builds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def build(self, context: Body, options: BuildOptions) -> Progress:
        """Build from a context tar (see `pack_context`), yielding progress; {"aux": {"ID": ...}} carries the image id."""
        headers = {"Content-Type": "application/x-tar", "X-Registry-Config": all_registries()}
        response = self._engine.request("POST", "/build", query=_query(options), body=context, headers=headers)
        return progress(response)

    def prune(self, *, all: bool = False, filters: FilterMap | None = None, keep: int = 0) -> Any:
        """Remove what builds have kept, but for `keep` bytes."""
        query = {
            "all": all or None,
            "filters": encode_filters(filters),
            "reserved-space": keep or None,
            "keep-storage": keep or None,
        }
        return self._engine.json("POST", "/build/prune", query=query)


def _query(options: BuildOptions) -> dict[str, str | int | bool | list[str] | None]:
    def encoded(value: object) -> str | None:
        return msgspec.json.encode(value).decode() if value else None

    return {
        "t": list(options.tags),
        "dockerfile": options.dockerfile,
        "buildargs": encoded(dict(options.build_args)),
        "labels": encoded(dict(options.labels)),
        "target": options.target or None,
        "networkmode": options.network_mode or None,
        "nocache": options.no_cache or None,
        "pull": options.pull or None,
        "q": options.quiet or None,
        "rm": options.remove,
        "forcerm": options.force_remove or None,
        "shmsize": options.shm_size or None,
        "memory": options.memory or None,
        "memswap": options.memory_swap or None,
        "cpushares": options.cpu_shares or None,
        "cpuperiod": options.cpu_period or None,
        "cpuquota": options.cpu_quota or None,
        "cpusetcpus": options.cpuset_cpus or None,
        "cpusetmems": options.cpuset_mems or None,
        "extrahosts": list(options.extra_hosts),
        "cachefrom": encoded(list(options.cache_from)),
        "platform": options.platform or None,
        "ulimits": encoded(list(options.ulimits)),
        "remote": options.remote or None,
    }


def read_ignore(context: str, dockerfile: str) -> IgnoreRules:
    """The ignore rules of a context: `<dockerfile>.dockerignore` when it is there, else `.dockerignore`."""
    for path in (f"{os.path.join(context, dockerfile)}.dockerignore", os.path.join(context, ".dockerignore")):
        try:
            with open(path, encoding="utf-8-sig") as file:
                return IgnoreRules.parse(file.read(), os.path.basename(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return IgnoreRules.parse("")


def context_files(context: str, rules: IgnoreRules, keep: frozenset[str]) -> Iterator[str]:
    """Paths inside the context that are sent, sorted, directories before what is in them.

    An excluded directory is still walked when a later rule may bring back something inside it; `keep` is sent anyway
    (the Dockerfile and the ignore file, which the engine needs).
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            names = sorted(os.listdir(os.path.join(context, folder)))
        except PermissionError as error:
            raise InvalidArgument(
                f"cannot read {error.filename} of the build context: change its mode, or exclude it in .dockerignore"
            ) from error
        deeper: list[str] = []
        for name in names:
            path = f"{folder}/{name}" if folder else name
            status = os.lstat(os.path.join(context, path))
            is_dir = stat.S_ISDIR(status.st_mode)
            excluded = rules.excludes(path, is_dir)
            if not excluded or path in keep:
                yield path
            if is_dir and (not rules.prunes(path) or any(k.startswith(path + "/") for k in keep)):
                deeper.append(path)
        pending.extend(reversed(deeper))


def pack_context(context: str, dockerfile: str = "Dockerfile", *, inline: bytes | None = None) -> Iterator[bytes]:
    """The context directory as a tar, in pieces. `inline` is a Dockerfile's content that is sent under the name `dockerfile`.

    Owners are left out (the engine decides them), as are sockets, which a tar cannot carry.
    """
    if not os.path.isdir(context):
        raise InvalidArgument(f"unable to prepare context: path {context!r} not found")
    rules = read_ignore(context, dockerfile)
    keep = frozenset({dockerfile, ".dockerignore", f"{dockerfile}.dockerignore"})
    for path in context_files(context, rules, keep):
        if inline is None or path != dockerfile:
            yield from _pack_member(os.path.join(context, path), path)
    if inline is not None:
        member = tarfile.TarInfo(dockerfile)
        member.size, member.mode = len(inline), 0o644
        yield _head(member) + inline + _padding(len(inline))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _pack_member(source: str, path: str) -> Iterator[bytes]:
    status = os.lstat(source)
    member = tarfile.TarInfo(path)
    member.mode, member.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(source)
    elif stat.S_ISFIFO(status.st_mode):
        member.type = tarfile.FIFOTYPE
    elif not stat.S_ISREG(status.st_mode):
        return
    else:
        yield from _pack_file(member, source)
        return
    yield _head(member)


def _pack_file(member: tarfile.TarInfo, source: str) -> Iterator[bytes]:
    try:
        file = open(source, "rb")
    except PermissionError as error:
        raise InvalidArgument(
            f"cannot read {source} of the build context: change its mode, or exclude it in .dockerignore"
        ) from error
    with file:
        member.size = os.fstat(file.fileno()).st_size
        yield _head(member)
        left = member.size
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise InvalidArgument(f"{source} became shorter while the build context was sent")
            left -= len(piece)
            yield piece
    yield _padding(member.size)


def _head(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
