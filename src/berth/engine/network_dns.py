"""Names of containers in DNS: what the resolver process is told of each, and the sockets it is handed for some."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

from berth.contract.network import ContainerFacts
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_files import Files
from berth.engine.network_wish import is_user_defined
from berth.errors import NotFound
from berth.network import live
from berth.network.resolver_client import ResolverClient, ResolverRecord

log = logging.getLogger(__name__)


class Naming:
    """Remembers the containers that are attached, and tells the resolver, also one that was started anew."""

    def __init__(self, catalog: NetworkCatalog, files: Files, resolver: ResolverClient) -> None:
        self._catalog = catalog
        self._files = files
        self._resolver = resolver
        self._facts: dict[str, ContainerFacts] = {}
        self._pids: dict[str, int] = {}
        resolver.on_restart(self._serve_again)

    def remember(self, facts: ContainerFacts, pid: int = 0) -> None:
        """What is known of an attached container; its pid where sockets may have to be made in its namespace."""
        self._facts[facts.id] = facts
        if pid:
            self._pids[facts.id] = pid

    def forget(self, container_id: str) -> None:
        """Drop what is remembered of a container that has ended, here and in the resolver."""
        self._facts.pop(container_id, None)
        self._pids.pop(container_id, None)
        self._resolver.drop(container_id)

    async def ensure(self) -> None:
        """The resolver is there. Unavailable when it cannot be started."""
        await self._resolver.ensure()

    def tell(self, container_id: str) -> None:
        """Send what DNS has to know of a container, or drop it."""
        record = self._record(container_id)
        if record is None:
            self._resolver.drop(container_id)
        else:
            self._resolver.put(container_id, record)

    def _record(self, container_id: str) -> ResolverRecord | None:
        rows = [row for row in self._catalog.of_container(container_id).values() if row.live]
        facts = self._facts.get(container_id)
        if facts is None or not rows:
            return None
        record = ResolverRecord(forward=False, upstreams=list(facts.host_config.dns or []))
        for row in rows:
            network, entry = self._catalog.networks.get(row.network_id), row.live
            if network is None or entry is None:
                continue
            record.forward = record.forward or not network.internal
            if is_user_defined(network):
                record.networks[network.id] = (network.name, list(entry.names), [a for a in (entry.ipv4, entry.ipv6) if a])
        record.links = self._files.links(facts, rows)
        return record if record.networks or any(row.live and row.live.resolver for row in rows) else None

    async def serve(self, container_id: str, pid: int) -> None:
        """DNS for a container that was started without: its sockets are made here, and live as long as the process."""
        pidfd = os.pidfd_open(pid)
        try:
            udp, tcp = await asyncio.to_thread(live.open_resolver_sockets, pid)
            with udp, tcp:
                self._resolver.serve(container_id, (udp.fileno(), tcp.fileno(), pidfd))
        finally:
            os.close(pidfd)

    def replace_all(self, running: Sequence[tuple[ContainerFacts, int]]) -> None:
        """These containers are attached, and no others."""
        self._facts = {facts.id: facts for facts, _ in running}
        self._pids = {facts.id: pid for facts, pid in running}

    async def restore(self) -> None:
        """Tell the resolver everything, after starting it if a container needs it."""
        records = {container_id: self._record(container_id) for container_id in self._facts}
        self._resolver.replace_all({key: record for key, record in records.items() if record})
        if any(row.live and row.live.resolver for key in self._facts for row in self._catalog.of_container(key).values()):
            await self._resolver.ensure()
            await self._serve_again()

    async def _serve_again(self) -> None:
        """Sockets that the engine had made are not known to a resolver that was started anew; shims see to theirs."""
        for container_id, pid in list(self._pids.items()):
            rows = self._catalog.of_container(container_id).values()
            if any(row.live and row.live.handed for row in rows):
                try:
                    await self.serve(container_id, pid)
                except (NotFound, OSError) as error:
                    log.warning("container %s: 127.0.0.11 could not be set up again: %s", container_id[:12], error)
