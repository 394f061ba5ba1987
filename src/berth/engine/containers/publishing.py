"""Ports that are published, or are so no longer, while a container runs; of one that does not run, from its next start on.

    checks ─ host ports bound ─ rows and firewall elements ─ sockets to the shim ─ record

What an engine that is killed before the record had published goes with the run.
"""

from __future__ import annotations

from msgspec import Struct, field, structs

from berth.contract.network import Bindings
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.engine.containers.validation import check_port_bindings
from berth.errors import Conflict, InvalidArgument


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
            changed = self._parts.networks.change_ports(container.facts(), body.publish, body.unpublish, running=task is not None)
            if task is not None:
                await task.hold_ports(changed.sockets, changed.released)
            record = container.record
            record.host_config = structs.replace(record.host_config, port_bindings=changed.bindings)
            self._parts.catalog.save(container, durable=not container.auto_remove)
        self._parts.emit(container, "update")


def _check(container: Container) -> None:
    mode = container.record.host_config.network_mode or "bridge"
    if mode in ("host", "none") or mode.startswith("container:"):
        raise Conflict(f"container {container.name} has no ports of its own to publish: its network mode is {mode}")
    if container.status in (Status.REMOVING, Status.DEAD) or container.deleting:
        raise Conflict(f"container {container.name} is being removed")
