"""All containers of the engine, in memory and in table `containers`: lookup, names, storing."""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from berth.engine.containers import names
from berth.engine.containers.record import Container, ContainerRecord
from berth.errors import BerthError, Conflict, InvalidArgument, NotFound
from berth.model.identifier import check_name, is_id_prefix, short_id
from berth.storage.database import Database

log = logging.getLogger("berth.containers")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(ContainerRecord)


class Catalog:
    """Names are claimed before a container is made, so two creates of one name cannot both succeed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}

    def load(self) -> list[Container]:
        """Read the table, once at engine start."""
        for (document,) in self._database.rows("SELECT document FROM containers ORDER BY created"):
            container = Container(_DECODER.decode(document))
            self._containers[container.id] = container
            self._names[container.name] = container.id
        return list(self._containers.values())

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._containers.values()))

    def find(self, reference: str) -> Container | None:
        """By id, name (with or without the slash) or unambiguous id prefix."""
        exact = self._containers.get(reference)
        if exact is not None:
            return exact
        named = self._names.get(reference.removeprefix("/"))
        if named is not None:
            return self._containers.get(named)
        if not is_id_prefix(reference):
            return None
        matches = [c for i, c in self._containers.items() if i.startswith(reference)]
        if len(matches) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {reference}")
        return matches[0] if matches else None

    def get(self, reference: str) -> Container:
        """Like find; NotFound in Docker's words."""
        container = self.find(reference)
        if container is None:
            raise NotFound(f"No such container: {reference}")
        return container

    def claim_name(self, name: str, container_id: str) -> str:
        """Reserve the name (or a generated one) for the container. Conflict when it is taken."""
        if not name:
            name = names.generate(lambda n: n in self._names)
        name = check_name("container", name.removeprefix("/") or name, name)
        owner = self._names.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id
        return name

    def release_name(self, name: str) -> None:
        """Give up a claim that came to nothing."""
        self._names.pop(name, None)

    def add(self, container: Container) -> None:
        """Record a new container whose name is claimed."""
        record = container.record
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO containers (id, name, created, document) VALUES (?, ?, ?, ?)",
                (record.id, record.name, record.created, _ENCODER.encode(record)),
            )
        self._containers[record.id] = container

    def save(self, container: Container, *, durable: bool = False) -> None:
        """Store the record as it is now. ResourceExhausted when the disk is full."""
        record = container.record
        with self._database.transaction(durable=durable):
            self._database.execute(
                "UPDATE containers SET name = ?, document = ? WHERE id = ?", (record.name, _ENCODER.encode(record), record.id)
            )

    def note(self, container: Container) -> None:
        """Like save, for what must happen whether it can be recorded or not: a disk that takes nothing keeps no container from
        being stopped, and nobody from learning of its end. The next engine finds out by itself."""
        try:
            self.save(container)
        except BerthError as error:
            log.error("container %s is %s, which is not recorded: %s", short_id(container.id), container.status, error.message)

    def rename(self, container: Container, name: str) -> None:
        """Conflict when the name is taken."""
        old = container.name
        if name.removeprefix("/") == old:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        container.record.name = new = self.claim_name(name, container.id)
        try:
            self.save(container, durable=not container.auto_remove)
        except BerthError:
            container.record.name = old
            self.release_name(new)
            raise
        self.release_name(old)

    @contextmanager
    def removing(self, container: Container) -> Iterator[None]:
        """Forget it, with what is removed meanwhile in the same transaction."""
        with self._database.transaction():
            yield
            self._database.execute("DELETE FROM containers WHERE id = ?", (container.id,))
        self._containers.pop(container.id, None)
        self.release_name(container.name)

    def flush(self, *directories: str) -> Future[None]:
        """What has been recorded survives a power cut when the future ends, and `directories` before it."""
        return self._database.flush(*directories)
