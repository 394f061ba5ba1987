"""Why a run ended: what was asked of the engine before, put together with how the process ended."""

from __future__ import annotations

import time
from enum import StrEnum

from msgspec import Struct

from berth.contract.runtime import Exit

SIGKILL = 9


class Kind(StrEnum):
    """What ended a run."""

    STOP = "stop"
    RESTART = "restart"
    KILL = "kill"
    SHUTDOWN = "shutdown"
    HEALTH = "health"
    OOM = "oom"
    SIGNAL = "signal"
    EXIT = "exit"
    LOST = "lost"


class Cause(Struct, kw_only=True, omit_defaults=True):
    """`by` is the client that asked, as the API server knows it. `signal` is the one that was asked for, or that ended the
    process. `at`: seconds since the epoch. `forced`: SIGKILL had to follow, for the process did not heed the signal."""

    kind: Kind
    by: str = ""
    signal: int = 0
    at: float = 0.0
    forced: bool = False


def asked(kind: Kind, by: str, signal: int) -> Cause:
    """Somebody asks for the end now."""
    return Cause(kind=kind, by=by, signal=signal, at=time.time())


def concluded(before: Cause | None, ended: Exit) -> Cause:
    """The cause of an end, given what was asked for before it.

    A signal sent through the API that the process has survived (a reload, say) is not the cause of a later end.
    """
    if ended.oom_killed:
        return Cause(kind=Kind.OOM, signal=ended.signal, at=ended.at)
    if before is not None and (before.kind is not Kind.KILL or ended.signal == before.signal or _heeded(before, ended)):
        return before
    if ended.signal:
        return Cause(kind=Kind.SIGNAL, signal=ended.signal, at=ended.at)
    return Cause(kind=Kind.EXIT, at=ended.at)


# A program that ends by itself on SIGTERM or SIGINT does so soon; seconds.
_SOON = 10.0


def _heeded(before: Cause, ended: Exit) -> bool:
    return ended.signal == 0 and ended.at - before.at <= _SOON
