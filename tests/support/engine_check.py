"""Whether an engine that went through a lot is still as it was."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from support import leak
from support.engine import EngineProcess

_DESCRIPTORS_MORE = 20


def ready(engine: EngineProcess) -> tuple[set[str], int]:
    """Start it, with an image and what the first container and the first network bring along. What there is now, and how many
    descriptors are open."""
    engine.start()
    engine.add_busybox()
    engine.ok("network", "create", "warm")
    engine.ok("run", "--rm", "-p", "80", "--network", "warm", "busybox", "true")
    engine.ok("network", "rm", "warm")
    assert engine.process is not None
    return engine.snapshot(), len(os.listdir(f"/proc/{engine.process.pid}/fd"))


def changed(engine: EngineProcess, before: set[str], descriptors: int | None = None) -> list[str]:
    """What is wrong with the engine when everything has been taken away again."""
    assert engine.process is not None
    if engine.process.poll() is not None:
        return [f"the engine has ended with {engine.process.returncode}:\n{engine.log_text()}"]
    log = Path(engine.log).read_text(errors="replace")
    bad = ("internal error", "Traceback", " ERROR ")
    wrong = [f"the engine's log: {line}" for line in log.splitlines() if any(word in line for word in bad)]
    if wrong:
        wrong.append(log[-8000:])
    if left := engine.ok("ps", "-aq").split():
        engine.ok("rm", "-fv", *left)
    engine.ok("network", "prune", "-f")
    deadline = time.monotonic() + 15
    while (more := _without_launcher(engine, engine.snapshot() - before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    # Mounts of other tests on the machine are seen here under new names when their directories are renamed.
    wrong += [f"left behind: {item}{_state(item)}" for item in sorted(more) if not item.startswith("mount /tmp/pytest-of-")]
    now = len(os.listdir(f"/proc/{engine.process.pid}/fd"))
    if descriptors is not None and now > descriptors + _DESCRIPTORS_MORE:
        wrong.append(f"{now} descriptors are open in the engine, {descriptors} before: {leak.descriptors(engine.process.pid)}")
    return wrong


def _without_launcher(engine: EngineProcess, found: set[str]) -> set[str]:
    """A later engine's launcher is another process than the first one's."""
    assert engine.process is not None
    own = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children").read_text().split()
    return {item for item in found if not any(item.startswith(f"process {pid} ") for pid in own)}


def _state(item: str) -> str:
    """What a process that is left behind is doing; nothing of another thing."""
    kind, _, rest = item.partition(" ")
    if kind != "process":
        return ""
    place, found = Path("/proc", rest.split()[0]), []
    with suppress(OSError):
        found.append(" ".join((place / "status").read_text().split()[:30]))
        found.append((place / "wchan").read_text())
        found.append((place / "stack").read_text())
        found.append((place / f"task/{place.name}/children").read_text())
        found += sorted(f"{entry.name} {os.readlink(entry)}" for entry in (place / "fd").iterdir())
    return "".join(f"\n    {line}" for line in found)
