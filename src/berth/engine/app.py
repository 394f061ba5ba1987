"""The composition root of the engine: the one place that knows the concrete classes.

Start: directories, lock on the root, database, stores, runtime (launcher), then services bottom up, then recovery. Stop
goes the other way and leaves containers running unless asked otherwise.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass

from berth import failpoint
from berth.engine import runtimes
from berth.engine.config import EngineConfig
from berth.engine.containers.service import ContainerService
from berth.engine.events import Events
from berth.engine.exec import ExecService
from berth.engine.images.service import ImageService
from berth.engine.memory_volumes import MemoryVolumes
from berth.engine.networks import NetworkService
from berth.engine.step import StepService
from berth.engine.system import SystemService
from berth.engine.volumes import VolumeService
from berth.errors import Conflict, Unavailable
from berth.runtime import apparmor
from berth.runtime.native import NativeRuntime, await_launches
from berth.storage.blob import BlobStore
from berth.storage.database import Database
from berth.storage.expander import Expander
from berth.storage.gc import Collector
from berth.storage.layer import LayerStore
from berth.storage.quota import Quotas
from berth.storage.snapshot import SnapshotStore
from berth.storage.space import translated
from berth.storage.tree import TreeStore
from berth.storage.workers import Workers

log = logging.getLogger("berth.engine")
ROOT_DIRECTORIES = ("blobs/sha256", "ingest", "layers", "containers", "volumes", "build")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """All services of one engine."""

    config: EngineConfig
    database: Database
    quotas: Quotas
    events: Events
    runtime: NativeRuntime
    blobs: BlobStore
    layers: LayerStore
    snapshots: SnapshotStore
    workers: Workers
    expand: Expander
    trees: TreeStore
    images: ImageService
    volumes: VolumeService
    networks: NetworkService
    containers: ContainerService
    execs: ExecService
    steps: StepService
    system: SystemService
    lock: int

    async def stop(self, *, stop_containers: bool) -> None:
        """End the engine. Containers go on unless `stop_containers`, which also takes down bridges and rules."""
        # Each step is taken whatever became of those before it; the first failure is raised in the end.
        async with AsyncExitStack() as stack:
            stack.callback(os.close, self.lock)
            stack.callback(self.database.close)
            stack.callback(self.events.close)
            stack.callback(self.layers.close)
            stack.callback(self.workers.close)
            if stop_containers:
                stack.push_async_callback(self.runtime.teardown)
            stack.push_async_callback(self.runtime.close)
            stack.push_async_callback(self.networks.stop)
            if stop_containers:
                stack.push_async_callback(self.networks.teardown)
            await self.containers.shutdown(stop_containers)


def prepare_directories(config: EngineConfig) -> None:
    """The data root (0700) and the run directory (0711)."""
    with translated(f"preparing the data root {config.root} (choose another one with --root):"):
        os.makedirs(config.root, mode=0o700, exist_ok=True)
        os.chmod(config.root, 0o700)
        for name in ROOT_DIRECTORIES:
            os.makedirs(f"{config.root}/{name}", mode=0o700, exist_ok=True)
    with translated(f"preparing the run directory {config.run}:"):
        os.makedirs(config.run, mode=0o711, exist_ok=True)
        os.makedirs(config.shims, mode=0o700, exist_ok=True)


def lock_root(config: EngineConfig) -> int:
    """Only one engine may use a root at a time. Returns the descriptor that holds the lock."""
    fd = os.open(f"{config.root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Conflict(f"another berthd already uses {config.root}: stop it first, or give this one another --root") from None
    return fd


async def start(config: EngineConfig) -> Engine:
    """Put the engine together and recover what an earlier one left."""
    runtimes.check_default(config)
    # The run directory does not outlive the host's going down.
    same_boot = os.path.isdir(config.run)
    prepare_directories(config)
    lock = lock_root(config)
    failpoint.hit("engine.start.after-lock")
    quotas = Quotas(config.root)
    if config.storage_size:
        quotas.check("--storage-opt size: the size of containers cannot be limited")
    database = _open_database(config, same_boot)
    events = Events(f"{config.root}/events.jsonl")
    await await_launches(config.run)
    runtime = await NativeRuntime.start(root=config.root, run=config.run, name=config.cgroup)
    await _tell_abilities(runtime)
    failpoint.hit("engine.start.after-launcher")
    engine = _assemble(config, lock, database, quotas, events, runtime)
    await _recover(engine)
    return engine


def _open_database(config: EngineConfig, same_boot: bool) -> Database:
    database = Database(f"{config.root}/berth.db", same_boot=same_boot)
    if database.incomplete:
        log.error(
            "the database's log was damaged and the latest changes are lost (%s): what is on disk or runs and is not recorded is "
            "kept; put back a copy of the data root, or remove that file and restart the engine to have it cleaned up",
            database.mark,
        )
    return database


async def _tell_abilities(runtime: NativeRuntime) -> None:
    """What this host withholds, in the engine's log."""
    try:
        await asyncio.to_thread(apparmor.ensure)
    except Unavailable as error:
        # Containers that need it are refused, in the same words.
        log.error("%s", error.message)
    for note in runtime.abilities.notes:
        log.warning("%s", note)


def _assemble(
    config: EngineConfig, lock: int, database: Database, quotas: Quotas, events: Events, runtime: NativeRuntime
) -> Engine:
    """Every service with those that it works with."""
    blobs = BlobStore(config.root)
    workers = Workers(runtime.spawn)
    expand = Expander(workers, ratio=config.expansion_ratio, limit=config.expansion_limit)
    layers = LayerStore(config.root, database, blobs, expand, quotas)
    snapshots = SnapshotStore(config.root, database, layers, quotas)
    trees = TreeStore(workers, expand)
    images = ImageService(config, database, events, blobs, layers, expand)
    volumes = VolumeService(config.root, database, events, MemoryVolumes(config.run, runtime.spawn), quotas)
    networks = NetworkService(config, database, events, runtime.spawn)
    containers = ContainerService(
        config=config,
        database=database,
        events=events,
        runtime=runtime,
        snapshots=snapshots,
        layers=layers,
        trees=trees,
        images=images,
        networks=networks,
        volumes=volumes,
        abilities=runtime.abilities,
    )
    images.usage = volumes.usage = networks.usage = containers
    return Engine(
        config=config,
        database=database,
        quotas=quotas,
        events=events,
        runtime=runtime,
        blobs=blobs,
        layers=layers,
        snapshots=snapshots,
        workers=workers,
        expand=expand,
        trees=trees,
        images=images,
        volumes=volumes,
        networks=networks,
        containers=containers,
        execs=ExecService(containers),
        steps=StepService(containers),
        system=SystemService(config, database, events, runtime.abilities),
        lock=lock,
    )


async def _recover(engine: Engine) -> None:
    """Take up what runs, and clear away what an earlier engine had begun. With an incomplete database nothing is cleared away:
    what is not recorded may be what was lost."""
    certain, containers = not engine.database.incomplete, engine.containers
    await engine.networks.start()
    failpoint.hit("engine.start.after-networks")
    await containers.restore(sweep=certain)
    failpoint.hit("engine.start.after-containers")
    engine.execs.restore()
    if certain:
        await engine.volumes.sweep()
    failpoint.hit("engine.start.before-sweep")
    if size := engine.config.pool_size:
        engine.runtime.keep_slots(size, containers.parts.ranges, containers.typical_request())
    if certain:
        await Collector(engine.database, engine.blobs, engine.layers, engine.snapshots).start(containers.with_task())
        await asyncio.to_thread(engine.quotas.sweep)
