"""One stage: from its base, instruction by instruction, each from the cache or carried out.

    key of the step ──> cache hit: the recorded layer, configuration and time
                   └──> miss: metadata only, or a snapshot that becomes a layer; then recorded

Docker's classic builder is what the output looks like, and what the lines of history look like.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import msgspec

from berth.build.cache import cache_key
from berth.build.cache_source import CacheSources
from berth.build.chmod import Chmod
from berth.build.copier import Destination, TreeCopy, copy_tree, several_sources, write_plan
from berth.build.copy_plan import CopyPlan, add_source, excluded, is_archive
from berth.build.dockerfile.error import StepError, located
from berth.build.dockerfile.expansion import ExpansionError, expand_document
from berth.build.dockerfile.instruction import Command, Copy, Instruction, Run, Value
from berth.build.dockerfile.lexer import is_heredoc_word
from berth.build.dockerfile.parser import parse_trigger
from berth.build.download import download, file_name, is_url, redacted
from berth.build.graph import SCRATCH, PlannedStage
from berth.build.job import Job
from berth.build.metadata import apply
from berth.build.progress import Channel
from berth.build.runner import CommandFailed, arguments, execute, prepare_mounts
from berth.build.scope import Scope, host_architecture, platform_arguments
from berth.build.state import State, from_image, from_scratch, timestamp
from berth.build.stream import run_in_thread
from berth.build.tarball import Item
from berth.build.tree_path import is_directory, resolve
from berth.contract.store import Layer, Tree
from berth.errors import BerthError
from berth.model.ignore import IgnoreRules
from berth.wire.container import ContainerConfig

_NOP = "#(nop) "


class StageBuilder:
    """Builds one stage of a job."""

    def __init__(self, job: Job, planned: PlannedStage, channel: Channel) -> None:
        self._job = job
        self._planned = planned
        self._stage = planned.stage
        self._channel = channel
        self._cache = job.services.cache
        self._broken = job.options.no_cache
        names, services = job.options.cache_from, job.services
        self._sources = CacheSources(services.images, services.layers, names) if names else None
        self._command_set = False
        self._scope = Scope(
            given=job.options.build_args,
            inherited=job.arguments,
            # The target's platform, also in a stage that is made for another one.
            platform=platform_arguments(job.options.platform),
            escape=job.plan.dockerfile.escape,
        )

    async def run(self) -> State:
        """The state at the end of the stage."""
        number = self._job.plan.first_step[self._stage.index]
        await self._headline(number, self._stage.base.text)
        state = await self._begin()
        state = await self._triggers(state)
        for offset, instruction in enumerate(self._stage.steps, 1):
            await self._headline(number + offset, instruction.text)
            state = await self._step(state, instruction)
            await self._arrow(state)
        return state

    async def _headline(self, number: int, text: str) -> None:
        first, _, rest = text.partition("\n")
        await self._channel.text(f"Step {number}/{self._job.plan.steps} : {first}{' ...' if rest else ''}\n")

    async def _arrow(self, state: State) -> None:
        await self._channel.text(f" ---> {state.digest()[7:19]}\n")

    async def _begin(self) -> State:
        """The state to begin with, and its line of output: of an image its id, of nothing nothing."""
        if self._planned.base is not None:
            state = await self._job.results[self._planned.base]
            await self._arrow(state)
            return state
        if self._planned.image == SCRATCH:
            await self._channel.text(" ---> \n")
            return from_scratch(host_architecture())
        try:
            image = await self._job.image(self._planned.image, self._planned.platform, self._channel)
        except BerthError as error:
            raise located(error, self._stage.base.location) from None
        await self._channel.text(f" ---> {image.id[7:19]}\n")
        return from_image(image)

    async def _triggers(self, state: State) -> State:
        """Carry out the ONBUILD instructions of the base, which do not pass on."""
        triggers = state.config.on_build or []
        if not triggers:
            return state
        await self._channel.text(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
        state = replace(state, config=msgspec.structs.replace(state.config, on_build=None))
        for trigger in triggers:
            instruction = parse_trigger(trigger, self._planned.image)
            await self._channel.text(f"# {instruction.text}\n")
            state = await self._step(state, instruction)
        return state

    async def _step(self, state: State, instruction: Instruction) -> State:
        try:
            match instruction:
                case Run():
                    after = await self._run(state, instruction)
                case Copy():
                    after = await self._copy(state, instruction)
                case Value(keyword="WORKDIR"):
                    after = await self._workdir(state, instruction)
                case _:
                    after = await self._metadata(state, instruction)
        except BerthError as error:
            if isinstance(error, StepError) or not _needs_place(error):
                raise
            raise located(error, instruction.location) from None
        except ExpansionError as error:
            raise StepError(f"failed to process {instruction.text!r}: {error}", instruction.location) from None
        return self._job.pin(after)

    # Metadata

    async def _metadata(self, state: State, instruction: Instruction) -> State:
        config, text = apply(state.config, instruction, self._scope, command_set=self._command_set)
        if isinstance(instruction, Command) and instruction.keyword == "CMD":
            self._command_set = True
        author = text.removeprefix("MAINTAINER ") if text.startswith("MAINTAINER ") else None
        created_by = f"{' '.join(state.shell)} {_NOP} {text}"
        key = cache_key(state, text)
        cached = await self._hit([key], state, created_by, author, config)
        if cached is not None:
            return cached
        after = state.step(config, None, created_by, timestamp(time.time()), author)
        self._cache.store([key], state, after, None)
        return after

    async def _workdir(self, state: State, instruction: Value) -> State:
        config, text = apply(state.config, instruction, self._scope, command_set=False)
        created_by = f"{' '.join(state.shell)} {_NOP}{text}"
        path = config.working_dir or "/"

        async def work() -> Layer | None:
            async with self._job.snapshot(state.chain_id) as snapshot:
                async with self._job.services.trees.of_overlay(snapshot.overlay) as tree:
                    found = await resolve(tree, path)
                    if found is not None and is_directory(found[1]):
                        return None
                    await tree.make_directories(path)
                return await snapshot.commit()

        key = cache_key(state, text)
        cached = await self._hit([key], state, created_by, None, config)
        if cached is not None:
            return cached
        return self._done([key], state, config, await work(), created_by)

    # RUN

    async def _run(self, state: State, run: Run) -> State:
        mounts = await prepare_mounts(self._job, run, state, self._scope, self._stage.index, self._channel)
        args = self._scope.run_arguments(state.config.env or ())
        command = arguments(run, state)
        prefix = f"|{len(args)} {' '.join(args)} " if args else ""
        created_by = prefix + " ".join(command)
        script = run.heredocs[0].content if run.script else ""
        key = cache_key(state, "RUN", [*command, script, run.network, *args, *(repr((m.mount, m.identity)) for m in mounts)])
        cached = await self._hit([key], state, created_by, None, told=not (mounts or run.heredocs or run.network))
        if cached is not None:
            return cached
        layer = await execute(self._job, run, state, self._scope, mounts, self._channel)
        return self._done([key], state, state.config, layer, created_by)

    # COPY and ADD

    async def _copy(self, state: State, instruction: Copy) -> State:
        env = state.config.env or []
        copy = _expanded(instruction, self._scope, env)
        try:
            mode = Chmod.parse(copy.chmod) if copy.chmod else None
        except ValueError as error:
            raise StepError(str(error), copy.location) from None
        destination = Destination.of(copy.destination, state.config.working_dir or "/", copy.chown, mode)
        if copy.from_:
            return await self._copy_from(state, copy, destination)
        plan = await self._plan(copy, env)
        label = plan.label()
        created_by = f"{' '.join(state.shell)} {_NOP}{copy.keyword} {label} in {copy.destination} "
        key = cache_key(state, copy.keyword, [label, *plan.parts, copy.destination, copy.chown, copy.chmod])
        cached = await self._hit([key], state, created_by, None, told=not (copy.chown or copy.chmod))
        if cached is not None:
            return cached
        async with self._job.snapshot(state.chain_id) as snapshot:
            async with self._job.services.trees.of_overlay(snapshot.overlay) as tree:
                await write_plan(tree, plan, destination, self._job.services.expand)
            layer = await snapshot.commit()
        return self._done([key], state, state.config, layer, created_by)

    async def _plan(self, copy: Copy, env: Sequence[str]) -> CopyPlan:
        plan = CopyPlan()
        heredocs = iter(copy.heredocs)
        exclude = excluded(copy.exclude)
        for source in copy.sources:
            if is_heredoc_word(source):
                doc = next(heredocs)
                text = expand_document(doc.content, self._scope.variables(env), self._scope.escape) if doc.expand else doc.content
                plan.add_bytes(doc.name, text.encode("utf-8", "surrogateescape"))
            elif copy.keyword == "ADD" and is_url(source):
                await self._download(plan, source, copy)
            else:
                await self._add_source(plan, source, exclude, copy)
        if plan.sources > 1 and not copy.parents and not copy.destination.endswith("/") and copy.destination != ".":
            raise StepError(several_sources(copy.keyword), copy.location)
        return plan

    async def _add_source(self, plan: CopyPlan, source: str, exclude: IgnoreRules, copy: Copy) -> None:
        unpack = self._job.services.expand if copy.keyword == "ADD" and copy.unpack is not False else None

        def add() -> None:
            context, command = self._job.context, copy.keyword
            add_source(plan, context, source, exclude=exclude, parents=copy.parents, unpack=unpack, command=command)

        if unpack is not None:
            # It expands the beginnings of archives, which is for threads.
            await run_in_thread(add)
        else:
            add()

    async def _download(self, plan: CopyPlan, source: str, copy: Copy) -> None:
        await self._channel.text(f"Downloading {redacted(source)}\n")
        fetched = await download(source, self._job.new_path(), copy.keyword)
        if copy.checksum and copy.checksum != f"sha256:{fetched.digest}":
            raise StepError(f"digest mismatch sha256:{fetched.digest}: {copy.checksum}", copy.location)
        expand = self._job.services.expand
        if copy.unpack and await run_in_thread(lambda: is_archive(fetched.path, 0, fetched.size, expand)):
            plan.add_archive(Item("", "f", 0o600, 0, fetched.size, path=fetched.path), fetched.digest)
            return
        name = file_name(source) if copy.destination.endswith("/") else copy.destination.rstrip("/").rpartition("/")[2]
        plan.add_file(name or file_name(source), fetched.path, fetched.size, fetched.digest, 0o600, fetched.mtime)

    async def _copy_from(self, state: State, copy: Copy, destination: Destination) -> State:
        """From a stage or an image. Two keys: what the source is called by its layers, known at once, and what was copied."""
        source = await self._job.source(copy.from_, copy, self._stage.index, self._channel)
        if source.chain_id is None:
            raise StepError(f"COPY failed: the source {copy.from_} has no files", copy.location)
        identity = [*copy.sources, copy.destination, copy.chown, copy.chmod, *copy.exclude, str(copy.parents)]
        quick = cache_key(state, "COPY --from", [source.chain_id, *identity])
        kind = "multi" if len(copy.sources) > 1 else "dir"
        created_by = f"{' '.join(state.shell)} {_NOP}COPY {kind}:{quick} in {copy.destination} "
        cached = await self._hit([quick], state, created_by, None)
        if cached is not None:
            return cached
        services = self._job.services
        tree_copy = TreeCopy(sources=copy.sources, exclude=excluded(copy.exclude), parents=copy.parents, command=copy.keyword)

        def before() -> AbstractAsyncContextManager[Tree]:
            return services.trees.of_overlay(services.snapshots.view(state.chain_id))

        async with self._job.snapshot(state.chain_id) as snapshot:
            async with (
                services.trees.of_overlay(services.snapshots.view(source.chain_id)) as origin,
                services.trees.of_overlay(snapshot.overlay) as tree,
            ):
                digest = await copy_tree(origin, tree, tree_copy, destination, before)
            content = cache_key(state, "COPY --from content", [digest, *identity])
            cached = await self._hit([content, quick], state, created_by, None)
            if cached is not None:
                return cached
            layer = await snapshot.commit()
        return self._done([quick, content], state, state.config, layer, created_by)

    # The cache

    async def _hit(
        self,
        keys: list[str],
        state: State,
        created_by: str,
        author: str | None,
        config: ContainerConfig | None = None,
        *,
        told: bool = True,
    ) -> State | None:
        """The state after the step as the cache knows it by the first key; recorded under the other keys as well. With
        `--cache-from` only what those images have. `told`: the line of history says all that the step depends on."""
        if self._broken:
            return None
        after = self._recorded(keys, state, created_by, author, config)
        if self._sources is not None:
            if after is not None and not self._sources.allow(after):
                after = None
            found = self._sources.find(state, created_by) if after is None and told else None
            if found is not None:
                after = state.step(config or state.config, found.layer, created_by, found.created, author)
        if after is not None:
            await self._channel.text(" ---> Using cache\n")
        return after

    def _recorded(
        self, keys: list[str], state: State, created_by: str, author: str | None, config: ContainerConfig | None
    ) -> State | None:
        found = self._cache.find(keys[0])
        if found is None:
            return None
        record, layer = found
        description = created_by if layer is None else record.description
        after = state.step(config or record.config, layer, description, record.created, author)
        if len(keys) > 1:
            self._cache.store(keys[1:], state, after, layer)
        return after

    def _done(self, keys: list[str], state: State, config: ContainerConfig, layer: Layer | None, created_by: str) -> State:
        after = state.step(config, layer, created_by, timestamp(time.time()))
        self._cache.store(keys, state, after, layer)
        return after


def _needs_place(error: BerthError) -> bool:
    """Errors of a command's own are clear without the Dockerfile's lines, and their words are read by clients."""
    return not isinstance(error, CommandFailed)


def _expanded(copy: Copy, scope: Scope, env: Sequence[str]) -> Copy:
    return replace(
        copy,
        sources=tuple(source if is_heredoc_word(source) else scope.expand(source, env) for source in copy.sources),
        destination=scope.expand(copy.destination, env),
        chown=scope.expand(copy.chown, env),
        chmod=scope.expand(copy.chmod, env),
    )
