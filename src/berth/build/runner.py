"""RUN: one command on a snapshot, with its mounts, its arguments and the host's network settings."""

from __future__ import annotations

import os
import posixpath
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from berth import failpoint
from berth.build.dockerfile.error import StepError
from berth.build.dockerfile.expansion import ExpansionError
from berth.build.dockerfile.instruction import Run, RunMount
from berth.build.job import Job
from berth.build.metadata import workdir
from berth.build.mount_stubs import remove_stubs
from berth.build.progress import Channel, TextOutput
from berth.build.scope import Scope
from berth.build.state import State
from berth.build.stream import Read, consume, run_in_thread
from berth.build.tree_path import is_directory, resolve
from berth.contract.step import Step
from berth.contract.store import Layer
from berth.errors import BerthError, InvalidArgument, NotImplementedKind
from berth.model.oci import Mount
from berth.storage.tar_reader import FILE, Source, TarReader
from berth.wire.container import HostConfig

_PIPES = "/dev/pipes"


class CommandFailed(BerthError):
    """A command ended with a code that is not 0."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class PreparedMount:
    """Variables are replaced; `source` is where from= leads, None for the context. `identity` is for the cache key."""

    mount: RunMount
    target: str
    source: State | None
    identity: str


def arguments(run: Run, state: State) -> tuple[str, ...]:
    """The command as it is executed; the shell's in front of a shell form, here-documents behind it."""
    if not run.shell:
        return run.command
    if run.script:
        content = run.heredocs[0].content
        if content.startswith("#!"):
            return (f"{_PIPES}/{posixpath.basename(run.heredocs[0].name)}",)
        return (*state.shell, content)
    text = run.command[0] + "".join(f"\n{doc.content}{doc.name}" for doc in run.heredocs)
    return (*state.shell, text)


async def prepare_mounts(job: Job, run: Run, state: State, scope: Scope, stage: int, channel: Channel) -> list[PreparedMount]:
    """Find out what the mounts mean, without carrying anything out."""
    prepared = []
    for raw in run.mounts:
        mount = _expanded(raw, run, scope, state)
        if mount.type in ("secret", "ssh"):
            raise NotImplementedKind(f"RUN --mount=type={mount.type} needs a client session, which this engine does not offer")
        target = workdir(state.config, mount.target)
        if target in ("/", "/proc", "/sys", "/dev"):
            raise StepError(f"invalid mount target {target!r}: it would hide what the command needs", run.location)
        source = await job.source(mount.from_, run, stage, channel) if mount.from_ else None
        prepared.append(PreparedMount(mount, target, source, _identity(job, mount, source, run)))
    return prepared


def _expanded(mount: RunMount, run: Run, scope: Scope, state: State) -> RunMount:
    env = state.config.env or []
    try:
        return replace(
            mount,
            target=scope.expand(mount.target, env),
            source=scope.expand(mount.source, env),
            id=scope.expand(mount.id, env),
        )
    except ExpansionError as error:
        raise StepError(f"failed to process --mount of {run.text!r}: {error}", run.location) from None


def _identity(job: Job, mount: RunMount, source: State | None, run: Run) -> str:
    """What of a mount can change the result. A cache's content does not count: that is what a cache is."""
    if mount.type != "bind":
        return ""
    if source is not None:
        return f"{source.chain_id} {mount.source}"
    path = job.context.resolve(mount.source)
    if path is None:
        raise StepError(f"failed to mount {mount.source!r}: it is not in the build context", run.location)
    entry = job.context.entries.get(path)
    if entry is not None and entry.kind != "d":
        return entry.identity()
    return "\n".join(f"{entry.identity()} {name}" for name, entry in job.context.walk(path))


async def execute(job: Job, run: Run, state: State, scope: Scope, mounts: list[PreparedMount], channel: Channel) -> Layer | None:
    """Run the command; the layer it made, None when it changed nothing. CommandFailed, LaunchFailed."""
    env = list(state.config.env or ())
    env = [*scope.run_arguments(env), *scope.proxies(), *env]
    async with AsyncExitStack() as stack:
        snapshot = await stack.enter_async_context(job.snapshot(state.chain_id))
        shown = [await _realise(job, prepared, stack) for prepared in mounts]
        shown += _script(job, run) + list(job.settings.mounts())
        hostname = snapshot.key.removeprefix("build-")[:12]
        await channel.text(f" ---> Running in {hostname}\n")
        command = arguments(run, state)
        step = Step(
            snapshot=snapshot.key,
            image_id=state.base,
            args=command,
            env=tuple(job.settings.environment(env)),
            cwd=state.config.working_dir or "/",
            user=state.config.user or "",
            hostname=hostname,
            mounts=tuple(shown),
            host_config=_host_config(job, run),
        )
        output = TextOutput(channel)
        ended = await job.services.steps.run(step, output.write)
        if ended.code:
            raise CommandFailed(" ".join(command), ended.code)
        if mounts:
            targets = [prepared.target for prepared in mounts]
            await run_in_thread(lambda: remove_stubs(snapshot.overlay, targets))
        failpoint.hit("build.step.before-commit")
        layer = await snapshot.commit()
        await channel.text(f" ---> Removed intermediate container {hostname}\n")
        return layer


def _host_config(job: Job, run: Run) -> HostConfig:
    config = job.options.host_config
    if run.network == "host" and config.network_mode != "host":
        raise StepError("RUN --network=host needs the permission of the build: docker build --network host", run.location)
    if run.network == "none":
        return msgspec.structs.replace(config, network_mode="none")
    return config


def _script(job: Job, run: Run) -> list[Mount]:
    """A here-document that is a program of its own, put where the command finds it."""
    if not run.script or not run.heredocs[0].content.startswith("#!"):
        return []
    directory = job.new_path()
    os.mkdir(directory, 0o755)
    path = f"{directory}/{posixpath.basename(run.heredocs[0].name)}"
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(run.heredocs[0].content)
    os.chmod(path, 0o755)
    return [Mount(destination=_PIPES, type="bind", source=directory, options=["rbind", "ro", "nosuid", "nodev"])]


async def _realise(job: Job, prepared: PreparedMount, stack: AsyncExitStack) -> Mount:
    """Make the source of a mount ready for the time of the step."""
    mount, target = prepared.mount, prepared.target
    access = "ro" if mount.read_only else "rw"
    options = ["rbind", access, "nosuid", "nodev"]
    if mount.type == "tmpfs":
        size = [f"size={mount.size}"] if mount.size else []
        return Mount(destination=target, type="tmpfs", source="tmpfs", options=["nosuid", "nodev", *size])
    if mount.type == "cache":
        mode = mount.mode if mount.mode is not None else 0o755
        opened = job.services.mounts.open(mount.id or target, mount.sharing, mode, mount.uid, mount.gid)
        path, new = await stack.enter_async_context(opened)
        if new and prepared.source is not None:
            await _copy_out(job, prepared.source, mount.source or "/", path)
        return Mount(destination=target, type="bind", source=path, options=options)
    if prepared.source is not None:
        path = await _copied(job, prepared.source, mount.source or "/")
    else:
        path = await _from_context(job, mount)
    return Mount(destination=target, type="bind", source=path, options=options)


async def _from_context(job: Job, mount: RunMount) -> str:
    """That part of the context, written out; once for all that only read it, for each that may write to it anew."""
    resolved = job.context.resolve(mount.source) or ""
    path = job.written.get(resolved) if mount.read_only else None
    if path is None:
        path = job.new_path()
        await run_in_thread(partial(job.context.materialise, resolved, path))
        if mount.read_only:
            job.written[resolved] = path
    return path


async def _copied(job: Job, source: State, path: str) -> str:
    """A copy of a part of another stage's tree. A file is copied alone."""
    destination = job.new_path()
    os.mkdir(destination, 0o755)
    async with job.services.trees.of_overlay(job.services.snapshots.view(source.chain_id)) as tree:
        found = await resolve(tree, path)
        if found is None:
            raise InvalidArgument(f"failed to mount {path!r}: there is no such path in the source of from=")
        if is_directory(found[1]):
            await tree.copy_out(found[0], destination)
            return destination

        def unpack(read: Read) -> None:
            reader = TarReader(Source(read))
            member = reader.next()
            if member is None or member.kind != FILE:
                raise InvalidArgument(f"failed to mount {path!r}: it is neither a directory nor a file")
            with open(f"{destination}/file", "xb") as file:
                reader.copy_to(file.fileno())
                os.fchown(file.fileno(), member.uid, member.gid)
                os.fchmod(file.fileno(), member.mode)

        await consume(tree.get(found[0]), unpack)
    return f"{destination}/file"


async def _copy_out(job: Job, source: State, path: str, destination: str) -> None:
    """The first content of a cache."""
    async with job.services.trees.of_overlay(job.services.snapshots.view(source.chain_id)) as tree:
        await tree.copy_out(path, destination)
