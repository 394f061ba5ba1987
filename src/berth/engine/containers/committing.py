"""POST /commit: an image from a container's upper directory and a changed configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import msgspec

from berth import failpoint
from berth.contract.image import Image
from berth.contract.runtime import Task
from berth.engine.containers.defaults import merge_image
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.engine.images.changes import apply_changes
from berth.engine.images.document import commit_document
from berth.errors import Conflict, InvalidArgument
from berth.model.reference import Reference
from berth.wire.container import ContainerConfig


class Committing:
    """Makes images from containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def commit(
        self,
        container: Container,
        *,
        config: ContainerConfig | None,
        changes: list[str],
        tag: Reference | None,
        author: str,
        comment: str,
        pause: bool,
    ) -> Image:
        """The container keeps its changes. It is frozen meanwhile with `pause`."""
        parts, record = self._parts, container.record
        base = msgspec.convert(msgspec.to_builtins(record.config), ContainerConfig)
        wanted = base if config is None or config == ContainerConfig() else _overlay(config, base)
        apply_changes(wanted, changes)
        if wanted.working_dir and not wanted.working_dir.startswith("/"):
            raise InvalidArgument(f"the working directory '{wanted.working_dir}' is invalid, it needs to be an absolute path")
        async with self._paused(container, pause):
            layer = await parts.snapshots.commit(record.id, keep=True)
            failpoint.hit("container.commit.after-layer")
        parent = parts.images.get(record.image_id)
        document = commit_document(
            parent.document,
            _portable(wanted),
            diff_id=layer.diff_id if layer is not None else None,
            author=author,
            comment=comment,
            created_by=" ".join([record.path, *record.args]),
            container=record.id,
        )
        # What the container itself was made with; clients of API 1.44 and older are shown it.
        document = msgspec.structs.replace(document, container_config=record.config)
        chain_id = layer.chain_id if layer is not None else parent.chain_id
        image = await parts.images.create(document, chain_id, tags=(tag,) if tag else (), parent=parent.id)
        failpoint.hit("container.commit.after-image")
        parts.emit(container, "commit", {"comment": comment, "imageID": image.id, "imageRef": tag.familiar if tag else ""})
        return image

    @asynccontextmanager
    async def _paused(self, container: Container, pause: bool) -> AsyncIterator[None]:
        """The lock keeps the container from being changed while its upper directory is read."""
        async with container.changing():
            task = container.live_task()
            if not pause or task is None or container.status is not Status.RUNNING:
                yield
                return
            await _while_it_runs(task, task.pause())
            failpoint.hit("container.commit.after-freeze")
            self._parts.emit(container, "pause")
            try:
                yield
            finally:
                await _while_it_runs(task, task.resume())
                self._parts.emit(container, "unpause")


async def _while_it_runs(task: Task, change: Awaitable[None]) -> None:
    """A container that has ended in this moment needs neither freezing nor thawing: nothing writes any more."""
    try:
        await change
    except Conflict:
        if await task.pids():
            raise


def _overlay(config: ContainerConfig, base: ContainerConfig) -> ContainerConfig:
    if config.cmd is None and config.entrypoint is None:
        config.cmd = base.cmd
    return merge_image(config, base)


def _portable(config: ContainerConfig) -> ContainerConfig:
    """Without what belongs to the one container."""
    return msgspec.structs.replace(
        config, hostname=None, domainname=None, image=None, attach_stdin=None, attach_stdout=None, attach_stderr=None,
        tty=None, open_stdin=None, stdin_once=None, network_disabled=None, stop_timeout=None,
    )  # fmt: skip
