"""Init between its clone and the steps of its container: what it does ahead, and what it is told by the setter-up. Lean."""

from __future__ import annotations

import os

from berth import trace
from berth.kernel import process
from berth.runtime import ahead, cgroup, init
from berth.runtime.failure import record
from berth.runtime.message import receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from typing import Any, NoReturn

    from berth.kernel.memory import Habit
    from berth.runtime.init import Step

    Plan = dict[str, Any]


def needs_joiner(plan: Plan) -> bool:
    """Only children are in a joined pid namespace, or in a new time namespace."""
    return bool(plan["namespaces"]["join"]) or plan["time"] is not None


def begin(plan: Plan, early: list[Step], sock: Socket, program: bytes, habit: Habit | None) -> NoReturn:
    """Init's first instructions: nobody inside may look into this process until execve (CVE-2016-9962).

    What needs no mounts from outside it does while the setter-up prepares them. `habit` is given to an init that is started
    ahead of its launch.
    """
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        trace.take()
        trace.mark("cloned")
        state = init.Init(sock, None, {})
        state.habit = habit
        if habit is not None:
            habit.watch()
        # Where a joiner cloned it, it is in its groups.
        failed = None if needs_joiner(plan) else _enter_groups(plan["cgroup"])
        # While we still are who may pass through the data root: the container's root may not.
        state.place = os.open(plan["scratch"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        trace.mark("groups")
        value, fds = _await(sock)
        _take_sources(state, value["early"], fds)
        failed = failed or ahead.run(early, state)
        trace.mark("early")
        if habit is not None:
            habit.prepare()
        send(sock, {"ready": True} if failed is None else {"failed": failed})
        value, fds = _await(sock)
        if failed is not None:
            # That has been said instead of "ready".
            os._exit(127)
        if value.get("more"):
            _take_sources(state, value["go"], fds)
            init.carry_out(value["steps"], state)
            value, fds = _await(sock)
        if value["stdio"]:
            state.stdio = (fds.pop(0), fds.pop(0), fds.pop(0))
        _take_sources(state, value["go"], fds)
        trace.mark("received")
        steps = ahead.with_program(value["steps"], program)
    except BaseException:
        os._exit(127)
    init.run(steps, state)


def _await(sock: Socket) -> tuple[dict[str, Any], list[int]]:
    """The next message; this process ends when none comes any more."""
    answer = receive(sock)
    if answer is None:
        os._exit(127)
    return answer


def _take_sources(state: init.Init, shape: dict[int, list[tuple[str, bool]]], fds: list[int]) -> None:
    numbers = iter(fds)
    for index, parts in shape.items():
        state.sources[index] = [(below, next(numbers), is_directory) for below, is_directory in parts]


def _enter_groups(group: dict[str, Any]) -> list[str | int] | None:
    try:
        cgroup.enter_v1(group)
    except OSError as error:
        return record("cgroup", error)
    return None
