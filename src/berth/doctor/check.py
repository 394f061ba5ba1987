"""What a check is, what it looks at, and how it says what it found.

A check is a function from a `Scene` to findings. It names no severity of its own accord for what it could not see: it
raises `NeedsRoot`, and `registry.examine` turns that, and errors of reading, into findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from berth.doctor.host import Host
from berth.doctor.probe import Probes
from berth.errors import BerthError
from berth.wire.container import ContainerInspectResponse
from berth.wire.doctor import Finding, Severity

Facts = Mapping[str, Any]


class NeedsRoot(Exception):
    """What only root can see; the argument says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What a running engine said of itself. `info` is GET /info as it came; `pid` is 0 for an engine on another host."""

    info: Mapping[str, Any]
    pid: int = 0
    containers: tuple[ContainerInspectResponse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What checks look at. `root` is the data root, `run` the run directory, `socket` empty for an engine elsewhere;
    without `engine`, `refusal` says why it does not answer. `named`: the user said which engine, so it should be there."""

    host: Host
    probes: Probes
    root: str
    run: str
    address: str
    socket: str = ""
    engine: Running | None = None
    refusal: BerthError | None = None
    named: bool = False

    def need_root(self, what: str) -> None:
        """Raises NeedsRoot for another user."""
        if not self.host.is_root():
            raise NeedsRoot(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`name` is section.subject. With `of_engine` it looks at an engine that answers; the others at this machine."""

    name: str
    title: str
    run: Callable[[Scene], Iterable[Finding]] = field(repr=False)
    deep: bool = False
    of_engine: bool = False

    @property
    def section(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


def _finding(severity: Severity, summary: str, why: str, change: str, facts: Facts | None) -> Finding:
    return Finding(check="", severity=severity, summary=summary, why=why, change=change, facts=dict(facts or {}))


def ok(summary: str, *, why: str = "", facts: Facts | None = None) -> Finding:
    """As it should be. `registry.examine` adds the check's name."""
    return _finding("ok", summary, why, "", facts)


def note(summary: str, *, why: str = "", change: str = "", facts: Facts | None = None) -> Finding:
    """Good to know."""
    return _finding("note", summary, why, change, facts)


def warning(summary: str, *, why: str = "", change: str = "", facts: Facts | None = None) -> Finding:
    """Weaker or more open than it could be."""
    return _finding("warning", summary, why, change, facts)


def problem(summary: str, *, why: str = "", change: str = "", facts: Facts | None = None) -> Finding:
    """Does not work, is damaged, or gives the host away."""
    return _finding("problem", summary, why, change, facts)


def listed(names: Iterable[str], most: int = 6) -> str:
    """`a, b, c and 4 more`."""
    found = list(names)
    if len(found) <= most:
        return ", ".join(found)
    return f"{', '.join(found[:most])} and {len(found) - most} more"
