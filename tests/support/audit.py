"""Whether what an engine has recorded, what is on disk and what the kernel has are the same. Nothing may be half."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from typing import Any

from berth.storage.layer import LayerStore
from support import leak
from support.engine import SLOW, EngineProcess

_EMPTY = {os.path.basename(path) for path in LayerStore.fixed}


def _compare(what: str, recorded: set[str], found: set[str]) -> set[str]:
    return {f"{what} {name}: recorded, not there" for name in recorded - found} | {
        f"{what} {name}: there, not recorded" for name in found - recorded
    }


def _listed(path: str) -> set[str]:
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()


class _Tables:
    """The rows of an engine, read beside it."""

    def __init__(self, root: str) -> None:
        with closing(sqlite3.connect(f"file:{root}/berth.db?mode=ro", uri=True)) as database:
            self.containers = self._documents(database, "containers", "id")
            self.volumes = self._documents(database, "volumes", "name")
            self.networks = self._documents(database, "networks", "id")
            self.snapshots = dict(database.execute("SELECT key, parent FROM snapshots"))
            self.layers = dict(database.execute("SELECT chain_id, parent FROM layers"))
            self.images = dict(database.execute("SELECT id, chain_id FROM images"))
            kept = "SELECT digest FROM index_content UNION SELECT digest FROM indexes"
            self.kept = {row[0] for row in database.execute(kept)}
            self.leases = {row[0] for row in database.execute("SELECT id FROM leases")}
            self.ports = {row[0] for row in database.execute("SELECT container_id FROM ports")}
            endpoints = database.execute("SELECT container_id, document FROM endpoints").fetchall()
            self.live = {container for container, document in endpoints if json.loads(document).get("live")}
            self.integrity = database.execute("PRAGMA integrity_check").fetchone()[0]

    @staticmethod
    def _documents(database: sqlite3.Connection, table: str, key: str) -> dict[str, Any]:
        return {name: json.loads(text) for name, text in database.execute(f"SELECT {key}, document FROM {table}")}

    @property
    def running(self) -> set[str]:
        """The containers that have a task, by their rows."""
        return {key for key, record in self.containers.items() if record["state"].get("status") in ("running", "paused")}


def inconsistencies(engine: EngineProcess) -> set[str]:
    """What does not fit together, now. A download's .part may stay for the next try; what nothing needs any more has a day."""
    root, config = engine.root, engine.config
    tables = _Tables(root)
    found = set() if tables.integrity == "ok" else {f"the database: {tables.integrity}"}
    folders = _listed(f"{root}/containers")
    found |= _compare("container directory", set(tables.containers) | set(tables.snapshots), folders)
    found |= _compare(
        "upper directory", set(tables.snapshots), {key for key in folders if os.path.isdir(f"{root}/containers/{key}/upper")}
    )
    found |= _compare("snapshot row of container", set(tables.containers), set(tables.snapshots))
    found |= _compare("layer", {chain[7:] for chain in tables.layers}, _listed(f"{root}/layers") - _EMPTY)
    found |= _compare("volume", set(tables.volumes), _listed(f"{root}/volumes"))
    files = _listed(config.shims)
    shims = _compare("shim of", tables.running, {name.split(".")[0] for name in files})
    found |= shims | ({f"run files: {' '.join(sorted(files))}"} if shims else set())
    groups = {line.rpartition("/")[2] for line in leak.control_groups(config.name)}
    found |= _compare("control group of", tables.running, groups)
    devices = {record["device"] for record in tables.networks.values() if record.get("device")}
    bridges = {name for name in os.listdir("/sys/class/net") if os.path.isdir(f"/sys/class/net/{name}/bridge")}
    found |= _compare("bridge", devices, {name for name in bridges if config.engine_id in name})
    found |= {f"ports of {key}, which does not run" for key in tables.ports - tables.running}
    found |= {f"addresses of {key}, which does not run" for key in tables.live - tables.running}
    needed = {*tables.layers.values(), *tables.images.values(), *tables.snapshots.values()} - {None}
    found |= {f"layer {chain}: something stands on it, but it is gone" for chain in needed - set(tables.layers)}
    blobs = _listed(f"{root}/blobs/sha256")
    found |= {f"image {key}: no document" for key in tables.images if key[7:] not in blobs}
    found |= {f"an index keeps {digest}, which is not there" for digest in tables.kept if digest[7:] not in blobs}
    found |= {f"lease {name}" for name in tables.leases if name.startswith(("image-", "build:"))}
    found |= {f"ingest/{name}" for name in _listed(f"{root}/ingest") if not name.endswith(".part")}
    found |= {f"build/{name}" for name in _listed(f"{root}/build") if name.startswith(("context-", "step-"))}
    found |= {f"volume {name} is not finished" for name, record in tables.volumes.items() if record.get("pending")}
    return found


def await_consistency(engine: EngineProcess, seconds: float = 15.0) -> None:
    """What an engine sweeps beside its work gets a few seconds."""
    deadline = time.monotonic() + seconds * SLOW
    while (found := inconsistencies(engine)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not found, "does not fit together:\n" + "\n".join(sorted(found)) + f"\n{engine.log_text()}"


def content(engine: EngineProcess) -> set[str]:
    """Rows by their keys, and everything in the data root by its name: what must be as before when all was removed again."""
    tables = _Tables(engine.root)
    rows = {
        f"row {table} {key}"
        for table in ("containers", "volumes", "networks", "snapshots", "layers", "images", "kept")
        for key in getattr(tables, table)
    }
    places = ("containers", "layers", "volumes", "blobs/sha256", "ingest")
    files = {f"file {place}/{name}" for place in places for name in _listed(f"{engine.root}/{place}")}
    return rows | files | {f"lease {name}" for name in tables.leases}
