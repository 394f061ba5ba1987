"""When a container counts as ready, and when it never will."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from berth.compose.waiting import DependencyFailed, await_container
from berth.errors import DeadlineExceeded
from berth.wire.container import ContainerState
from berth.wire.health import Health


def _engine(*states: ContainerState) -> Any:
    """An engine whose container goes through these states, one an inspection, and stays in the last."""
    left = list(states)

    def inspect(_name: str) -> Any:
        return SimpleNamespace(state=left.pop(0) if len(left) > 1 else left[0])

    return SimpleNamespace(containers=SimpleNamespace(inspect=inspect))


def _wait(condition: str, *states: ContainerState, **options: float) -> str:
    return await_container(_engine(*states), "id", "c", condition, threading.Event(), **options)  # type: ignore[arg-type]


RUNNING = ContainerState(status="running")
DONE = ContainerState(status="exited", exit_code=0)
FAILED = ContainerState(status="exited", exit_code=2)


def _health(word: str) -> ContainerState:
    return ContainerState(status="running", health=Health(status=word))


@pytest.mark.parametrize(
    ("condition", "states", "word"),
    [
        ("service_healthy", (_health("starting"), _health("healthy")), "Healthy"),
        ("service_completed_successfully", (RUNNING, DONE), "Exited"),
        ("service_started", (ContainerState(status="created"), RUNNING), "Started"),
        ("ready", (RUNNING,), "Running"),
        ("ready", (_health("starting"), _health("healthy")), "Healthy"),
        ("ready", (RUNNING, DONE), "Running"),
        ("ready", (DONE,), "Exited"),
    ],
)
def test_conditions_that_are_met(condition: str, states: tuple[ContainerState, ...], word: str) -> None:
    assert _wait(condition, *states) == word


@pytest.mark.parametrize(
    ("condition", "state", "message"),
    [
        ("service_healthy", _health("unhealthy"), "container c is unhealthy"),
        ("service_healthy", RUNNING, "container c has no healthcheck configured"),
        ("service_healthy", DONE, r"container c exited \(0\)"),
        ("service_completed_successfully", FAILED, "didn't complete successfully: exit 2"),
        ("ready", FAILED, r"container c exited \(2\)"),
    ],
)
def test_conditions_that_cannot_be_met(condition: str, state: ContainerState, message: str) -> None:
    with pytest.raises(DependencyFailed, match=message):
        _wait(condition, state)


def test_what_fails_at_once_is_not_taken_for_running() -> None:
    with pytest.raises(DependencyFailed, match="exited"):
        _wait("ready", RUNNING, FAILED, settled=time.monotonic() + 5)


def test_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match="timeout waiting for c"):
        _wait("ready", _health("starting"), deadline=time.monotonic() - 1)
