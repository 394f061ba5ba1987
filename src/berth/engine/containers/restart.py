"""Restart policies: whether and when a container that ended is started again. Pure."""

from __future__ import annotations

from berth.model.extension import Settings
from berth.wire.container import RestartPolicy


def should_restart(policy: RestartPolicy | None, exit_code: int, restart_count: int, *, manual_stop: bool) -> bool:
    """After an exit. A container that the user stopped stays down."""
    name = (policy.name if policy else None) or "no"
    if manual_stop or name == "no":
        return False
    if name == "on-failure":
        limit = (policy.maximum_retry_count if policy else None) or 0
        return exit_code != 0 and (limit == 0 or restart_count < limit)
    return name in ("always", "unless-stopped")


def should_start_at_boot(policy: RestartPolicy | None, exit_code: int, *, manual_stop: bool, was_running: bool) -> bool:
    """When the engine starts and the container does not run: `always` forgets that it was stopped by hand."""
    name = (policy.name if policy else None) or "no"
    if name == "always":
        return True
    if name == "unless-stopped":
        return not manual_stop
    return name == "on-failure" and was_running and exit_code != 0 and not manual_stop


def next_delay(previous: float, ran_for: float, settings: Settings) -> float:
    """Seconds to wait: as Docker 100 ms, doubled each time up to a minute, and 100 ms again after a good run."""
    if previous <= 0 or ran_for >= settings.restart_window:
        return min(settings.restart_delay, settings.restart_max_delay)
    return min(previous * settings.restart_factor, settings.restart_max_delay)
