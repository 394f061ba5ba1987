"""What passes through the proxy: a TCP connection in both directions, and the UDP flows of a port."""

from __future__ import annotations

import socket
import struct
import time
from collections import OrderedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.network.reactor import Reactor

_PIECE = 1 << 16
# Of one direction before others have their turn.
_ROUNDS = 8
_FLOWS = 1024
_IDLE = 90.0
_RESET = struct.pack("ii", 1, 0)
# linux/in.h: which address a datagram came to, so that the answer leaves from there.
_IP_PKTINFO = 8

Address = tuple[str, int]


def open_target(target: Address, kind: int) -> socket.socket:
    """A socket on its way to the container; non-blocking."""
    sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    try:
        sock.connect(target)
    except BlockingIOError:
        pass
    except OSError:
        sock.close()
        raise
    return sock


class _Half:
    """One direction. What was read and not yet written is at most one piece, so a slow reader slows the writer down."""

    __slots__ = ("done", "ended", "pending", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.pending = memoryview(b"")
        self.ended = self.done = False

    @property
    def reads(self) -> bool:
        """Whether it waits for more."""
        return not self.ended and not self.pending

    @property
    def writes(self) -> bool:
        """Whether it has something to write, be it the end."""
        return bool(self.pending) or (self.ended and not self.done)

    def pump(self) -> None:
        """As far as it goes. OSError when one side has broken."""
        try:
            for _ in range(_ROUNDS):
                if self.pending:
                    self.pending = self.pending[self.sink.send(self.pending) :]
                elif self.ended:
                    if not self.done:
                        self.done = True
                        self.sink.shutdown(socket.SHUT_WR)
                    return
                else:
                    data = self.source.recv(_PIECE)
                    self.pending, self.ended = memoryview(data), not data
        except BlockingIOError:
            pass


class Passage:
    """A connection to a published port, and the one to the container that belongs to it. `over` is called once, at the end."""

    def __init__(self, reactor: Reactor, client: socket.socket, target: Address, over: Callable[[Passage], None]) -> None:
        self._reactor = reactor
        self._over = over
        self._client = client
        client.setblocking(False)
        try:
            self._server = open_target(target, socket.SOCK_STREAM)
        except OSError:
            self._refuse()
            raise
        self._halves = (_Half(client, self._server), _Half(self._server, client))
        reactor.watch(self._server.fileno(), self._connected, write=True)

    def _refuse(self) -> None:
        """To the client it looks as if nobody listened."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._client.close()

    def _connected(self) -> None:
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()
            return
        for sock in (self._client, self._server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._move()

    def _move(self) -> None:
        try:
            for half in self._halves:
                half.pump()
        except OSError:
            # Broken on one side: the other learns of it in the same way.
            for sock in (self._client, self._server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()
            return
        there, back = self._halves
        if there.done and back.done:
            self.close()
            return
        for sock, source, sink in ((self._client, there, back), (self._server, back, there)):
            self._reactor.watch_for(sock.fileno(), self._move, read=source.reads, write=sink.writes)

    def close(self) -> None:
        """End it. Idempotent."""
        if self._client.fileno() < 0:
            return
        for sock in (self._client, self._server):
            self._reactor.forget(sock.fileno())
            sock.close()
        self._over(self)


class Flows:
    """The UDP flows of a port: one socket to the container for each client, until it was idle for 90 seconds (as Docker's)."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self._reactor = reactor
        self._sock = sock
        self._flows: OrderedDict[Address, tuple[socket.socket, float]] = OrderedDict()
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def receive(self, target: Address | None) -> None:
        """Datagrams of clients are there."""
        for _ in range(64):
            try:
                data, arrived, _, client = self._sock.recvmsg(_PIECE, socket.CMSG_SPACE(32))
            except OSError:
                return
            if target is None:
                continue
            try:
                self._flow(client, arrived, target).send(data)
            except OSError:
                # Nobody listens there at the moment (the answer to the last datagram), or there is no room: as in a network.
                pass

    def _flow(self, client: Address, arrived: list[tuple[int, int, bytes]], target: Address) -> socket.socket:
        known = self._flows.get(client)
        if known is not None:
            self._flows[client] = known[0], time.monotonic()
            self._flows.move_to_end(client)
            return known[0]
        while len(self._flows) >= _FLOWS:
            self._forget(next(iter(self._flows)))
        sock = open_target(target, socket.SOCK_DGRAM)
        self._flows[client] = sock, time.monotonic()
        self._reactor.watch(sock.fileno(), lambda: self._answer(sock, client, arrived))
        return sock

    def _answer(self, sock: socket.socket, client: Address, arrived: list[tuple[int, int, bytes]]) -> None:
        for _ in range(64):
            try:
                data = sock.recv(_PIECE)
                self._sock.sendmsg([data], arrived, 0, client)
            except OSError:
                return

    def _forget(self, client: Address) -> None:
        sock, _ = self._flows.pop(client)
        self._reactor.forget(sock.fileno())
        sock.close()

    def expire(self, now: float) -> bool:
        """Forget those that are idle; whether any are left."""
        while self._flows and next(iter(self._flows.values()))[1] + _IDLE < now:
            self._forget(next(iter(self._flows)))
        return bool(self._flows)

    def close(self) -> None:
        """Forget all."""
        while self._flows:
            self._forget(next(iter(self._flows)))
