"""What init does before it has the mounts that are opened outside: the setter-up prepares those meanwhile. Lean."""

from __future__ import annotations

from berth.runtime.failure import record
from berth.runtime.init import STEPS, make_filesystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.runtime.init import Init, Step

# The messages that init waits for before it gets its mounts: each permits the step of that name.
STAGES = ("identity", "network")


def with_program(steps: list[Any], program: bytes) -> list[Step]:
    """The steps with the compiled filter, which travels apart from them."""
    return [(name, {**arguments, "program": program} if name == "seccomp" else arguments) for name, arguments in steps]


def run(stage: str, steps: list[Step], state: Init) -> list[str | int] | None:
    """Carry out the step `stage` if it is the first of the list, and take it off; what failed, as a record, or None.

    After the last stage the filesystems of our own are made too.
    """
    try:
        if steps and steps[0][0] == stage:
            step, arguments = steps.pop(0)
            STEPS[step](state, **arguments)
        if stage == STAGES[-1]:
            _make_filesystems(steps, state)
    except BaseException as error:
        return record(stage, error)
    return None


def _make_filesystems(steps: list[Step], state: Init) -> None:
    for step, arguments in steps:
        target = arguments.get("target", "")
        if step == "mount" and target not in state.made:
            try:
                state.made[target] = make_filesystem(**{key: value for key, value in arguments.items() if key != "target"})
            except OSError:
                # Its own step fails in the same way, at the right time.
                return
