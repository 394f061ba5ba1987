"""Where the time of a launch goes: marks, each a name and a time, in every process that takes part.

    trace.mark("links")              in a process that makes one container
    trace.mark("attached", id)       in the engine, which makes many

Off, a mark is one test of an empty list. On is what `enable` was called in, and what is forked from there. The times are of
one clock, so the engine can put the marks of all processes in order (`berth.engine.launch_trace`). Lean code: launcher, shims
and the first processes of containers come by here.
"""

from __future__ import annotations

from time import monotonic_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    Marks = list[tuple[str, int]]

# The marks by container; there is one such switch for all of a process's code.
_TAKEN: list[dict[str, Marks]] = []


def enable() -> None:
    """From now on marks count in this process; those that it inherited are forgotten."""
    _TAKEN[:] = [{}]


def is_on() -> bool:
    """Whether marks count here."""
    return bool(_TAKEN)


def mark(name: str, id: str = "") -> None:
    """The running code has done what `name` says."""
    if _TAKEN:
        _TAKEN[0].setdefault(id, []).append((name, monotonic_ns()))


def add(marks: Marks, id: str = "") -> None:
    """Marks of another process."""
    if _TAKEN and marks:
        _TAKEN[0].setdefault(id, []).extend((name, at) for name, at in marks)


def take(id: str = "") -> Marks:
    """The marks so far, which are forgotten here."""
    return _TAKEN[0].pop(id, []) if _TAKEN else []
