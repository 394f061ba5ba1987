"""Signals by name or number, as Docker's clients write them."""

from __future__ import annotations

import signal

from berth.errors import InvalidArgument


def parse_signal(text: str) -> int:
    """9, KILL, SIGKILL, sigkill, RTMIN+3 ... as a number."""
    number = int(text) if text.isdigit() else _by_name(text.upper().removeprefix("SIG"))
    if number > 64:
        raise InvalidArgument(f"the linux daemon does not support signal {number}")
    if number < 1:
        raise InvalidArgument(f"invalid signal: {text}")
    return number


def _by_name(name: str) -> int:
    for edge, sign in (("RTMIN", 1), ("RTMAX", -1)):
        rest = name.removeprefix(edge)
        if rest != name and (not rest or rest[1:].isdigit()):
            # The C library keeps two real-time signals for itself; RTMIN is 34 for programs.
            return int(signal.SIGRTMIN if sign > 0 else signal.SIGRTMAX) + (int(rest) if rest else 0)
    found = getattr(signal, "SIG" + name, None) if name.isalnum() else None
    return int(found) if isinstance(found, signal.Signals) else 0
