"""What one launch takes inside the engine: from the request to the launcher, or to a warm slot, until execve of init has worked.

The figure is the engine's own (`berthd --trace`). The container is a default one with the limits of the bundle that crun and
runc run, and it has what they have not: an overlay as its root, an interface on the default bridge, a log, an exit record.
"""

from __future__ import annotations

import json

from bench.engine import Peer, berth
from berth.client.containers import CreateBody
from berth.wire.container import HostConfig

_TRIES = 10


class TracedEngine:
    """A berthd that writes the phases of its launches to a file. `slots`: how many containers it keeps prepared."""

    def __init__(self, name: str, slots: int) -> None:
        self._from_slot = slots > 0
        self.peer: Peer = berth(name, "--pool-size", str(slots), trace=True)
        self._trace = open(f"{self.peer.directory}/trace", encoding="utf-8")

    def measure(self) -> float:
        """Seconds of one launch. With a pool only those count that found a slot."""
        for _ in range(_TRIES):
            line = self._one()
            if line["slot"] == self._from_slot:
                return float(line["launch_us"]) / 1e6
        raise SystemExit(f"bench: {_TRIES} launches of {self.peer.name} in a row found {'no' if self._from_slot else 'a'} slot")

    def _one(self) -> dict[str, float]:
        with self.peer.client() as client:
            host = HostConfig(memory=512 << 20, pids_limit=512)
            name = client.containers.create(CreateBody(image="busybox", cmd=["true"], host_config=host)).id or ""
            waiting = client.containers.begin_wait(name, condition="next-exit")
            client.containers.start(name)
            client.containers.finish_wait(waiting)
            client.containers.remove(name)
        found: list[dict[str, float]] = [line for line in map(json.loads, self._trace) if line.get("launch") == name]
        return found[-1]

    def close(self) -> None:
        """End the engine."""
        self._trace.close()
        self.peer.stop()
