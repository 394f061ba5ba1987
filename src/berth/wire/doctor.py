"""What `berth doctor --format json` prints. Fields may be added; those that are here keep their names and meaning.

`version` counts changes that a reader would have to follow.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

VERSION = 1
Severity = Literal["ok", "note", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "problem")
"""From the best to the worst. note: good to know; warning: something is weaker or more open than it could be; problem:
something does not work, is damaged, or gives the host away."""


class CheckInfo(Struct, frozen=True, kw_only=True):
    """A check that there is: `name` is section.subject, `deep` ones run only when asked for."""

    name: str
    title: str
    deep: bool = False


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that a check found.

    `summary` is what is so, in one line; `why` what that means for containers; `change` the command or the setting that
    changes it, empty when there is nothing to do. `facts` are the values behind it, by stable names of each check.
    """

    check: str
    severity: Severity
    summary: str
    why: str = ""
    change: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class EngineFacts(Struct, frozen=True, kw_only=True):
    """Which engine the report is about. `root` is its data root, empty when that is not known."""

    address: str
    running: bool
    root: str = ""


class Report(Struct, frozen=True, kw_only=True):
    """A whole diagnosis. `worst` is the highest severity among the findings."""

    version: int = VERSION
    time: str
    host: str
    as_root: bool
    engine: EngineFacts
    checks: list[CheckInfo]
    findings: list[Finding]
    counts: dict[str, int]
    worst: Severity
