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
_DELETIONS = (2, 5, 8, 11)
_SETTLE = 0.25
# How long after a deletion of our own rules they are put back: the messages of one transaction come in one go.
_AT_ONCE = 0.005
_NFGENMSG = 4


def concerns_rules(data: bytes) -> bool:
    """Whether a notification tells of tables, chains, rules or sets; not of elements, which change with every container."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = unpack_from("IH", data, offset)
        if kind >> 8 == _SUBSYSTEM and kind & 0xFF not in (_NEWSETELEM, _DELSETELEM, _NEWGEN):
            return True
        offset += max((length + 3) & ~3, 16)
    return False


def takes_away(data: bytes, table: str) -> bool | None:
    """Whether the last notification about the table (its elements aside) tells of a deletion; None when there is none.

    Rules that are replaced go and come in one transaction: its last message is of something new.
    """
    found, offset = None, 0
    while offset + 16 <= len(data):
        length, kind = unpack_from("IH", data, offset)
        number = kind & 0xFF
        told = kind >> 8 == _SUBSYSTEM and number not in (_NEWSETELEM, _DELSETELEM, _NEWGEN)
        if told and length >= 20 + _NFGENMSG:
            # The first attribute of each of them is the table's name.
            size, attribute = unpack_from("HH", data, offset + 16 + _NFGENMSG)
            name = data[offset + 20 + _NFGENMSG : offset + 16 + _NFGENMSG + size]
            if attribute & 0x3FFF == 1 and name.rstrip(b"\0") == table.encode():
                found = number in _DELETIONS
        offset += max((length + 3) & ~3, 16)
    return found


class RuleWatch:
    """Calls `changed` on the loop a moment after the last of a burst of changes, whoever made them; nearly at once when rules of
    the engine's own table have gone, since containers are less apart until they are back."""

    def __init__(self, changed: Callable[[], None], table: str) -> None:
        self._changed = changed
        self._table = table
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        self._socket.bind((0, _GROUP_NFTABLES))
        self._loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        relevant, gone = False, False
        for _ in range(64):
            try:
                data = self._socket.recv(1 << 16)
                relevant = concerns_rules(data) or relevant
                last = takes_away(data, self._table)
                gone = gone if last is None else last
            except BlockingIOError:
                break
            except OSError:
                # ENOBUFS: messages were lost, so anything may have happened.
                relevant = True
        if relevant and not self._urgent:
            if self._timer:
                self._timer.cancel()
            self._urgent = gone
            self._timer = self._loop.call_later(_AT_ONCE if gone else _SETTLE, self._call)

    def _call(self) -> None:
        self._urgent = False
        self._changed()

    def close(self) -> None:
        """Stop watching."""
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
