"""A step: one command run on a snapshot without a container record; what RUN of a Dockerfile needs from the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct, field

from berth.contract.runtime import Exit
from berth.model.digest import Digest
from berth.model.oci import Mount
from berth.wire.container import HostConfig

Output = Callable[[int, bytes], Awaitable[None]]
"""Receives (1 for stdout or 2 for stderr, bytes)."""


class Step(Struct, frozen=True, kw_only=True):
    """`mounts` are added to the usual ones; their mount points leave no trace in the snapshot. `host_config` has limits,
    extra hosts, DNS, ulimits and the network mode, as for a container."""

    snapshot: str
    image_id: Digest | None = None
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = ""
    mounts: tuple[Mount, ...] = ()
    host_config: HostConfig = field(default_factory=HostConfig)


class StepRunner(Protocol):
    """Implemented by engine.step."""

    async def run(self, step: Step, output: Output) -> Exit:
        """Run it to its end under a default container's isolation. LaunchFailed when it cannot start. Cancelling kills it."""
        ...
