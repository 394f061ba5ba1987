"""The control socket of a helper process: SEQPACKET, peers of uid 0 only, one JSON document per message with descriptors."""

from __future__ import annotations

import json
import os
import socket
import struct
from array import array

from berth.kernel.capability import capset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from berth.network.reactor import Reactor

    Obey = Callable[[int, dict[str, object], Sequence[int]], tuple[int, ...]]

_PEERCRED = struct.Struct("3i")
_NOBODY = 65534


class Control:
    """Calls `obey(peer, message, descriptors)`, which returns the descriptors that it keeps, and `left(peer)` at a peer's end.

    A peer is known by the number of its connection's descriptor.
    """

    def __init__(self, reactor: Reactor, listener: socket.socket, obey: Obey, left: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._listener = listener
        self._obey = obey
        self._left = left
        self._peers: dict[int, socket.socket] = {}
        listener.setblocking(False)
        reactor.watch(listener.fileno(), self._accept)

    def has(self, peer: int) -> bool:
        """Whether the number is that of a peer."""
        return peer in self._peers

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        _, uid, _ = _PEERCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        if uid != 0:
            peer.close()
            return
        peer.setblocking(False)
        self._peers[peer.fileno()] = peer
        self._reactor.watch(peer.fileno(), lambda: self._read(peer))

    def _read(self, peer: socket.socket) -> None:
        try:
            data, ancillary, _, _ = peer.recvmsg(1 << 20, socket.CMSG_SPACE(16 * 4))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        fds = array("i")
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(raw[: len(raw) - len(raw) % 4])
        if not data:
            self._leave(peer)
            return
        kept: tuple[int, ...] = ()
        try:
            kept = self._obey(peer.fileno(), json.loads(data), fds)
        except (ValueError, KeyError, TypeError, IndexError):
            # A peer that speaks another language loses its connection, and the others go on.
            self._leave(peer)
        finally:
            for fd in fds:
                if fd not in kept:
                    os.close(fd)

    def _leave(self, peer: socket.socket) -> None:
        self._left(peer.fileno())
        self._reactor.forget(peer.fileno())
        self._peers.pop(peer.fileno(), None)
        peer.close()


def give_up_root() -> None:
    """Be nobody, without capabilities."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # The launcher, of which this is a fork, has told the kernel to keep capabilities when ids change.
    capset(0, 0, 0)
