"""What an engine tells of its containers, put together over its deaths, and whether it can have happened in that order."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import defaultdict
from contextlib import suppress
from typing import Any

Event = dict[str, Any]
# What an event says of a container's life: from which states it may come, and to which it leads. Events that are not here say
# nothing of it, but for `kill` and its like, which need a container that is there.
_LIFE: dict[str, tuple[frozenset[str], str]] = {
    "create": (frozenset({""}), "down"),
    "start": (frozenset({"down"}), "up"),
    "pause": (frozenset({"up"}), "paused"),
    "unpause": (frozenset({"paused"}), "up"),
    "die": (frozenset({"up", "paused"}), "down"),
    "destroy": (frozenset({"down"}), "gone"),
}
_NEEDS_RUN = ("kill", "oom", "exec_start")


class Listener(threading.Thread):
    """Listens to GET /events for good; where a connection ends it asks for what came since."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self._path = path
        self._seen: set[str] = set()
        self._over = threading.Event()
        self._socket: socket.socket | None = None

    def run(self) -> None:
        """Until `close`."""
        since = "0"
        while not self._over.is_set():
            with suppress(OSError, http.client.HTTPException, ValueError):
                self._listen(since)
            if self.events:
                nanoseconds = self.events[-1]["timeNano"]
                since = f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
            self._over.wait(0.02)

    def _listen(self, since: str) -> None:
        connection = http.client.HTTPConnection("engine")
        connection.sock = self._socket = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(self._path)
            connection.request("GET", f"/events?since={since}")
            for line in connection.getresponse():
                if line not in self._seen:
                    self._seen.add(line)
                    self.events.append(json.loads(line))
        finally:
            connection.close()

    def close(self) -> None:
        """End it."""
        self._over.set()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self.join(10)


def disorder(events: list[Event]) -> list[str]:
    """What cannot have happened in this order."""
    wrong: list[str] = []
    of: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["Type"] == "container" and event["Actor"]["ID"]:
            of[event["Actor"]["ID"]].append(event)
    for identifier, own in of.items():
        wrong += [f"container {identifier[:12]}: {fault}; it was told: {_line(own)}" for fault in _of_one(own)]
    return wrong


def _of_one(events: list[Event]) -> list[str]:
    state, faults, execs = "", [], set()
    for event in events:
        action = event["Action"].partition(":")[0]
        if state == "gone":
            faults.append(f"{action} after destroy")
        elif action in _LIFE:
            before, after = _LIFE[action]
            if state not in before:
                faults.append(f"{action} of a container that is {state or 'unknown'}")
            state = after
        elif not state or (action in _NEEDS_RUN and state == "down"):
            faults.append(f"{action} of a container that is {state or 'unknown'}")
        identifier = event["Actor"]["Attributes"].get("execID")
        if action == "exec_start":
            execs.add(identifier)
        elif action == "exec_die" and identifier not in execs:
            faults.append("exec_die without exec_start")
    return faults


def _line(events: list[Event]) -> str:
    shown = (f"{event['Action'].partition(':')[0]}@{event['timeNano'] / 1e9:.3f}" for event in events)
    return ", ".join(shown) + f" ({events[-1]['Actor']['Attributes'].get('name')})"


def exit_codes(events: list[Event]) -> dict[str, list[int]]:
    """What was told of the ends of each container."""
    found: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event["Type"] == "container" and event["Action"] == "die":
            found[event["Actor"]["ID"]].append(int(event["Actor"]["Attributes"]["exitCode"]))
    return found
