"""The states of a container and the moves between them: the one place that says what is legal.

    created ──> running <──> paused
       │          │ ^          │
       │          v │          v
       │       restarting <────┤      exited ──> running
       v          v            v         │
    removing <────┴── exited <─┘         v
       │                              removing ──> gone, or dead when the removal failed
       └──> dead ──> removing

What the API shows as booleans (Running, Paused, Restarting, Dead) is a projection of the status and is never stored.
"""

from __future__ import annotations

from enum import StrEnum

from berth.errors import Conflict, Internal


class Status(StrEnum):
    """A container's state; the values are Docker's words."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    DEAD = "dead"
    REMOVING = "removing"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.CREATED: frozenset({Status.RUNNING, Status.REMOVING}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.RESTARTING, Status.EXITED}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.RESTARTING, Status.EXITED}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.EXITED: frozenset({Status.RUNNING, Status.REMOVING}),
    Status.REMOVING: frozenset({Status.DEAD, Status.EXITED, Status.CREATED}),
    Status.DEAD: frozenset({Status.REMOVING}),
}
"""`removing` goes back to `exited` or `created` only when the removal was refused before anything was removed."""

HAS_TASK = frozenset({Status.RUNNING, Status.PAUSED})
COUNTS_AS_RUNNING = frozenset({Status.RUNNING, Status.PAUSED, Status.RESTARTING})


def check_transition(old: Status, new: Status) -> None:
    """Internal when the move is not in the table."""
    if new not in TRANSITIONS[old]:
        raise Internal(f"a container cannot go from {old} to {new}")


def is_running(status: Status) -> bool:
    """State.Running: also while paused, and while it waits to be restarted."""
    return status in COUNTS_AS_RUNNING


def require_task(identifier: str, status: Status) -> None:
    """Conflict, in Docker's words, unless there is a process that is not frozen."""
    if status is Status.PAUSED:
        raise Conflict(f"container {identifier} is paused, unpause the container before exec")
    if status is Status.RESTARTING:
        raise Conflict(f"Container {identifier} is restarting, wait until the container is running")
    if status is not Status.RUNNING:
        raise Conflict(f"container {identifier} is not running")
