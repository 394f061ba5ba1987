"""Notices that somebody else has changed the rules of the host (`nft flush ruleset`, a reload of firewalld or ufw)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from struct import unpack, unpack_from

from msgspec import Struct

from berth.kernel.netlink import attributes
from berth.kernel.nfnetlink import NETLINK_NETFILTER

_GROUP_NFTABLES = 1 << 6
_SUBSYSTEM = 10
_NEWSETELEM, _DELSETELEM, _NEWGEN = 12, 14, 15
_DELETIONS = (2, 5, 8, 11)
_SETTLE = 0.25
# How long after a deletion of our own rules they are put back: the messages of one transaction come in one go.
_AT_ONCE = 0.005
_NFGENMSG = 4


class Change(Struct, frozen=True, kw_only=True):
    """One transaction of somebody. `generation`: its number, 0 when messages were lost, and it may have been anything; `own`: it
    was about the engine's own table; `gone`: what it said last of that was a deletion. Rules that are replaced go and come in one
    transaction, whose last message is of something new."""

    generation: int
    own: bool
    gone: bool = False


class Notices:
    """Puts notifications together to transactions. Pure."""

    def __init__(self, table: str) -> None:
        self._table = table.encode()
        self._relevant = self._own = self._gone = False

    def feed(self, data: bytes) -> list[Change]:
        """The transactions that end in this piece and that concern tables, chains, rules or sets; not those of elements alone,
        which come with every container."""
        found, offset = [], 0
        while offset + 16 <= len(data):
            length, kind = unpack_from("IH", data, offset)
            if kind >> 8 == _SUBSYSTEM:
                body = data[offset + 16 + _NFGENMSG : offset + length]
                if kind & 0xFF == _NEWGEN:
                    if self._relevant:
                        number = unpack(">I", attributes(body, 0).get(1, bytes(4)))[0]
                        found.append(Change(generation=number, own=self._own, gone=self._gone))
                    self._relevant = self._own = self._gone = False
                elif kind & 0xFF not in (_NEWSETELEM, _DELSETELEM):
                    self._note(kind & 0xFF, body)
            offset += max((length + 3) & ~3, 16)
        return found

    def _note(self, number: int, body: bytes) -> None:
        self._relevant = True
        # The first attribute of each of them is the table's name.
        if attributes(body, 0).get(1, b"").rstrip(b"\0") == self._table:
            self._own, self._gone = True, number in _DELETIONS


class RuleWatch:
    """Calls `changed` on the loop a moment after the last of a burst of changes, whoever made them; nearly at once when rules of
    the engine's own table have gone, since containers are less apart until they are back."""

    def __init__(self, changed: Callable[[list[Change]], None], table: str) -> None:
        self._changed = changed
        self._notices = Notices(table)
        self._pending: list[Change] = []
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        self._socket.bind((0, _GROUP_NFTABLES))
        self._loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        found: list[Change] = []
        for _ in range(64):
            try:
                found += self._notices.feed(self._socket.recv(1 << 16))
            except BlockingIOError:
                break
            except OSError:
                # ENOBUFS: messages were lost, so anything may have happened.
                found.append(Change(generation=0, own=True))
        self._pending += found
        if found and not self._urgent:
            if self._timer:
                self._timer.cancel()
            self._urgent = any(change.gone for change in found)
            self._timer = self._loop.call_later(_AT_ONCE if self._urgent else _SETTLE, self._call)

    def _call(self) -> None:
        self._urgent = False
        changes, self._pending = self._pending, []
        self._changed(changes)

    def close(self) -> None:
        """Stop watching."""
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
