"""How a process has ended, learned from its pidfd."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from berth.kernel.pidfd import wait_status

KEEPS_STATUS = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 15)


@contextmanager
def ended(code: int) -> Iterator[tuple[int, int]]:
    """The pid and pidfd of a child that has ended and is not reaped: with the code, or by the signal -code."""
    pid = os.fork()
    if pid == 0:
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)
    pidfd = os.pidfd_open(pid)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        yield pid, pidfd
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("code", [0, 7, -signal.SIGKILL])
def test_a_zombie_tells_how_it_ended(code: int) -> None:
    with ended(code) as (pid, pidfd):
        found = wait_status(pidfd)
        os.waitpid(pid, 0)
    assert found is not None and os.waitstatus_to_exitcode(found) == code


@pytest.mark.parametrize("code", [0, 7, -signal.SIGKILL])
def test_one_that_somebody_has_reaped(code: int) -> None:
    with ended(code) as (pid, pidfd):
        os.waitpid(pid, 0)
        found = wait_status(pidfd)
    if KEEPS_STATUS:
        assert found is not None and os.waitstatus_to_exitcode(found) == code
    else:
        assert found is None
