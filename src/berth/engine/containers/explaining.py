"""`berth explain`: why a container is in the state it is in, from what the engine has on record.

Sentences for people, beside the facts that they were made from. What cannot be known (who sent a signal from outside) is
said to be unknown.
"""

from __future__ import annotations

import signal

from msgspec import Struct

from berth.engine.containers.cause import SIGKILL, Cause, Kind
from berth.engine.containers.health import UNHEALTHY
from berth.engine.containers.lifecycle import Status
from berth.engine.containers.record import Container
from berth.model.instant import rfc3339
from berth.model.units import human_binary_size, human_duration

_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT, signal.SIGFPE)
_CRASHED = "The program crashed: its output or a core dump tells where. A program made for another processor does that too."
ENDED = (Status.EXITED, Status.RESTARTING, Status.DEAD, Status.REMOVING)


class CauseFacts(Struct, rename="pascal", kw_only=True):
    """What ended the last run. `kind` is one of engine.containers.cause.Kind."""

    kind: str
    by: str
    signal: str
    at: str
    forced: bool


class Explanation(Struct, rename="pascal", kw_only=True):
    """`summary` is one sentence; `details` and `advice` are more of them, the most telling first."""

    id: str
    name: str
    status: str
    exit_code: int
    started_at: str
    finished_at: str
    restart_count: int
    summary: str
    details: list[str]
    advice: list[str]
    cause: CauseFacts | None


def explain(container: Container) -> Explanation:
    """Of a container in any state."""
    state = container.state
    details: list[str] = []
    advice: list[str] = []
    summary = _summary(container, details, advice)
    _about_restarts(container, details, advice)
    _about_health(container, details, advice)
    return Explanation(
        id=container.id,
        name=container.name,
        status=str(container.status),
        exit_code=state.exit_code,
        started_at=rfc3339(state.started_at),
        finished_at=rfc3339(state.finished_at),
        restart_count=state.restart_count,
        summary=summary,
        details=details,
        advice=advice,
        cause=facts(state.cause) if container.status in ENDED and state.cause is not None else None,
    )


def facts(cause: Cause) -> CauseFacts:
    """As it is told to clients."""
    return CauseFacts(
        kind=str(cause.kind), by=cause.by, signal=signal_name(cause.signal), at=rfc3339(cause.at), forced=cause.forced
    )


def signal_name(number: int) -> str:
    """SIGTERM for 15, "" for 0."""
    if number == 0:
        return ""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _summary(container: Container, details: list[str], advice: list[str]) -> str:
    state, name = container.state, container.name
    if state.error and container.status is not Status.RUNNING:
        details.append(state.error)
        advice.extend(_advice_for_start(state.exit_code))
        return f"{name} could not be started."
    if container.status is Status.CREATED:
        advice.append(f"Start it: berth start {name}")
        return f"{name} was created and has never been started."
    if container.status in (Status.RUNNING, Status.PAUSED):
        since = human_duration(container.running_for()).lower()
        return f"{name} is {container.status}; it was started {since} ago."
    return _end(container, details, advice)


def _advice_for_start(code: int) -> list[str]:
    if code == 127:
        return [
            "The program is not in the image: look at its path and at PATH; "
            "of a script, also whether the interpreter in its first line is there."
        ]
    if code == 126:
        return [
            "The program is there but cannot be run: is it executable (chmod +x), made for this processor, and not a directory?"
        ]
    return []


def _end(container: Container, details: list[str], advice: list[str]) -> str:
    state, name = container.state, container.name
    cause = state.cause
    ran = human_duration(state.ran_for or max(0.0, state.finished_at - state.started_at)).lower()
    details.append(f"It ran for {ran} and ended with exit code {state.exit_code}: {_meaning(state.exit_code, cause)}.")
    if cause is None:
        return f"{name} has ended; what ended it is not on record."
    if cause.kind is Kind.OOM:
        return _out_of_memory(container, advice)
    if cause.kind is Kind.LOST:
        return f"{name} was running when the host went down: its end was found when the engine started again."
    if cause.kind is Kind.SIGNAL:
        return _from_outside(name, cause, advice)
    if cause.kind is Kind.EXIT:
        if state.exit_code == 0:
            advice.append(
                "A container lives as long as its main process. "
                "A service that puts itself into the background ends it: keep it in the foreground."
            )
        elif state.exit_code - 128 in _CRASHES:
            advice.append(_CRASHED)
        else:
            advice.append(f"Nobody stopped it: its own output tells why, berth logs {name}")
        return f"The main process of {name} ended by itself."
    return _on_request(container, cause, details, advice)


def _on_request(container: Container, cause: Cause, details: list[str], advice: list[str]) -> str:
    verb = {
        Kind.STOP: "stopped",
        Kind.RESTART: "stopped for a restart",
        Kind.KILL: "sent a signal",
        Kind.SHUTDOWN: "stopped with the engine",
        Kind.HEALTH: "ended because it was unhealthy",
    }[cause.kind]
    by = f" by {cause.by}" if cause.by else ""
    details.append(f"The signal was {signal_name(cause.signal)}, sent at {rfc3339(cause.at)}.")
    if cause.forced:
        details.append("It did not end in the time it had, so SIGKILL followed: whatever it had not written was lost.")
        advice.append(
            "Let the main process handle the signal (a shell as process 1 ignores it: use exec, or --init), "
            "or give it more time: --stop-timeout, stop_grace_period in Compose."
        )
    return f"{container.name} was {verb}{by}."


def _from_outside(name: str, cause: Cause, advice: list[str]) -> str:
    if cause.signal == SIGKILL:
        advice.append(
            "Look in the host's kernel log for its out-of-memory killer (dmesg | grep -i kill), "
            "and for whoever else kills processes here."
        )
    elif cause.signal in _CRASHES:
        advice.append(_CRASHED)
    return (
        f"{name} was ended by {signal_name(cause.signal)}, which nobody asked berth for: "
        "the program itself, a process beside it, or somebody on the host sent it."
    )


def _out_of_memory(container: Container, advice: list[str]) -> str:
    limit = container.record.host_config.memory or 0
    if limit:
        advice.append(
            f"Give it more (berth update --memory {2 * limit // 2**20}m {container.name}), or let the program use less."
        )
        return f"{container.name} ran out of memory: the kernel killed it at its limit of {human_binary_size(limit)}."
    advice.append("Give it a limit of its own (--memory), so that it is not the host that runs out.")
    return f"{container.name} was killed by the kernel, which had run out of memory; the container has no limit of its own."


def _meaning(code: int, cause: Cause | None) -> str:
    if code == 0:
        return "success"
    if code == 126:
        return "by custom, a command was found but could not be run"
    if code == 127:
        return "by custom, a command was not found"
    if code == 255 and cause is not None and cause.kind is Kind.LOST:
        return "not the program's, which is unknown"
    if 128 < code <= 128 + 64:
        return f"128 and {code - 128}, which stands for {signal_name(code - 128)}"
    return "chosen by the program"


def _about_restarts(container: Container, details: list[str], advice: list[str]) -> None:
    state = container.state
    policy = container.record.host_config.restart_policy
    name = policy.name if policy is not None else ""
    if container.status is Status.RESTARTING:
        at = f"{container.backoff:.1f} s after its end, at {rfc3339(container.next_start)}"
        details.append(f"It is started again {at} (restart policy {name}).")
    if state.restart_count:
        details.append(
            f"It has been restarted {state.restart_count} times by its policy (or for its health) since it was started by hand."
        )
        advice.append("A program that keeps ending needs a look at its output rather than at the policy.")
    elif container.status is Status.EXITED and name in ("always", "unless-stopped") and state.manual_stop:
        details.append(f"Its restart policy {name} is suspended since it was stopped on purpose.")


def _about_health(container: Container, details: list[str], advice: list[str]) -> None:
    health = container.health
    if health is None or not health.log or (health.status != UNHEALTHY and not health.failing_streak):
        return
    last = health.log[-1]
    output = (last.output or "").strip().splitlines()
    details.append(
        f"Its health check has failed {health.failing_streak} times in a row; the last time with {last.exit_code}"
        + (f": {output[-1][:200]}" if output else ".")
    )
    if container.status is Status.RUNNING:
        advice.append(
            f"Run the check by hand: berth exec {container.name} ...; an unhealthy container is restarted for it only with "
            "--health-on-failure restart (label berth.health-on-failure)."
        )
