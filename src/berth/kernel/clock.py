"""The system clock."""

from __future__ import annotations

import ctypes

from berth.kernel.libc import check, libc

_TIME_ERROR = 5
_TIMEX_SIZE = 208


def is_synchronised() -> bool:
    """Whether somebody (NTP, PTP, the hypervisor) keeps the clock right: adjtimex(2), which only asks here."""
    return check(libc.adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE)), "adjtimex") != _TIME_ERROR
