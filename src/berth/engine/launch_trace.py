"""`berthd --trace`: one line of JSON for each launch and one for each end of a container, with all phases in microseconds.

    {"launch": id, "at": seconds since the epoch, "slot": made from the warm pool, "total_us": request to answer,
     "ns": the request on the monotonic clock, as a client on the same host may read it,
     "launch_us": request to the launcher or slot until execve of init has worked,
     "phases": [[name, microseconds since the request], ...], "ahead": phases of the slot, since its own beginning}
    {"end": id, "at": .., "ns": .., "total_us": .., "phases": [[name, microseconds since the shim noticed], ...]}

Names that begin with "init:" were marked by the container's first process, which works beside its setter-up.
"""

from __future__ import annotations

import json
import os
import time

from berth import trace

_REQUEST, _SENT, _EXECUTED = "request", "sent", "executed"


class LaunchTrace:
    """Writes the lines. Without a path it does nothing. OSError when the file cannot be opened."""

    def __init__(self, path: str = "") -> None:
        self._fd = -1
        if path:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            trace.enable()

    def request(self, id: str) -> None:
        """A container is to be started."""
        if self._fd >= 0:
            trace.take(id)
            trace.mark(_REQUEST, id)

    def launched(self, id: str) -> None:
        """It runs, or has failed to."""
        if self._fd < 0:
            return
        trace.mark("answer", id)
        marks = sorted(trace.take(id), key=lambda mark: mark[1])
        begun = next((at for name, at in marks if name == _REQUEST), 0)
        before = [mark for mark in marks if mark[1] < begun]
        phases = [mark for mark in marks if mark[1] >= begun]
        times = dict(phases)
        line = {"launch": id, "ns": begun, "at": time.time(), "slot": bool(before), "total_us": _us(marks[-1][1] - begun)}
        if _SENT in times and _EXECUTED in times:
            line["launch_us"] = _us(times[_EXECUTED] - times[_SENT])
        self._write({**line, "phases": _since(begun, phases), **({"ahead": _since(before[0][1], before)} if before else {})})

    def ended(self, id: str) -> None:
        """Whoever waited for its end has been told."""
        if self._fd < 0:
            return
        trace.mark("told", id)
        marks = sorted(trace.take(id), key=lambda mark: mark[1])
        total = _us(marks[-1][1] - marks[0][1])
        self._write({"end": id, "ns": marks[0][1], "at": time.time(), "total_us": total, "phases": _since(marks[0][1], marks)})

    def _write(self, line: dict[str, object]) -> None:
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def _us(nanoseconds: int) -> int:
    return nanoseconds // 1000


def _since(begun: int, marks: list[tuple[str, int]]) -> list[list[object]]:
    return [[name, _us(at - begun)] for name, at in marks]
