"""Who is called what: the resolver's knowledge of containers. Pure; a few dictionaries.

A container sees the names of those that share a network with it, its own links, and reverse names of their addresses.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Record:
    """What is known of a container, as it came in a message (resolver_client.ResolverRecord)."""

    __slots__ = ("forward", "links", "networks", "upstreams")

    def __init__(self, document: dict[str, Any]) -> None:
        self.networks: dict[str, tuple[str, list[str], list[str]]] = {
            str(key): (str(value[0]), [str(n) for n in value[1]], [str(a) for a in value[2]])
            for key, value in document.get("networks", {}).items()
        }
        self.links = {str(alias).lower(): str(target) for alias, target in document.get("links", {}).items()}
        self.forward = bool(document.get("forward", True))
        self.upstreams = [str(server) for server in document.get("upstreams", [])]


class Directory:
    """All containers, indexed by network and name, and by network and address."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._names: dict[tuple[str, str], dict[str, list[str]]] = {}
        self._addresses: dict[tuple[str, str], str] = {}

    def put(self, container: str, record: Record) -> None:
        """Set what is known of a container."""
        self.drop(container)
        self.records[container] = record
        for network, (_, names, addresses) in record.networks.items():
            for name in names:
                self._names.setdefault((network, name.lower()), {})[container] = addresses
            for address in addresses:
                self._addresses[(network, address)] = container

    def drop(self, container: str) -> None:
        """Forget a container. Idempotent."""
        record = self.records.pop(container, None)
        if record is None:
            return
        for network, (_, names, addresses) in record.networks.items():
            for name in names:
                holders = self._names.get((network, name.lower()), {})
                holders.pop(container, None)
                if not holders:
                    self._names.pop((network, name.lower()), None)
            for address in addresses:
                if self._addresses.get((network, address)) == container:
                    del self._addresses[(network, address)]

    def keep_only(self, containers: set[str]) -> None:
        """Forget all others."""
        for container in set(self.records) - containers:
            self.drop(container)

    def lookup(self, container: str, name: str) -> list[str] | None:
        """The addresses that a name stands for as this container sees it; None when it is no container's name."""
        record = self.records.get(container)
        if record is None:
            return None
        name = record.links.get(name, name).lower()
        for network, (network_name, _, _) in record.networks.items():
            suffix = "." + network_name.lower()
            for candidate in (name, name[: -len(suffix)] if name.endswith(suffix) else ""):
                holders = self._names.get((network, candidate)) if candidate else None
                if holders:
                    return [address for addresses in holders.values() for address in addresses]
        return None

    def reverse(self, container: str, address: str) -> str | None:
        """The name of the container with this address in a network that both are in."""
        record = self.records.get(container)
        for network, (network_name, _, _) in record.networks.items() if record else ():
            holder = self._addresses.get((network, address))
            if holder is not None:
                names = self.records[holder].networks[network][1]
                if names:
                    return f"{names[0]}.{network_name}"
        return None
