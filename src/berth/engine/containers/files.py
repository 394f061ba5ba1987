"""The filesystem of a container: copy in and out, export, changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from berth.contract.store import PathStat, Tree
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.errors import BerthError, Forbidden, NotFound
from berth.model.rootfs import Change, Overlay


class Files:
    """Opens trees of containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @asynccontextmanager
    async def tree(self, container: Container) -> AsyncIterator[Tree]:
        """The whole filesystem: through init while it runs, mounted by the worker otherwise."""
        trees, task, size = self._parts.trees, container.live_task(), container.record.storage_size
        if task is not None:
            opening = trees.of_pid(task.pid, container.uid_base)
        else:
            # A slot may have mounted it.
            await self._parts.runtime.drop_slot(container.id)
            overlay = self._parts.overlay(container)
            self._parts.snapshots.check(container.id, size)
            opening = trees.of_overlay(overlay, self._binds(container))
        async with AsyncExitStack() as stack:
            with self._parts.snapshots.mounting(container.id, size):
                tree = await stack.enter_async_context(opening)
            yield tree

    def _binds(self, container: Container) -> tuple[tuple[str, str, str], ...]:
        found = []
        for mount in container.record.mounts:
            # An image's filesystem is no directory: what is below its mount point is seen while the container runs.
            source = mount.source if mount.type != "image" else ""
            if mount.type == "volume":
                try:
                    source = self._parts.volumes.get(mount.name).mountpoint
                except BerthError:
                    continue
            if source:
                found.append((source, mount.destination, mount.subpath))
        return tuple(found)

    async def stat(self, container: Container, path: str) -> PathStat:
        """HEAD archive."""
        async with self.tree(container) as tree:
            return await self._stat(container, tree, path)

    async def _stat(self, container: Container, tree: Tree, path: str) -> PathStat:
        try:
            return await tree.stat(path)
        except NotFound:
            raise NotFound(f"Could not find the file {path} in container {container.name}") from None

    async def get(self, container: Container, path: str) -> AsyncIterator[PathStat | bytes]:
        """GET archive: first the stat, then the tar."""
        async with self.tree(container) as tree:
            yield await self._stat(container, tree, path)
            async with aclosing(tree.get(path)) as pieces:  # type: ignore[type-var]  # it is a generator
                async for piece in pieces:
                    yield piece
        self._parts.emit(container, "archive-path")

    async def put(
        self, container: Container, path: str, stream: AsyncIterator[bytes], *, no_overwrite: bool, keep_owners: bool
    ) -> None:
        """PUT archive. Forbidden when the destination is read-only."""
        if self._read_only(container, path):
            raise Forbidden("container rootfs is marked read-only")
        async with self.tree(container) as tree:
            await self._stat(container, tree, path)
            await tree.put(path, stream, no_overwrite_dir_non_dir=no_overwrite, copy_uid_gid=keep_owners)
        self._parts.emit(container, "extract-to-dir")

    def _read_only(self, container: Container, path: str) -> bool:
        best, read_only = "", bool(container.record.host_config.readonly_rootfs)
        absolute = "/" + path.strip("/")
        for mount in container.record.mounts:
            if mount.covers(absolute) and len(mount.destination) > len(best):
                best, read_only = mount.destination, mount.read_only
        return read_only

    async def export(self, container: Container) -> AsyncIterator[bytes]:
        """The root filesystem as a tar, without what is mounted into it.

        The upper directory is shown as the top layer of a read-only mount: a second writable one would be wrong while the
        container runs.
        """
        overlay = self._parts.overlay(container)
        upper = (overlay.upper,) if overlay.upper is not None else ()
        view = Overlay(store=overlay.store, layers=(*upper, *overlay.layers))
        async with self._parts.trees.of_overlay(view) as tree, aclosing(tree.export()) as pieces:  # type: ignore[type-var]  # it is a generator
            async for piece in pieces:
                yield piece
        self._parts.emit(container, "export")

    async def changes(self, container: Container) -> list[Change]:
        """What differs from the image."""
        return await self._parts.snapshots.changes(container.id)
