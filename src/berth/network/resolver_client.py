"""The engine's side of the resolver: tells it what containers are called, again when it had to be started anew.

network.resolver has the other side and the description of the messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from berth.network.helper import Helper, Spawn


class ResolverRecord(msgspec.Struct, kw_only=True):
    """What DNS knows of a container. `networks`: id to (name of the network, names of the container in it, its addresses).
    `links`: its own names for others. `forward`: whether queries for other names go out; `upstreams` instead of the host's."""

    networks: dict[str, tuple[str, list[str], list[str]]] = msgspec.field(default_factory=dict)
    links: dict[str, str] = msgspec.field(default_factory=dict)
    forward: bool = True
    upstreams: list[str] = msgspec.field(default_factory=list)


class ResolverClient:
    """One per engine. Calls before `ensure` are remembered and sent then."""

    def __init__(self, path: str, spawn: Spawn) -> None:
        self._records: dict[str, ResolverRecord] = {}
        self._helper = Helper(
            "berth.network.resolver", "DNS resolver", path, spawn, lambda _: self._send_all(), lambda: bool(self._records)
        )

    def on_restart(self, work: Callable[[], Awaitable[None]]) -> None:
        """What follows when it had to be started anew."""
        self._helper.restarted = work

    async def ensure(self) -> None:
        """Be connected, starting the resolver when nobody answers. Unavailable when it cannot be started."""
        await self._helper.ensure()

    def _send_all(self) -> None:
        self._helper.send({"op": "begin"})
        for container, record in self._records.items():
            self._helper.send({"op": "records", "container": container, "record": record})
        self._helper.send({"op": "commit"})

    def put(self, container: str, record: ResolverRecord) -> None:
        """What a container is called, in place of what was said before."""
        self._records[container] = record
        self._helper.send({"op": "records", "container": container, "record": record})

    def drop(self, container: str) -> None:
        """A container has no names any more. Idempotent."""
        if self._records.pop(container, None) is not None:
            self._helper.send({"op": "drop", "container": container})

    def replace_all(self, records: dict[str, ResolverRecord]) -> None:
        """All containers at once: what is not among them is forgotten."""
        self._records = dict(records)
        self._send_all()

    def serve(self, container: str, fds: Sequence[int]) -> None:
        """Hand over sockets (UDP, TCP) made in a container's namespace, and a pidfd: served until the process ends."""
        self._helper.send({"op": "serve", "container": container}, fds)

    async def quit(self) -> None:
        """End the resolver, when it is there."""
        await self._helper.quit()

    def close(self) -> None:
        """Let go of it; it goes on."""
        self._helper.close()
