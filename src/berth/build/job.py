"""One running build: what it was asked, the services that it uses, and what its stages share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from berth.build.cache import BuildCache
from berth.build.cache_mount import CacheMounts
from berth.build.context import Context
from berth.build.dockerfile.error import StepError
from berth.build.dockerfile.instruction import Instruction
from berth.build.graph import SCRATCH, Plan, find_stage
from berth.build.host_settings import HostSettings
from berth.build.options import BuildOptions
from berth.build.progress import Channel
from berth.build.state import State, from_image
from berth.contract.image import Image, Images
from berth.contract.step import StepRunner
from berth.contract.store import Expand, Layer, Layers, Snapshots, Trees
from berth.errors import NotFound
from berth.model.digest import Digest
from berth.model.reference import parse
from berth.model.rootfs import Overlay


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the builder uses of the engine; the same for all builds."""

    images: Images
    layers: Layers
    snapshots: Snapshots
    trees: Trees
    steps: StepRunner
    expand: Expand
    cache: BuildCache
    mounts: CacheMounts


class Snapshot:
    """A writable snapshot of a step. `commit` gives the layer, or None when nothing was changed."""

    def __init__(self, services: Services, key: str, overlay: Overlay) -> None:
        self._services = services
        self.key = key
        self.overlay = overlay

    async def commit(self) -> Layer | None:
        """The end of the snapshot."""
        return await self._services.snapshots.commit(self.key, keep=False)


@dataclass(kw_only=True)
class Job:
    """`scratch` is a private directory, gone when the build ends. `results` are the stages' futures,
    `written` the parts of the context that are on disk for mounts."""

    services: Services
    options: BuildOptions
    plan: Plan
    context: Context
    scratch: str
    arguments: dict[str, str | None]
    settings: HostSettings
    results: dict[int, asyncio.Future[State]]
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    written: dict[str, str] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _pulled: dict[str, Image] = field(default_factory=dict)
    _scratches: int = 0

    @asynccontextmanager
    async def snapshot(self, chain_id: Digest | None) -> AsyncIterator[Snapshot]:
        """A snapshot on a stack of layers; whatever happens, it is gone afterwards."""
        key = f"build-{secrets.token_hex(8)}"
        overlay = await self.services.snapshots.prepare(key, chain_id)
        try:
            yield Snapshot(self.services, key, overlay)
        finally:
            await asyncio.shield(self.services.snapshots.remove(key))

    def new_path(self) -> str:
        """A path in the scratch directory that is not taken."""
        self._scratches += 1
        return f"{self.scratch}/{self._scratches}"

    def pin(self, state: State) -> State:
        """Keep the state's layers until the build ends."""
        self.services.cache.pin(self.id, state.chain_id)
        return state

    async def image(self, name: str, platform: str, channel: Channel) -> Image:
        """A base image: the one that is here, or pulled when it is missing, for another platform, or a pull was asked for."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            found = self._pulled.get(f"{name} {platform}")
            if found is None:
                found = await self._find(name, platform, channel)
                self._pulled[f"{name} {platform}"] = found
                self.services.cache.pin(self.id, found.chain_id)
            return found

    async def _find(self, name: str, platform: str, channel: Channel) -> Image:
        images = self.services.images
        here = images.find_for(name, platform)
        if here is not None and not self.options.pull:
            return here
        reference = parse(name)
        auth = self.options.credentials.get(reference.domain)
        if auth is None and reference.domain == parse("x").domain:
            auth = next((value for key, value in self.options.credentials.items() if reference.domain in key), None)
        return await images.pull(reference, platform=platform, auth=auth, progress=channel.message)

    async def source(self, name: str, instruction: Instruction, stage: int, channel: Channel) -> State:
        """What `--from` and `from=` mean: an earlier stage, or an image."""
        index = find_stage(self.plan.dockerfile, name, stage)
        if index is None:
            if name == SCRATCH:
                raise StepError("scratch has no files to copy from", instruction.location)
            try:
                return from_image(await self.image(name, self.options.platform, channel))
            except NotFound as error:
                raise StepError(f"invalid from flag value {name}: {error.message}", instruction.location) from error
        if index not in self.results:
            raise StepError(f"invalid from flag value {name}: the target does not need that stage", instruction.location)
        return await asyncio.shield(self.results[index])
