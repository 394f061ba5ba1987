"""Leases: what a running pull, load or import needs is not removed under its feet.

A lease row names one resource, a blob's digest or a layer's chain id. Rows of an earlier engine are dropped at start:
the work they protected ended with it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from berth import failpoint
from berth.model.digest import Digest
from berth.storage.database import Database


class Lease:
    """One piece of work's hold on content."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._held: set[Digest] = set()

    def add(self, *resources: Digest) -> None:
        """Hold these too."""
        with self._database.transaction():
            for resource in resources:
                if resource in self._held:
                    continue
                self._database.execute(
                    "INSERT INTO leases (id, created, resource) VALUES (?, ?, ?)",
                    (f"{self._name}-{len(self._held)}", time.time(), resource),
                )
                self._held.add(resource)

    def release(self) -> None:
        """Let go of everything."""
        self._database.execute("DELETE FROM leases WHERE id LIKE ?", (f"{self._name}-%",))
        self._held.clear()


class Leases:
    """Gives leases and tells what is held, by anybody."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.execute("DELETE FROM leases WHERE id LIKE 'image-%'")

    @contextmanager
    def hold(self, *resources: Digest) -> Iterator[Lease]:
        """A lease for the time of a `with` block."""
        lease = Lease(self._database, f"image-{secrets.token_hex(8)}")
        lease.add(*resources)
        failpoint.hit("lease.hold.after-row")
        try:
            yield lease
        finally:
            lease.release()

    def holds(self, resource: Digest) -> bool:
        """Whether some work needs this."""
        return self._database.row("SELECT 1 FROM leases WHERE resource = ? LIMIT 1", (resource,)) is not None
