"""Notices that somebody else has changed the rules of the host (`nft flush ruleset`, a reload of firewalld or ufw)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from struct import unpack_from

from berth.kernel.nfnetlink import NETLINK_NETFILTER

_GROUP_NFTABLES = 1 << 6
_SUBSYSTEM = 10
_NEWSETELEM, _DELSETELEM, _NEWGEN = 12, 14, 15
_SETTLE = 0.25


def concerns_rules(data: bytes) -> bool:
    """Whether a notification tells of tables, chains, rules or sets; not of elements, which change with every container."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = unpack_from("IH", data, offset)
        if kind >> 8 == _SUBSYSTEM and kind & 0xFF not in (_NEWSETELEM, _DELSETELEM, _NEWGEN):
            return True
        offset += max((length + 3) & ~3, 16)
    return False


class RuleWatch:
    """Calls `changed` on the loop a moment after the last of a burst of changes, whoever made them."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        self._socket.bind((0, _GROUP_NFTABLES))
        self._loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        relevant = False
        for _ in range(64):
            try:
                relevant = concerns_rules(self._socket.recv(1 << 16)) or relevant
            except BlockingIOError:
                break
            except OSError:
                # ENOBUFS: messages were lost, so anything may have happened.
                relevant = True
        if relevant:
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_later(_SETTLE, self._changed)

    def close(self) -> None:
        """Stop watching."""
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
