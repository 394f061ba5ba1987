"""The rows of networks, endpoints and published ports, with what is looked up all the time kept in memory.

The database is the truth; the maps here are filled from it once and changed with it. A network is acknowledged only after a
durable commit; what belongs to a running container is not worth a flush, since no container survives a power cut.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from berth.errors import Conflict, NotFound
from berth.network.ipam import Addresses
from berth.network.record import Endpoint, NetworkRecord, Published
from berth.storage.database import Database

_encode = msgspec.json.encode


class NetworkCatalog:
    """Networks by id and name, endpoints by container, the addresses in use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.networks: dict[str, NetworkRecord] = {}
        # Another object whenever there is another network, or another record of one.
        self.edition = object()
        self._names: dict[str, str] = {}
        self.endpoints: dict[str, dict[str, Endpoint]] = {}
        self.ports: dict[str, list[Published]] = {}
        self._addresses: dict[str, list[Addresses]] = {}
        for (document,) in database.rows("SELECT document FROM networks ORDER BY created"):
            record = msgspec.json.decode(document, type=NetworkRecord)
            self.admit(record)
        for (document,) in database.rows("SELECT document FROM endpoints"):
            endpoint = msgspec.json.decode(document, type=Endpoint)
            if endpoint.network_id in self.networks:
                self.endpoints.setdefault(endpoint.container_id, {})[endpoint.network_id] = endpoint
        for container_id, document in database.rows("SELECT container_id, document FROM ports"):
            self.ports.setdefault(container_id, []).append(msgspec.json.decode(document, type=Published))

    def store(self, record: NetworkRecord) -> None:
        """Write down a new network, flushed, before there is anything of it; `admit` lets it be used."""
        with self._database.transaction(durable=True):
            self._database.execute(
                "INSERT INTO networks (id, name, created, document) VALUES (?, ?, ?, ?)",
                (record.id, record.name, record.created, _encode(record)),
            )

    def admit(self, record: NetworkRecord) -> None:
        """From now on it can be found."""
        self.networks[record.id] = record
        self._names[record.name] = record.id
        self.edition = object()

    def change(self, record: NetworkRecord) -> None:
        """Another record of a network that there is, flushed."""
        with self._database.transaction(durable=True):
            self._database.execute("UPDATE networks SET document = ? WHERE id = ?", (_encode(record), record.id))
        self.networks[record.id] = record
        self.edition = object()
        self._addresses.pop(record.id, None)

    def withdraw(self, record: NetworkRecord) -> None:
        """From now on nobody finds it; what is written down stays until `erase`."""
        self.networks.pop(record.id, None)
        self.edition = object()
        if self._names.get(record.name) == record.id:
            del self._names[record.name]

    def erase(self, record: NetworkRecord) -> None:
        """Forget a network and what is recorded of its endpoints, flushed, when there is nothing of it any more."""
        with self._database.transaction(durable=True):
            self._database.execute("DELETE FROM endpoints WHERE network_id = ?", (record.id,))
            self._database.execute("DELETE FROM networks WHERE id = ?", (record.id,))
        self.withdraw(record)
        self._addresses.pop(record.id, None)
        for rows in self.endpoints.values():
            rows.pop(record.id, None)

    def by_name(self, name: str) -> NetworkRecord | None:
        """The network of exactly this name."""
        return self.networks.get(self._names.get(name, ""))

    def find(self, reference: str) -> NetworkRecord:
        """By id, name, or a beginning of the id that fits only one."""
        if found := self.networks.get(reference) or self.by_name(reference):
            return found
        fitting = [n for key, n in self.networks.items() if reference and key.startswith(reference)]
        if len(fitting) > 1:
            raise Conflict(f"network {reference} is ambiguous ({len(fitting)} matches found on ID prefix)")
        if not fitting:
            raise NotFound(f"network {reference} not found")
        return fitting[0]

    def of_container(self, container_id: str) -> dict[str, Endpoint]:
        """What is recorded of a container, by network id."""
        return self.endpoints.get(container_id, {})

    def live_in(self, network_id: str) -> list[Endpoint]:
        """The endpoints of running containers in a network."""
        return [rows[network_id] for rows in self.endpoints.values() if network_id in rows and rows[network_id].live]

    def put_endpoints(self, endpoints: Iterable[Endpoint], *, durable: bool = False) -> None:
        """Store endpoints, in place of what was recorded of the same container and network."""
        rows = list(endpoints)
        if not rows:
            return
        with self._database.transaction(durable=durable):
            for endpoint in rows:
                self._database.execute(
                    "INSERT OR REPLACE INTO endpoints (container_id, network_id, document) VALUES (?, ?, ?)",
                    (endpoint.container_id, endpoint.network_id, _encode(endpoint)),
                )
        for endpoint in rows:
            self.endpoints.setdefault(endpoint.container_id, {})[endpoint.network_id] = endpoint

    def drop_endpoints(self, container_id: str, network_ids: Iterable[str]) -> None:
        """Forget endpoints. Idempotent."""
        gone = list(network_ids)
        if not gone:
            return
        with self._database.transaction():
            for network_id in gone:
                self._database.execute(
                    "DELETE FROM endpoints WHERE container_id = ? AND network_id = ?", (container_id, network_id)
                )
        rows = self.endpoints.get(container_id, {})
        for network_id in gone:
            rows.pop(network_id, None)
        if not rows:
            self.endpoints.pop(container_id, None)

    def put_ports(self, container_id: str, ports: Iterable[Published]) -> None:
        """Store the published ports of a container beside those it has."""
        new = list(ports)
        if not new:
            return
        with self._database.transaction():
            for port in new:
                self._database.execute(
                    "INSERT OR REPLACE INTO ports (protocol, address, port, container_id, document) VALUES (?, ?, ?, ?, ?)",
                    (port.protocol, port.address, port.port, container_id, _encode(port)),
                )
        self.ports.setdefault(container_id, []).extend(new)

    def drop_ports(self, container_id: str) -> list[Published]:
        """Forget the published ports of a container, and return them."""
        gone = self.ports.pop(container_id, [])
        if gone:
            self._database.execute("DELETE FROM ports WHERE container_id = ?", (container_id,))
        return gone

    def replace_ports(self, container_id: str, ports: Iterable[Published]) -> list[Published]:
        """Store the published ports of a container instead of those it has; returns these."""
        with self._database.transaction():
            old = self.drop_ports(container_id)
            self.put_ports(container_id, ports)
        return old

    def allocated_ports(self) -> set[tuple[str, str, int]]:
        """(protocol, host address, port) of all containers."""
        return {(p.protocol, p.address, p.port) for ports in self.ports.values() for p in ports}

    def addresses(self, record: NetworkRecord) -> list[Addresses]:
        """The pools of a network with what is in use."""
        found = self._addresses.get(record.id)
        if found is None:
            live = [e.live for e in self.live_in(record.id) if e.live]
            used = [a for entry in live for a in (entry.ipv4, entry.ipv6) if a]
            found = [Addresses(pool, [a for a in used if (":" in a) == pool.is_v6]) for pool in record.pools]
            self._addresses[record.id] = found
        return found
