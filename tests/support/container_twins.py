"""In-memory twins of what the container service stands on: runtime, networks, volumes, images, snapshots."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from msgspec import structs

from berth.contract.image import Image
from berth.contract.network import Attachment, Bindings, ContainerFacts, PortChange, PortRows
from berth.contract.runtime import Abilities, AttachStream, ExecRequest, Exit, LaunchFailed, LaunchRequest, Stats
from berth.contract.volume import Held, Volume
from berth.engine.config import EngineConfig
from berth.engine.containers.service import ContainerService
from berth.engine.events import Events
from berth.engine.idrange import IdRanges
from berth.engine.images.index import platform_of
from berth.errors import InvalidArgument, NotFound
from berth.model.digest import Digest
from berth.model.oci import Mount, Resources
from berth.model.rootfs import Change, Overlay
from berth.registry.manifest import matches, parse_platform
from berth.storage.database import Database
from berth.wire.container import ContainerConfig
from berth.wire.document import ImageDocument
from berth.wire.network import EndpointSettings, NetworkSettings

IMAGE_ID = Digest("sha256:" + "a" * 64)


class TwinExec:
    """A process that ends when the test says so."""

    def __init__(self, request: ExecRequest, streams: Sequence[AttachStream]) -> None:
        self.request = request
        self.about = request.about
        self.exit: Exit | None = None
        self.pid = 4242
        self.killed: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self._fds = [s.fd for s in streams]
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def finish(self, code: int, output: bytes = b"") -> None:
        for fd in self._fds:
            if output:
                os.write(fd, output)
            os.close(fd)
        self._fds = []
        if not self._end.done():
            self.exit = Exit(code=code, at=time.time())
            self._end.set_result(self.exit)

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    async def resize(self, height: int, width: int) -> None:
        self.sizes.append((height, width))

    async def kill(self, signal: int) -> None:
        self.killed.append(signal)
        self.finish(128 + signal)

    async def end(self) -> None:
        await self.kill(1)


class TwinTask:
    """A container that runs until it is killed or told to end. `ignores` are signals without effect."""

    def __init__(self, request: LaunchRequest, streams: Sequence[AttachStream]) -> None:
        self.request = request
        self.id = request.id
        self.pid = os.getpid()
        self.started_at = time.time()
        self.began = time.monotonic()
        self.streams = list(streams)
        self.signals: list[int] = []
        self.ignores: set[int] = set()
        self.frozen = False
        self.deleted = False
        self.rotations = 0
        self.updates: list[Resources] = []
        self.execs: list[TwinExec] = []
        self.exec_failure: LaunchFailed | None = None
        # While it is clear, an exec is being started.
        self.may_exec = asyncio.Event()
        self.may_exec.set()
        self.starting_execs = 0
        self.detached: Callable[[str], None] | None = None
        self.ran_out: Callable[[], None] = lambda: None
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def running_for(self) -> float:
        return time.monotonic() - self.began

    def finish(self, code: int, *, oom: bool = False, at: float = 0.0) -> None:
        for stream in self.streams:
            os.close(stream.fd)
        self.streams = []
        if not self._end.done():
            self._end.set_result(Exit(code=code, at=at or time.time(), oom_killed=oom, ran_for=self.running_for()))

    @property
    def exit(self) -> Exit | None:
        return self._end.result() if self._end.done() else None

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    async def kill(self, signal: int) -> None:
        if self._end.done():
            raise NotFound("no such process")
        self.signals.append(signal)
        if signal in (2, 9, 15) and signal not in self.ignores and (signal == 9 or not self.frozen):
            self.finish(128 + signal)

    def check(self, op: str) -> None:
        return

    async def attach(self, stream: AttachStream) -> None:
        self.streams.append(stream)

    async def resize(self, height: int, width: int) -> None: ...

    async def hold_ports(self, sockets: Sequence[int], released: Sequence[tuple[str, str, int]]) -> None: ...

    async def rotate_log(self) -> None:
        self.rotations += 1

    async def exec(self, request: ExecRequest, streams: Sequence[AttachStream] = ()) -> TwinExec:
        if self.exec_failure is not None:
            for stream in streams:
                os.close(stream.fd)
            raise self.exec_failure
        self.starting_execs += 1
        await self.may_exec.wait()
        assert not self.frozen, "frozen while an exec was being started: its shim waits for ever"
        self.execs.append(TwinExec(request, streams))
        return self.execs[-1]

    def find_exec(self, id: str) -> TwinExec | None:
        return next((exec for exec in self.execs if exec.request.id == id), None)

    def exec_ids(self) -> list[str]:
        return [exec.request.id for exec in self.execs]

    def on_detach(self, listener: Callable[[str], None]) -> None:
        self.detached = listener

    def on_oom(self, listener: Callable[[], None]) -> None:
        self.ran_out = listener

    async def pause(self) -> None:
        self.frozen = True

    async def resume(self) -> None:
        self.frozen = False

    async def update(self, resources: Resources) -> None:
        self.updates.append(resources)

    async def stats(self) -> Stats:
        return Stats(cpu_total=5, memory_usage=4096, pids_current=1)

    async def pids(self) -> list[int]:
        return [os.getpid()]

    async def delete(self) -> None:
        self.deleted = True


class TwinRuntime:
    """Launches TwinTasks; `failure` makes the next launches fail; `known` are what load finds."""

    def __init__(self) -> None:
        self.launched: list[TwinTask] = []
        self.failure: LaunchFailed | None = None
        self.known: dict[str, TwinTask] = {}
        self.removed: list[str] = []

    async def launch(self, request: LaunchRequest, streams: Sequence[AttachStream] = ()) -> TwinTask:
        if self.failure is not None:
            for fd in [*(s.fd for s in streams), *request.reserved]:
                os.close(fd)
            raise self.failure
        task = TwinTask(request, streams)
        self.launched.append(task)
        self.known[request.id] = task
        return task

    def claim_slot(self) -> str:
        return ""

    def slot_base(self, id: str) -> int:
        return 0

    def slot_link(self, id: str) -> str:
        return ""

    def prime_slot(self, request: LaunchRequest) -> bool:
        return False

    def slot_range(self, id: str) -> int:
        return 0

    async def drop_slot(self, id: str) -> None: ...

    async def drop_slots(self) -> None: ...

    async def load(self, id: str) -> TwinTask | None:
        return self.known.get(id)

    async def tasks(self) -> AsyncIterator[str]:
        for identifier in list(self.known):
            yield identifier

    async def remove_leftovers(self, id: str) -> None:
        self.removed.append(id)

    async def spawn(self, module: str, arguments: Sequence[str], fds: Sequence[int]) -> int:
        raise NotImplementedError

    async def close(self) -> None: ...


class TwinNetworks:
    """Accepts everything, remembers who is attached."""

    def __init__(self) -> None:
        self.attached: set[str] = set()
        self.forgotten: list[str] = []
        self.restored: list[str] = []
        self.refuse: Exception | None = None

    def check(self, facts: ContainerFacts) -> dict[str, EndpointSettings]:
        if self.refuse is not None:
            raise self.refuse
        return facts.endpoints

    async def attach(self, facts: ContainerFacts) -> Attachment:
        self.attached.add(facts.id)
        return Attachment(plan=None, hosts="127.0.0.1 localhost\n", resolv_conf="nameserver 1.1.1.1\n")

    async def release(self, container_id: str) -> None:
        self.give_back(container_id)()

    def give_back(self, container_id: str) -> Callable[[], None]:
        self.attached.discard(container_id)
        return lambda: None

    async def connect(self, facts: ContainerFacts, network: str, settings: EndpointSettings, pid: int | None) -> None: ...

    async def disconnect(self, facts: ContainerFacts, network: str, pid: int | None, *, force: bool) -> None: ...

    def relink(self, facts: ContainerFacts) -> None: ...

    async def renamed(self, container_id: str, name: str) -> None: ...

    def publish_missing(self, facts: ContainerFacts) -> tuple[int, ...]:
        return ()

    def change_ports(self, facts: ContainerFacts, more: Bindings, fewer: Bindings, *, running: bool) -> PortChange:
        return PortChange(bindings=more)

    def published(self, container_id: str) -> PortRows:
        return []

    def withdraw_ports(self, facts: ContainerFacts, rows: PortRows) -> tuple[tuple[str, str, int], ...]:
        return ()

    def publish_again(self, facts: ContainerFacts, rows: PortRows) -> tuple[int, ...]:
        return ()

    def settings(self, facts: ContainerFacts) -> NetworkSettings:
        return NetworkSettings(networks=dict(facts.endpoints), ports={})

    def forget(self, container_id: str) -> None:
        self.forgotten.append(container_id)

    async def restore(self, running: list[tuple[ContainerFacts, int]]) -> None:
        self.restored = [facts.id for facts, _ in running]


class TwinVolumes:
    """Volumes by name."""

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}
        self.full: set[str] = set()

    def get(self, name: str) -> Volume:
        if name not in self.volumes:
            raise NotFound(f"get {name}: no such volume")
        return self.volumes[name]

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        owner: str = "",
    ) -> Volume:
        key = name or f"{len(self.volumes):064x}"
        if key not in self.volumes:
            self.volumes[key] = Volume(name=key, mountpoint=f"/volumes/{key}/_data", created=0, anonymous=not name, owner=owner)
        return self.volumes[key]

    def keep(self, names: Iterable[str]) -> None:
        for name in names:
            self.volumes[name] = structs.replace(self.volumes[name], kept=True)

    async def hold(self, volume: Volume) -> Held | None:
        return None

    def mount(self, volume: Volume, destination: str, *, read_only: bool, subpath: str = "", held: Held | None = None) -> Mount:
        options = ["rbind", "rprivate", *(["ro"] if read_only else [])]
        return Mount(destination=destination, type="bind", source=volume.mountpoint, options=options)

    def is_empty(self, volume: Volume) -> bool:
        return volume.name not in self.full

    async def remove(self, name: str, *, force: bool = False) -> None:
        self.volumes.pop(name, None)


class TwinImages:
    """One image, `busybox`."""

    def __init__(self, config: ContainerConfig) -> None:
        document = ImageDocument(architecture="amd64", os="linux", config=config)
        self.image = Image(id=IMAGE_ID, document=document, chain_id=Digest("sha256:" + "b" * 64), size=100, created=0.0)

    def get(self, reference: str) -> Image:
        found = self.find(reference)
        if found is None:
            raise NotFound(f"No such image: {reference}")
        return found

    def find(self, reference: str) -> Image | None:
        return self.image if reference in ("busybox", "busybox:latest", IMAGE_ID) else None

    def get_for(self, reference: str, platform: str) -> Image:
        found = self.get(reference)
        if platform and not matches(platform_of(found.document), parse_platform(platform)):
            raise NotFound(f"image with reference {reference} was found but does not provide the specified platform ({platform})")
        return found

    def platforms(self, reference: str) -> list[Image]:
        found = self.find(reference)
        return [found] if found is not None else []


class TwinSnapshots:
    """Keys and sizes only; `lack` is why there are no sizes."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.lack = ""
        self.sizes: dict[str, int] = {}
        self.keys: set[str] = set()
        self.found: list[Change] = []

    def check_sizes(self, what: str) -> None:
        if self.lack:
            raise InvalidArgument(f"{what}: {self.lack}")

    async def prepare(self, key: str, parent: Digest | None, size: int = 0) -> Overlay:
        self.keys.add(key)
        self.sizes[key] = size
        return self.mounts(key)

    def check(self, key: str, size: int = 0) -> None: ...

    def mounting(self, key: str, size: int) -> AbstractContextManager[None]:
        return nullcontext()

    def mounts(self, key: str) -> Overlay:
        return Overlay(store=self.root, layers=("layers/b/fs",), upper=f"containers/{key}/upper", work=f"containers/{key}/work")

    def view(self, parent: Digest | None) -> Overlay:
        return Overlay(store=self.root, layers=("layers/b/fs",))

    async def changes(self, key: str) -> list[Change]:
        return self.found

    async def usage(self, key: str) -> int:
        return 7

    async def usages(self, keys: Sequence[str]) -> list[int]:
        return [7 for _ in keys]

    async def remove(self, key: str) -> None:
        self.put_aside(key)

    def put_aside(self, key: str) -> asyncio.Future[None]:
        self.keys.discard(key)
        shutil.rmtree(f"{self.root}/containers/{key}", ignore_errors=True)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    def forget(self, key: str) -> None:
        self.keys.discard(key)


class TwinTrees:
    """Remembers what was copied out."""

    def __init__(self) -> None:
        self.copied: list[tuple[str, str]] = []

    @asynccontextmanager
    async def of_overlay(self, overlay: Overlay, binds: tuple[tuple[str, str, str], ...] = ()) -> AsyncIterator[Any]:
        yield self

    async def copy_out(self, path: str, destination: str) -> bool:
        self.copied.append((path, destination))
        return True


class TwinLayers:
    """No large ids."""

    def large_ids(self, chain_id: Digest) -> tuple[int, ...]:
        return (70000,)


class World:
    """A container service on twins. `reopen` is what a killed and restarted engine sees."""

    def __init__(self, directory: Path, image: ContainerConfig | None = None, **settings: Any) -> None:
        self.root = str(directory / "root")
        os.makedirs(f"{self.root}/containers")
        self.config = EngineConfig(root=self.root, **settings)
        self.database = Database(f"{self.root}/berth.db")
        self.events = Events()
        self.runtime, self.networks, self.volumes = TwinRuntime(), TwinNetworks(), TwinVolumes()
        self.images = TwinImages(image or ContainerConfig(cmd=["sh"], env=["PATH=/bin"]))
        self.snapshots, self.trees = TwinSnapshots(self.root), TwinTrees()
        self._run = str(directory / "idranges")
        self.abilities = Abilities()
        self.service = self.reopen()

    def reopen(self) -> ContainerService:
        parts: dict[str, Any] = {
            "runtime": self.runtime,
            "snapshots": self.snapshots,
            "layers": TwinLayers(),
            "trees": self.trees,
            "images": self.images,
            "networks": self.networks,
            "volumes": self.volumes,
            "abilities": self.abilities,
        }
        ranges = IdRanges(self.root, self._run, ())
        self.service = ContainerService(config=self.config, database=self.database, events=self.events, ranges=ranges, **parts)
        return self.service

    def actions(self) -> list[str]:
        """Actions of container events so far."""
        return [str(m.action) for m in self.events._kept if m.type == "container"]
