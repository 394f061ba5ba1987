"""Removing containers: by request, after a run with --rm, by prune, and what an interrupted removal left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from msgspec import Struct, field

from berth import failpoint
from berth.engine.containers.lifecycle import Status, is_running
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.errors import BerthError, Conflict, NotFound
from berth.model.filters import Filters
from berth.model.identifier import short_id
from berth.model.instant import parse_instant

log = logging.getLogger("berth.containers")


class ContainersPruned(Struct, kw_only=True):
    """The answer of prune."""

    containers_deleted: list[str] | None = field(name="ContainersDeleted", default=None)
    space_reclaimed: int = field(name="SpaceReclaimed", default=0)


class Removal:
    """Removes what does not run."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def check(self, container: Container) -> None:
        """Conflict, in Docker's words, while it runs."""
        if container.status is Status.PAUSED:
            raise Conflict(f'cannot remove container "{container.name}": container is paused and must be unpaused first')
        if is_running(container.status):
            raise Conflict(
                f'cannot remove container "{container.name}": container is {container.status}: '
                "stop the container before removing or force remove"
            )

    async def remove(self, container: Container, *, volumes: bool) -> None:
        """The container has ended. With `volumes`, its anonymous volumes go too, else they are kept. A second caller waits for
        the first."""
        if container.deleting:
            await container.removal()
            return
        if not volumes:
            self._parts.volumes.keep(mount.name for mount in container.record.mounts if mount.anonymous)
        await self.finish(container, volumes=volumes)

    async def finish(self, container: Container, *, volumes: bool) -> None:
        """Remove it, or what an earlier engine has left of a container that it was removing."""
        container.deleting = True
        try:
            async with container.lock:
                await self._remove(container, volumes)
        except BaseException as error:
            container.deleting = False
            container.tell_removed(str(error))
            raise

    async def _remove(self, container: Container, volumes: bool) -> None:
        parts = self._parts
        self.check(container)
        if container.status is not Status.REMOVING:
            container.move(Status.REMOVING)
        container.close_pending()
        try:
            failpoint.hit("container.remove.before-mark")
            if not container.auto_remove:
                parts.catalog.save(container)
            failpoint.hit("container.remove.after-mark")
            await parts.runtime.drop_slot(container.id)
            await parts.networks.release(container.id)
            failpoint.hit("container.remove.after-network")
            emptying = parts.snapshots.put_aside(container.id)
            failpoint.hit("container.remove.after-directory")
            try:
                self._forget(container)
            except BerthError:
                # On a full disk the database may need the room of what is being removed.
                await asyncio.shield(emptying)
                self._forget(container)
            failpoint.hit("container.remove.after-row")
            if not container.auto_remove:
                await parts.catalog.flush()
        except (BerthError, OSError) as error:
            container.move(Status.DEAD)
            container.state.error = str(error)
            parts.catalog.note(container)
            raise
        if volumes:
            await self._remove_volumes(container)
            failpoint.hit("container.remove.after-volumes")
        parts.emit(container, "destroy")
        container.tell_removed()
        await self._await_room(container, emptying)

    async def _await_room(self, container: Container, emptying: asyncio.Future[None]) -> None:
        """Whoever removes it may need the room that its files take; who only waits for it to be gone does not."""
        try:
            await asyncio.shield(emptying)
        except OSError as error:
            log.warning("files of container %s stay until the next start: %s", short_id(container.id), error)

    def _forget(self, container: Container) -> None:
        """All rows, in one transaction."""
        with self._parts.catalog.removing(container):
            self._parts.networks.forget(container.id)
            self._parts.snapshots.forget(container.id)

    async def _remove_volumes(self, container: Container) -> None:
        for mount in container.record.mounts:
            if mount.type == "volume" and mount.anonymous:
                try:
                    await self._parts.volumes.remove(mount.name)
                except NotFound:
                    continue
                except Conflict:
                    # Another container has it, too.
                    self._parts.volumes.keep([mount.name])
                except BerthError as error:
                    log.warning("cannot remove volume %s of container %s: %s", mount.name, short_id(container.id), error)

    async def prune(self, filters: Filters) -> ContainersPruned:
        """Everything that does not run and matches (until, label, label!)."""
        until = max((parse_instant(t) for t in filters.get("until")), default=None)
        deleted: list[str] = []
        space = 0
        for container in self._stopped():
            labels = container.record.config.labels
            if until is not None and container.record.created * 1e9 > until:
                continue
            if not filters.match_labels(labels) or not matches_no_label(filters, labels):
                continue
            try:
                size = await self._parts.snapshots.usage(container.id)
                await self.remove(container, volumes=False)
            except BerthError as error:
                log.warning("prune could not remove container %s: %s", short_id(container.id), error.message)
                continue
            deleted.append(container.id)
            space += size
        self._parts.events.publish("container", "prune", "", {"reclaimed": str(space)})
        return ContainersPruned(containers_deleted=deleted or None, space_reclaimed=space)

    def _stopped(self) -> Iterable[Container]:
        return [c for c in self._parts.catalog if not is_running(c.status) and not c.deleting]


def matches_no_label(filters: Filters, labels: dict[str, str] | None) -> bool:
    """Whether none of the `label!` filters applies."""
    for wanted in filters.get("label!"):
        name, equals, value = wanted.partition("=")
        if name in (labels or {}) and (not equals or (labels or {})[name] == value):
            return False
    return True
