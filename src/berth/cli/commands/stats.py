"""stats: what containers use, as a table that is redrawn every second."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.cli.table import Fields, print_rows
from berth.client.engine import Engine
from berth.errors import BerthError, Unavailable
from berth.model.identifier import short_id
from berth.model.units import human_binary_size, human_size

COLUMNS = [
    ("ID", "CONTAINER ID"), ("Name", "NAME"), ("CPUPerc", "CPU %"), ("MemUsage", "MEM USAGE / LIMIT"), ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"), ("BlockIO", "BLOCK I/O"), ("PIDs", "PIDS"),
]  # fmt: skip


def _cpu_percent(sample: dict[str, Any]) -> float:
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    used = (now.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    return used / system * now.get("online_cpus", 1) * 100 if used > 0 and system > 0 else 0.0


def _memory(sample: dict[str, Any]) -> tuple[int, int]:
    """Used without the page cache that can be dropped, and the limit."""
    memory = sample.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return max(0, memory.get("usage", 0) - cache), memory.get("limit", 0)


def row(sample: dict[str, Any], identifier: str, name: str, full: bool) -> Fields:
    """A row from one reading."""
    used, limit = _memory(sample)
    networks = (sample.get("networks") or {}).values()
    blocks = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    read = sum(b["value"] for b in blocks if b.get("op", "").lower() == "read")
    written = sum(b["value"] for b in blocks if b.get("op", "").lower() == "write")
    return {
        "ID": identifier if full else short_id(identifier),
        "Container": identifier if full else short_id(identifier),
        "Name": name,
        "CPUPerc": f"{_cpu_percent(sample):.2f}%",
        "MemUsage": f"{human_binary_size(used)} / {human_binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human_size(sum(n['rx_bytes'] for n in networks), 3)} / {human_size(sum(n['tx_bytes'] for n in networks), 3)}",
        "BlockIO": f"{human_size(read, 3)} / {human_size(written, 3)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current", 0)),
    }


class _Watch:
    """One container's readings, by a thread of its own."""

    def __init__(self, target: Engine, identifier: str, name: str) -> None:
        self.identifier, self.name, self.sample = identifier, name, dict[str, Any]()
        self.failure: Unavailable | None = None
        self._target = target
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for sample in self._target.containers.stats(self.identifier):
                self.sample = sample
        except Unavailable as error:
            self.failure = error
        except BerthError:
            pass  # It ended, or was removed.
        self.sample = {}


@declare("stats")
@click.option("-a", "--all", "every", is_flag=True, help="Show all containers (default shows just running)")
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("--no-stream", is_flag=True, help="Disable streaming stats and only pull the first result")
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.argument("names", nargs=-1, metavar="[CONTAINER...]")
def stats(names: tuple[str, ...], every: bool, form: str | None, no_stream: bool, no_trunc: bool) -> None:
    """Display a live stream of container(s) resource usage statistics."""
    target = engine()
    if names:
        found = [(d["Id"], d["Name"].removeprefix("/")) for d in map(target.containers.inspect_raw, names)]
    else:
        found = [(c.id or "", (c.names or [""])[0].removeprefix("/")) for c in target.containers.list(all=every)]
    if no_stream:
        rows = [row(next(iter(target.containers.stats(i, stream=False)), {}), i, n, no_trunc) for i, n in found]
        print_rows(rows, COLUMNS, form=form)
        return
    watches = [_Watch(target, identifier, name) for identifier, name in found]
    while True:
        time.sleep(1)
        for watch in watches:
            if watch.failure is not None:
                raise watch.failure
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[2J\x1b[H")
        print_rows([row(w.sample, w.identifier, w.name, no_trunc) for w in watches], COLUMNS, form=form)
        sys.stdout.flush()


COMMANDS = {"stats": stats}
