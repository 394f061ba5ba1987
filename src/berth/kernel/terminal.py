"""Terminals: a pty pair from a given devpts, its size, the controlling terminal."""

from __future__ import annotations

import errno
import fcntl
import os
from struct import pack

_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_pair(devpts_fd: int) -> tuple[int, int]:
    """(master, slave) of a new pty in the devpts mounted at `devpts_fd`.

    The slave comes from the master by TIOCGPTPEER, never by name: names in a container's /dev/pts can be swapped.
    """
    master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=devpts_fd)
    try:
        if os.fstat(master).st_rdev != os.makedev(5, 2):
            raise OSError(errno.ENODEV, "not a pty master", "ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    return master, slave


def set_size(fd: int, height: int, width: int) -> None:
    """The window size, in characters."""
    fcntl.ioctl(fd, _TIOCSWINSZ, pack("4H", height, width, 0, 0))


def make_controlling(fd: int) -> None:
    """This session's controlling terminal."""
    fcntl.ioctl(fd, _TIOCSCTTY, 0)
