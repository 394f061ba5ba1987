"""Ports that are published, or are so no longer, while a container runs; of one that does not run, from its next start on.

    checks ─ host ports bound ─ rows and firewall elements ─ sockets to the shim ─ record

While a running container's ports change, its record says which it had: an engine that is killed meanwhile, or that fails,
has that put back by the next one, or by itself.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct, field, structs

from berth import failpoint
from berth.contract.network import Bindings, PortChange
from berth.contract.runtime import Task
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.engine.containers.validation import check_port_bindings
from berth.errors import BerthError, Conflict, InvalidArgument

log = logging.getLogger("berth.containers")


class PortsBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The body of POST /berth/containers/{id}/ports: port maps as in HostConfig.PortBindings."""

    publish: Bindings = field(name="Publish", default_factory=dict)
    unpublish: Bindings = field(name="Unpublish", default_factory=dict)


class Publishing:
    """Changes what a container publishes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def change(self, container: Container, body: PortsBody) -> None:
        """All of it or nothing. Conflict, NotFound, and ResourceExhausted in Docker's words when a port is taken."""
        if not body.publish and not body.unpublish:
            raise InvalidArgument("nothing to change: give Publish or Unpublish")
        check_port_bindings(body.publish)
        check_port_bindings(body.unpublish)
        async with container.lock:
            _check(container)
            task = container.live_task()
            if task is None:
                self._record(container, self._change(container, body, running=False).bindings)
            else:
                async with self.whole_or_not(container, task):
                    changed = self._change(container, body, running=True)
                    failpoint.hit("container.ports.after-rows")
                    await task.hold_ports(changed.sockets, changed.released)
                    failpoint.hit("container.ports.after-sockets")
                    self._record(container, changed.bindings)
            failpoint.hit("container.ports.after-record")
        self._parts.emit(container, "update")

    def _change(self, container: Container, body: PortsBody, *, running: bool) -> PortChange:
        return self._parts.networks.change_ports(container.facts(), body.publish, body.unpublish, running=running)

    def _record(self, container: Container, bindings: Bindings) -> None:
        record, before = container.record, (container.record.host_config, container.record.ports_before)
        record.host_config, record.ports_before = structs.replace(record.host_config, port_bindings=bindings), None
        try:
            self._parts.catalog.save(container, durable=not container.auto_remove)
        except BerthError:
            record.host_config, record.ports_before = before
            raise

    @asynccontextmanager
    async def whole_or_not(self, container: Container, task: Task) -> AsyncIterator[None]:
        """Around a change of the ports of a running container: it is made and recorded, or put back."""
        container.record.ports_before = self._parts.networks.published(container.id)
        try:
            self._parts.catalog.save(container)
            failpoint.hit("container.ports.after-intent")
            yield
        finally:
            await self.put_back(container, task)

    async def put_back(self, container: Container, task: Task | None) -> None:
        """The ports that a container had before a change that has not been recorded. Without a task it has none."""
        before = container.record.ports_before
        if before is None:
            return
        networks, facts = self._parts.networks, container.facts()
        try:
            if task is not None and (released := networks.withdraw_ports(facts, before)):
                await task.hold_ports((), released)
                await task.hold_ports(networks.publish_again(facts, before), ())
        except BerthError as error:
            log.warning("container %s: its ports cannot be put back as they were: %s", container.name, error.message)
        container.record.ports_before = None
        self._parts.catalog.note(container)


def _check(container: Container) -> None:
    mode = container.record.host_config.network_mode or "bridge"
    if mode in ("host", "none") or mode.startswith("container:"):
        raise Conflict(f"container {container.name} has no ports of its own to publish: its network mode is {mode}")
    if container.status in (Status.REMOVING, Status.DEAD) or container.deleting:
        raise Conflict(f"container {container.name} is being removed")
