"""Waiting for containers: conditions of depends_on, and `up --wait`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from berth.client.engine import Engine
from berth.compose.operation import Await
from berth.compose.progress import Progress
from berth.errors import BerthError, DeadlineExceeded
from berth.wire.container import ContainerState

RUNNING = "Running"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5


class DependencyFailed(BerthError):
    """A container will not meet the condition that others wait for."""


def await_service(
    engine: Engine, action: Await, resolve: Callable[[str], str], progress: Progress, cancelled: threading.Event
) -> None:
    """Wait until all containers of a dependency meet its condition. Raises DependencyFailed when one cannot any more."""
    for name in action.containers:
        subject = f"Container {name}"
        progress.step(subject, "Waiting")
        try:
            word = await_container(engine, resolve(name), name, action.condition, cancelled, service=action.service)
        except DependencyFailed as error:
            progress.step(subject, "Error")
            if action.required:
                raise DependencyFailed(f"dependency failed to start: {error.message}") from error
            progress.warn(f"optional dependency {action.service!r} failed to start: {error.message}")
        else:
            progress.step(subject, word)


def await_container(
    engine: Engine,
    container: str,
    name: str,
    condition: str,
    cancelled: threading.Event,
    *,
    service: str = "",
    deadline: float | None = None,
    settled: float = 0.0,
) -> str:
    """Poll until the condition is met; the word for it. `condition` may also be `ready`: running without a health check,
    healthy with one, or ended with 0. Merely running counts from the time `settled` on: what fails at once should be seen."""
    pause = _FIRST_PAUSE
    while True:
        state = engine.containers.inspect(container).state or ContainerState()
        word = _met(state, name, condition, service)
        if word is not None and not (word == RUNNING and time.monotonic() < settled):
            return word
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"timeout waiting for {name}: application not healthy after the time given with --wait-timeout"
            )
        if cancelled.wait(pause):
            raise DependencyFailed("interrupted")
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _met(state: ContainerState, name: str, condition: str, service: str) -> str | None:
    status, code = state.status or "", state.exit_code or 0
    ended = status in ("exited", "dead")
    health = state.health.status if state.health is not None else None
    if condition == "service_completed_successfully":
        if not ended:
            return None
        if code != 0:
            raise DependencyFailed(f"service {service or name!r} didn't complete successfully: exit {code}")
        return "Exited"
    if condition == "service_started":
        return "Started" if status == "running" or ended else None
    if ended and not (condition == "ready" and code == 0):
        raise DependencyFailed(f"container {name} exited ({code})")
    if ended:
        return "Exited"
    if health == "unhealthy":
        raise DependencyFailed(f"container {name} is unhealthy")
    if health in (None, "none", ""):
        if condition == "service_healthy":
            raise DependencyFailed(f"container {name} has no healthcheck configured")
        return RUNNING if status == "running" else None
    return "Healthy" if health == "healthy" else None
