"""What an engine that was killed did not come to tell: events that belong to its last records, told by the next one.

A record is written before its event is told, so a kill in between leaves a container that runs and was never started, for whoever
listens. The events that are kept say what was told last; the records say what was true. What happened before the first of them
was told: a kill swallows only the latest.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence

from berth.engine.containers.lifecycle import HAS_TASK, Status
from berth.engine.containers.parts import Parts
from berth.engine.containers.record import Container
from berth.wire.system import EventMessage

_RUNS = ("start", "pause", "unpause", "die")
# What single events add to the attributes of a container.
_EXTRA = ("execID", "exitCode", "execDuration", "signal", "oldName", "comment", "imageID", "imageRef")


class Told:
    """The events of containers that earlier engines told."""

    def __init__(self, kept: Sequence[EventMessage]) -> None:
        self._from = (kept[0].time_nano or 0) if kept else sys.maxsize
        self._of: dict[str, list[EventMessage]] = defaultdict(list)
        for message in kept:
            if message.type == "container" and message.actor is not None and message.actor.id:
                self._of[message.actor.id].append(message)

    def of(self, container_id: str) -> list[EventMessage]:
        """Those of one container, oldest first."""
        return self._of.get(container_id, [])

    def covers(self, moment: float) -> bool:
        """Whether what happened at that moment (seconds) would be among what is kept."""
        return moment * 1e9 >= self._from

    def lacks_exec(self, container_id: str, execution: str, action: str) -> bool:
        """The same of an exec whose creation is among what is kept."""
        actions = {
            (message.action or "").partition(":")[0]
            for message in self.of(container_id)
            if message.actor is not None and (message.actor.attributes or {}).get("execID") == execution
        }
        return "exec_create" in actions and action not in actions

    def last_run(self, container_id: str) -> str:
        """What was told last of its run; "" when that is not known."""
        return next((m.action or "" for m in reversed(self.of(container_id)) if m.action in _RUNS), "")

    def not_destroyed(self, known: set[str]) -> list[EventMessage]:
        """The last event of each container that has gone without a word."""
        return [own[-1] for key, own in self._of.items() if key not in known and all(m.action != "destroy" for m in own)]


def make_up(parts: Parts, containers: Iterable[Container]) -> None:
    """Tell what is missing. The records are as the earlier engine left them, but for starts that it did not come to record."""
    told, known = Told(parts.events.kept), set()
    for container in containers:
        known.add(container.id)
        _make_up_one(parts, told, container)
    for message in told.not_destroyed(known):
        assert message.actor is not None
        attributes = {name: value for name, value in (message.actor.attributes or {}).items() if name not in _EXTRA}
        parts.events.publish("container", "destroy", message.actor.id or "", attributes)


def _make_up_one(parts: Parts, told: Told, container: Container) -> None:
    state, events = container.state, told.of(container.id)
    new = any(message.action == "create" for message in events)
    last = told.last_run(container.id)
    if not events and told.covers(container.record.created):
        parts.emit(container, "create")
        new = True
    not_told = last == "die" or (not last and (new or told.covers(state.started_at)))
    if state.status in HAS_TASK and not_told:
        parts.emit(container, "start")
        last = "start"
    if state.status is Status.PAUSED and last in ("start", "unpause"):
        parts.emit(container, "pause")
    elif state.status is Status.RUNNING and last == "pause":
        parts.emit(container, "unpause")
    elif state.status in (Status.EXITED, Status.RESTARTING) and last not in ("die", ""):
        parts.emit(container, "die", {"exitCode": str(state.exit_code), "execDuration": str(int(state.ran_for))})
