"""In-memory twins of the contracts that the builder uses: trees are dictionaries, layers are what changed in them.

Commands of RUN are a few words of a language of our own: `write PATH TEXT`, `env`, `fail CODE`, `nothing`, `wait`.
"""

from __future__ import annotations

import asyncio
import io
import json
import posixpath
import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from berth.contract.image import Image, Progress
from berth.contract.runtime import Exit
from berth.contract.step import Output, Step
from berth.contract.store import ByteStream, Layer, PathStat
from berth.engine.images.index import platform_of
from berth.errors import AlreadyExists, Conflict, NotFound
from berth.model.digest import Digest, chain_id, digest_of
from berth.model.reference import Reference, parse
from berth.model.rootfs import Change, Overlay
from berth.registry.manifest import matches, parse_platform
from berth.wire.container import ContainerConfig
from berth.wire.document import ImageDocument, RootFS
from berth.wire.image import AuthConfig


@dataclass(frozen=True)
class Node:
    """`kind` is f, d or l."""

    kind: str
    data: bytes = b""
    target: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    def text(self) -> str:
        return f"{self.kind} {self.mode:o} {self.uid}:{self.gid} {self.target}{self.data.decode('utf-8', 'replace')}"


Files = dict[str, Node]


@dataclass
class World:
    """All layers, snapshots and images. `log` has what was done, in order."""

    layers: dict[Digest, tuple[Layer, Files]] = field(default_factory=dict)
    snapshots: dict[str, tuple[Digest | None, Files]] = field(default_factory=dict)
    images: dict[Digest, Image] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    env: dict[str, tuple[str, ...]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def files(self, chain: Digest | None) -> Files:
        return dict(self.layers[chain][1]) if chain is not None else {}

    def add_layer(self, parent: Digest | None, files: Files) -> Layer:
        """A layer whose digest is that of its content."""
        diff = digest_of(json.dumps([parent, sorted((path, node.text()) for path, node in files.items())]).encode())
        chain = Digest(chain_id((diff,)) if parent is None else digest_of(f"{parent} {diff}".encode()))
        layer = Layer(chain_id=chain, diff_id=diff, parent=parent, size=sum(len(node.data) for node in files.values()))
        self.layers[chain] = (layer, dict(files))
        return layer

    def add_image(self, name: str, files: Files, config: ContainerConfig | None = None) -> Image:
        """A base image with one layer."""
        layer = self.add_layer(None, files)
        document = ImageDocument(
            architecture="amd64", os="linux", config=config or ContainerConfig(), rootfs=RootFS(diff_ids=[layer.diff_id])
        )
        image = Image(
            id=digest_of(msgspec.json.encode(document)),
            document=document,
            chain_id=layer.chain_id,
            size=0,
            created=0.0,
            tags=(parse(name).familiar,),
        )
        self.images[image.id] = image
        return image


class Layers:
    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, chain: Digest) -> Layer | None:
        found = self.world.layers.get(chain)
        return found[0] if found else None

    async def remove(self, chain: Digest) -> None:
        if any(layer.parent == chain for layer, _ in self.world.layers.values()):
            raise Conflict("a layer stands on it")
        self.world.layers.pop(chain, None)


class Snapshots:
    def __init__(self, world: World) -> None:
        self.world = world

    async def prepare(self, key: str, parent: Digest | None, size: int = 0) -> Overlay:
        if key in self.world.snapshots:
            raise AlreadyExists(key)
        self.world.snapshots[key] = (parent, self.world.files(parent))
        return self.mounts(key)

    def mounts(self, key: str) -> Overlay:
        return Overlay(store="/nowhere", layers=(), upper=f"containers/{key}/upper", work=f"containers/{key}/work")

    def view(self, parent: Digest | None) -> Overlay:
        return Overlay(store="/nowhere", layers=(parent or "",))

    async def changes(self, key: str) -> list[Change]:
        return []

    async def commit(self, key: str, *, keep: bool) -> Layer | None:
        assert not keep
        parent, files = self.world.snapshots.pop(key)
        if files == self.world.files(parent):
            return None
        self.world.log.append("commit")
        return self.world.add_layer(parent, files)

    async def usage(self, key: str) -> int:
        return 0

    async def usages(self, keys: Sequence[str]) -> list[int]:
        return [0 for _ in keys]

    async def remove(self, key: str) -> None:
        self.world.snapshots.pop(key, None)


class Tree:
    """Links are not followed on the way: tests that need that use the real thing."""

    def __init__(self, files: Files) -> None:
        self.files = files

    async def stat(self, path: str) -> PathStat:
        path = posixpath.normpath(path)
        if path == "/":
            return PathStat(name="/", size=0, mode=1 << 31 | 0o755, mtime="")
        node = self.files.get(path)
        if node is None:
            raise NotFound(f"no {path}")
        bits = {"d": 1 << 31, "l": 1 << 27, "f": 0}[node.kind]
        name = posixpath.basename(path)
        return PathStat(name=name, size=len(node.data), mode=bits | node.mode, mtime="", link_target=node.target)

    async def get(self, path: str) -> ByteStream:
        buffer = io.BytesIO()
        base = posixpath.basename(path)
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, node in sorted(self.files.items()):
                if name != path and not name.startswith(path.rstrip("/") + "/"):
                    continue
                info = tarfile.TarInfo((base + name[len(path.rstrip("/")) :]).lstrip("/"))
                info.mode, info.uid, info.gid, info.linkname = node.mode, node.uid, node.gid, node.target
                info.type = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE}[node.kind]
                info.size = len(node.data)
                archive.addfile(info, io.BytesIO(node.data))
        data = buffer.getvalue()
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    async def put(
        self, path: str, stream: ByteStream, *, no_overwrite_dir_non_dir: bool = False, copy_uid_gid: bool = False
    ) -> None:
        data = b"".join([piece async for piece in stream])
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                kind = "d" if member.isdir() else "l" if member.issym() else "f"
                self.files["/" + posixpath.normpath(f"{path}/{member.name}").lstrip("/")] = Node(
                    kind, content.read() if content else b"", member.linkname, member.mode, member.uid, member.gid
                )

    async def make_directories(self, path: str, *, uid: int = 0, gid: int = 0, mode: int = 0o755) -> None:
        parts = [part for part in path.split("/") if part]
        for count in range(1, len(parts) + 1):
            self.files.setdefault("/" + "/".join(parts[:count]), Node("d", mode=mode, uid=uid, gid=gid))

    async def read_file(self, path: str, limit: int) -> bytes:
        await self.stat(path)
        return self.files[path].data[:limit]

    async def copy_out(self, path: str, destination: str) -> bool:
        raise NotImplementedError


class Trees:
    def __init__(self, world: World) -> None:
        self.world = world

    @asynccontextmanager
    async def of_overlay(self, overlay: Overlay, binds: tuple[tuple[str, str], ...] = ()) -> AsyncIterator[Tree]:
        if overlay.upper is None:
            yield Tree(self.world.files(Digest(overlay.layers[0])))
        else:
            yield Tree(self.world.snapshots[overlay.upper.split("/")[1]][1])


class Steps:
    def __init__(self, world: World) -> None:
        self.world = world
        self.started = asyncio.Event()
        self.running = 0
        self.most = 0
        self.killed = 0

    async def run(self, step: Step, output: Output) -> Exit:
        command = step.args[-1]
        self.world.log.append(f"run {command}")
        self.world.env[command] = step.env
        self.world.steps.append(step)
        files = self.world.snapshots[step.snapshot][1]
        self.running += 1
        self.started.set()
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.01)
            word, _, rest = command.partition(" ")
            if word == "write":
                path, _, text = rest.partition(" ")
                files[posixpath.join(step.cwd, path)] = Node("f", text.encode())
            elif word == "fail":
                await output(2, b"it fails \xc3")
                await output(2, b"\xa9\n")
                return Exit(code=int(rest))
            elif word == "wait":
                await asyncio.sleep(60)
            else:
                await output(1, f"{command}\n".encode())
            return Exit(code=0)
        except asyncio.CancelledError:
            self.killed += 1
            raise
        finally:
            self.running -= 1


class Images:
    def __init__(self, world: World) -> None:
        self.world = world
        self.pulls: list[str] = []

    def get(self, reference: str) -> Image:
        found = self.find(reference)
        if found is None:
            raise NotFound(f"No such image: {reference}")
        return found

    def find(self, reference: str) -> Image | None:
        if reference in self.world.images:
            return self.world.images[Digest(reference)]
        name = parse(reference).familiar
        return next((image for image in self.world.images.values() if name in image.tags), None)

    def find_for(self, reference: str, platform: str) -> Image | None:
        found = self.find(reference)
        fits = found is not None and (not platform or matches(platform_of(found.document), parse_platform(platform)))
        return found if fits else None

    def list(self) -> list[Image]:
        return list(self.world.images.values())

    async def pull(
        self, reference: Reference, *, platform: str = "", auth: AuthConfig | None = None, progress: Progress | None = None
    ) -> Image:
        self.pulls.append(reference.familiar)
        found = self.find(str(reference))
        if found is None:
            raise NotFound(f"pull access denied for {reference.familiar_name}")
        return found

    async def create(
        self,
        document: ImageDocument,
        chain: Digest | None,
        *,
        tags: tuple[Reference, ...] = (),
        parent: Digest | None = None,
    ) -> Image:
        image = Image(
            id=digest_of(msgspec.json.encode(document)),
            document=document,
            chain_id=chain,
            size=0,
            created=0.0,
            tags=tuple(tag.familiar for tag in tags),
            parent=parent,
        )
        for other in list(self.world.images.values()):
            left = tuple(tag for tag in other.tags if tag not in image.tags)
            self.world.images[other.id] = msgspec.structs.replace(other, tags=left)
        self.world.images[image.id] = image
        return image

    def tag(self, image: Image, reference: Reference) -> None:
        self.world.images[image.id] = msgspec.structs.replace(image, tags=(*image.tags, reference.familiar))


__all__ = ["Images", "Layers", "Node", "Snapshots", "Steps", "Trees", "World"]
