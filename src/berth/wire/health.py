"""Health checks and their results.

Field names on the wire are Docker's; attributes are their snake_case. Every field is optional, as a client may leave
out or null any of them; a field that is None is not written. Source: Engine API 1.55.
"""

from __future__ import annotations

from msgspec import Struct, field


class HealthConfig(Struct, kw_only=True, omit_defaults=True):
    """A test to perform to check that the container is healthy. Healthcheck commands should be side-effect free."""

    test: list[str] | None = field(name="Test", default=None)
    interval: int | None = field(name="Interval", default=None)
    timeout: int | None = field(name="Timeout", default=None)
    retries: int | None = field(name="Retries", default=None)
    start_period: int | None = field(name="StartPeriod", default=None)
    start_interval: int | None = field(name="StartInterval", default=None)


class HealthcheckResult(Struct, kw_only=True, omit_defaults=True):
    """HealthcheckResult stores information about a single run of a healthcheck probe."""

    start: str | None = field(name="Start", default=None)
    end: str | None = field(name="End", default=None)
    exit_code: int | None = field(name="ExitCode", default=None)
    output: str | None = field(name="Output", default=None)


class Health(Struct, kw_only=True, omit_defaults=True):
    """Health stores information about the container's healthcheck results."""

    status: str | None = field(name="Status", default=None)
    failing_streak: int | None = field(name="FailingStreak", default=None)
    log: list[HealthcheckResult] | None = field(name="Log", default=None)
