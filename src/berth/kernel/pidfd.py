"""What a pidfd still tells of a process that has ended, to somebody who is not its parent."""

from __future__ import annotations

import fcntl
import time
from struct import pack_into, unpack_from

# struct pidfd_info (linux/pidfd.h): mask first, the wait status last in its first version, which has 64 bytes.
_SIZE = 64
_GET_INFO = 3 << 30 | _SIZE << 16 | 0xFF << 8 | 11
_INFO_EXIT = 1 << 3
_STATUS_AT = 60
_PAUSE = 0.005
# Between the end of a process and its reaping it may be shown by neither.
_PATIENCE = 0.2


def wait_status(pidfd: int) -> int | None:
    """How a process that has ended, and that somebody else reaps, ended: a wait status, as of wait(2). None when that is lost.

    Linux 6.15 and later keep it for whoever had a pidfd before the process was reaped. Until then it is in /proc, on any.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        status = _of_reaped(pidfd)
        if status is None:
            status = _of_zombie(pidfd)
        if status is not None or time.monotonic() > deadline:
            return status
        time.sleep(_PAUSE)


def _of_reaped(pidfd: int) -> int | None:
    info = bytearray(_SIZE)
    pack_into("Q", info, 0, _INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        # ESRCH: reaped, and this kernel does not keep it. ENOTTY or EINVAL: it does not know the question.
        return None
    known, status = unpack_from("Q", info)[0], unpack_from("i", info, _STATUS_AT)[0]
    return int(status) if known & _INFO_EXIT else None


def _of_zombie(pidfd: int) -> int | None:
    """The last field of /proc/PID/stat, which shows it to root."""
    pid = _number(pidfd)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # A process that is not reaped keeps its number, so what was read was about this one.
    return int(fields[-1]) if fields[0] == b"Z" and _number(pidfd) == pid else None


def _number(pidfd: int) -> int:
    """Its process id; -1 once it is reaped."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
