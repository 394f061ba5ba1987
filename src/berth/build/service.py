"""The builder's face: take a context, build, prune, tell what is kept.

<root>/build/context-<random>/   a context and the scratch files of one build; removed at its end, and at start
<root>/build/mounts/             RUN --mount=type=cache
<root>/build/host-settings/      what RUN steps get of the host's network settings
table build_cache                see cache.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from tempfile import mkdtemp

import msgspec

from berth import failpoint
from berth.build.cache import BuildCache
from berth.build.cache_mount import CacheMounts
from berth.build.context import Context, unpack
from berth.build.dockerfile.error import StepError
from berth.build.dockerfile.expansion import ExpansionError
from berth.build.dockerfile.instruction import Arg, Dockerfile
from berth.build.dockerfile.parser import parse as parse_dockerfile
from berth.build.graph import Plan, plan
from berth.build.host_settings import HostSettingsReader
from berth.build.job import Job, Services
from berth.build.options import BuildOptions
from berth.build.progress import Progress, Send
from berth.build.prune import Limits, Pruner
from berth.build.scope import PREDEFINED, global_arguments, platform_arguments
from berth.build.solver import solve
from berth.build.state import State, timestamp
from berth.build.stream import ByteStream, consume, run_in_thread
from berth.contract.image import Image, Images
from berth.contract.step import StepRunner
from berth.contract.store import Expand, Layers, Snapshots, Trees
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.errors import BerthError, InvalidArgument
from berth.kernel.fs import remove_tree
from berth.model.filters import Filters
from berth.model.ignore import IgnoreRules
from berth.model.reference import Reference, parse
from berth.storage.database import Database
from berth.wire.image import BuildCache as CacheRecord

IGNORE_FILE = ".dockerignore"
log = logging.getLogger("berth.build")


class BuildService:
    """One per engine."""

    def __init__(
        self,
        *,
        config: EngineConfig,
        database: Database,
        events: Events,
        images: Images,
        layers: Layers,
        snapshots: Snapshots,
        trees: Trees,
        steps: StepRunner,
        expand: Expand,
    ) -> None:
        self._root = f"{config.root}/build"
        self._database = database
        self._cache = BuildCache(database, layers, images)
        self._mounts = CacheMounts(f"{self._root}/mounts")
        self._pruner = Pruner(self._cache, self._mounts, events)
        self._services = Services(
            images=images,
            layers=layers,
            snapshots=snapshots,
            trees=trees,
            steps=steps,
            expand=expand,
            cache=self._cache,
            mounts=self._mounts,
        )
        self._settings = HostSettingsReader(f"{self._root}/host-settings", config.build_host_network_settings)
        self._swept: asyncio.Task[None] | None = None

    def restore(self) -> None:
        """At engine start: remove, beside everything else, what builds of an earlier engine left when it was killed."""
        if self._swept is None:
            self._swept = asyncio.create_task(self._remove_leftovers(), name="build leftovers")

    async def close(self) -> None:
        """At engine end; what is still to be removed waits for the next start."""
        if self._swept is not None:
            self._swept.cancel()
            await asyncio.wait([self._swept])

    @asynccontextmanager
    async def context(self, stream: ByteStream, dockerfile: str = "Dockerfile") -> AsyncIterator[Context]:
        """The context that a client sends, for the time of a build. InvalidArgument for one that cannot be read."""
        await self._sweep()
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        directory = mkdtemp(prefix="context-", dir=self._root)
        try:
            os.mkdir(f"{directory}/files", 0o700)
            os.mkdir(f"{directory}/scratch", 0o700)
            yield await consume(stream, lambda read: unpack(read, f"{directory}/files", dockerfile, self._services.expand))
        finally:
            await run_in_thread(lambda: remove_tree(directory))

    @asynccontextmanager
    async def scratch(self) -> AsyncIterator[str]:
        """A private directory, for a context that has to be fetched first."""
        await self._sweep()
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        directory = mkdtemp(prefix="context-", dir=self._root)
        try:
            yield directory
        finally:
            await run_in_thread(lambda: remove_tree(directory))

    def plan(self, context: Context, options: BuildOptions) -> Plan:
        """Read the Dockerfile of a context and find out what is to be built. Everything that is wrong with it is raised here."""
        for tag in options.tags:
            parse(tag)
        text = self._dockerfile(context, options.dockerfile)
        self._apply_ignore(context, options.dockerfile)
        dockerfile = parse_dockerfile(text, options.dockerfile)
        return plan(dockerfile, self._arguments_of(dockerfile, options), options.target, options.platform)

    async def build(self, context: Context, options: BuildOptions, planned: Plan, send: Send) -> Image:
        """Build and tell how it goes; the messages are those of Docker's classic builder. Cancelling ends every step."""
        progress = Progress(send, [item.stage.index for item in planned.stages], quiet=options.quiet)
        job = Job(
            services=self._services,
            options=options,
            plan=planned,
            context=context,
            scratch=os.path.join(os.path.dirname(context.directory), "scratch"),
            arguments=self._arguments_of(planned.dockerfile, options),
            settings=await self._settings.read(),
            results={},
        )
        try:
            if not options.quiet:
                for warning in planned.dockerfile.warnings:
                    await progress.send({"stream": f"[Warning] {warning}\n"})
            try:
                solved = await solve(job, progress)
            except BerthError:
                await progress.failed()
                raise
            state = _labelled(solved, options.labels)
            failpoint.hit("build.image.before-image")
            tags = tuple(_tag(name) for name in options.tags)
            image = await self._create(state, tags)
        finally:
            self._cache.unpin(job.id)
        await self._report(progress, options, planned, image, tags)
        return image

    async def _create(self, state: State, tags: tuple[Reference, ...]) -> Image:
        """The image of a state. One that adds nothing to its base is the base, under further names."""
        images = self._services.images
        base = images.find(state.base) if state.base is not None else None
        if base is None or len(state.history) != len(base.document.history or ()):
            return await images.create(state.document(), state.chain_id, tags=tags, parent=state.base)
        for reference in tags:
            images.tag(base, reference)
        return images.get(base.id)

    async def _report(
        self, progress: Progress, options: BuildOptions, planned: Plan, image: Image, tags: tuple[Reference, ...]
    ) -> None:
        unused = _unused_arguments(planned, options)
        if options.quiet:
            await progress.send({"aux": {"ID": image.id}})
            await progress.send({"stream": f"{image.id}\n"})
            return
        if unused:
            await progress.send({"stream": f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n"})
        await progress.send({"aux": {"ID": image.id}})
        await progress.send({"stream": f"Successfully built {image.id[7:19]}\n"})
        for reference in tags:
            await progress.send({"stream": f"Successfully tagged {reference.familiar}\n"})

    def _dockerfile(self, context: Context, name: str) -> str:
        data = context.read(name)
        if data is None:
            raise InvalidArgument(f"Cannot locate specified Dockerfile: {name}: it is not in the build context")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"the Dockerfile {name} is not UTF-8 text: {error}") from None

    def _apply_ignore(self, context: Context, dockerfile: str) -> None:
        """The client has left out what it should, except the Dockerfile and the rules themselves, which it must send."""
        for name in (f"{dockerfile}.dockerignore", IGNORE_FILE):
            data = context.read(name)
            if data is not None:
                rules = IgnoreRules.parse(data.decode("utf-8", "surrogateescape"), name)
                for sent in (dockerfile, IGNORE_FILE):
                    if rules.excludes(sent, False):
                        context.drop_file(sent)
                return

    def _arguments_of(self, dockerfile: Dockerfile, options: BuildOptions) -> dict[str, str | None]:
        try:
            return global_arguments(dockerfile.args, options.build_args, options.platform, dockerfile.escape)
        except ExpansionError as error:
            raise StepError(f"failed to process ARG: {error}", dockerfile.args[0].location) from None

    # What is kept

    async def records(self) -> list[CacheRecord]:
        """For GET /system/df."""
        return await self._pruner.records()

    async def prune(self, filters: Filters, *, everything: bool, limits: Limits | None = None) -> tuple[list[str], int]:
        """See Pruner.prune."""
        await self._sweep()
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        available = shutil.disk_usage(self._root).free
        return await self._pruner.prune(filters, everything=everything, limits=limits or Limits(), available=available)

    async def _sweep(self) -> None:
        """Nothing new is made before the old has gone: it could be taken for something left behind."""
        self.restore()
        assert self._swept is not None
        await asyncio.shield(self._swept)

    async def _remove_leftovers(self) -> None:
        self._cache.unpin("%")
        for (key,) in self._database.rows("SELECT key FROM snapshots WHERE key LIKE 'build-%'"):
            try:
                await self._services.snapshots.remove(key)
            except BerthError as error:
                log.warning("cannot remove what is left of a build step: %s", error.message)
        for name in os.listdir(self._root) if os.path.isdir(self._root) else []:
            if name.startswith(("context-", "step-")):
                path = f"{self._root}/{name}"
                try:
                    await run_in_thread(lambda path=path: remove_tree(path))  # type: ignore[misc]
                except OSError as error:
                    log.warning("cannot remove what is left of a build: %s: %s", path, error.strerror)


def _labelled(state: State, labels: Mapping[str, str]) -> State:
    """The labels of the request, as a step of their own."""
    if not labels:
        return state
    config = msgspec.structs.replace(state.config, labels={**(state.config.labels or {}), **labels})
    text = " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return state.step(config, None, f"{' '.join(state.shell)} #(nop)  LABEL {text}", state.created or timestamp(time.time()))


def _tag(name: str) -> Reference:
    reference = parse(name)
    if reference.digest is not None:
        raise InvalidArgument(f"refusing to create a tag with a digest reference: {name}")
    return reference


def _unused_arguments(planned: Plan, options: BuildOptions) -> list[str]:
    """Build arguments of the request that no ARG of the stages that were built declares."""
    declared = {name for arg in planned.dockerfile.args for name, _ in arg.args}
    for item in planned.stages:
        declared |= {name for step in item.stage.steps if isinstance(step, Arg) for name, _ in step.args}
    automatic = platform_arguments("")
    return sorted(
        name
        for name in options.build_args
        if name not in declared and name.upper() not in PREDEFINED and name not in automatic and not name.startswith("BUILDKIT_")
    )
