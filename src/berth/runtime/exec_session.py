"""The end of an exec's processes with their client: a session (setsid) of processes is told to hang up, then killed. Lean code.

Each exec begins a session of its own, so what it started is found also when its parents have gone. What has made another
session for itself, as daemons do, goes on.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

_SIGHUP, _SIGKILL, _SIGCONT = 1, 9, 18
_SESSION = 3


def _session_of(pid: int) -> int:
    """0 when there is no such process. The field is behind the name, which may have any character (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[_SESSION])
    except (OSError, IndexError):
        return 0


def members(leader: int) -> list[int]:
    """Pidfds of all processes of the session that `leader` began, which the caller closes."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or _session_of(int(name)) != leader:
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        # The number may have become another process's before it was pinned.
        if _session_of(int(name)) == leader:
            found.append(pidfd)
        else:
            os.close(pidfd)
    return found


def hang_up(pidfds: list[int]) -> None:
    """As when a terminal is closed; those that are stopped go on, so that they notice."""
    _send(pidfds, _SIGHUP)
    _send(pidfds, _SIGCONT)


def kill(pidfds: list[int]) -> None:
    """Whatever they do."""
    _send(pidfds, _SIGKILL)


def _send(pidfds: list[int], number: int) -> None:
    for pidfd in pidfds:
        try:
            _signal.pidfd_send_signal(pidfd, number)
        except OSError:
            # It has ended.
            pass
