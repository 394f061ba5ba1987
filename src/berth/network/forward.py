"""Queries on their way to the host's resolvers and back: bounded in number, with time-outs, one server after another.

Each query has a socket of its own (a random source port) and a random id, so an answer cannot be guessed. Nothing blocks: the
owner calls `ready` when a socket has something, and `expire` from time to time.
"""

from __future__ import annotations

import os
import socket
import time

from berth.network import dns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from berth.network.reactor import Reactor

TIMEOUT = 2.0
LIMIT = 1024
LIMIT_EACH = 256
_BUSY_CODES = (dns.SERVFAIL, dns.REFUSED, dns.NOTIMP)


class Flight:
    """One query that waits for an answer. `answer` is called once, with the answer or with None."""

    __slots__ = ("answer", "buffer", "deadline", "fallback", "owner", "packet", "question", "servers", "sock", "stream")

    def __init__(
        self,
        owner: str,
        packet: bytes,
        question: dns.Question,
        servers: Sequence[str],
        stream: bool,
        answer: Callable[[bytes | None], None],
    ) -> None:
        self.owner = owner
        self.packet = dns.with_identifier(packet, int.from_bytes(os.urandom(2), "big"))
        self.question = question
        self.servers = list(servers)
        self.stream = stream
        self.answer = answer
        self.sock: socket.socket | None = None
        self.deadline = 0.0
        self.buffer = b""
        self.fallback: bytes | None = None


class Forwarder:
    """All flights of a resolver."""

    def __init__(self, reactor: Reactor, port: int = 53) -> None:
        self._reactor = reactor
        self._port = port
        self._flights: dict[int, Flight] = {}
        self._counts: dict[str, int] = {}

    def send(
        self,
        owner: str,
        packet: bytes,
        question: dns.Question,
        servers: Sequence[str],
        stream: bool,
        answer: Callable[[bytes | None], None],
    ) -> None:
        """Ask the servers in turn. Over the limits, of all and of each owner, the answer is None at once."""
        if len(self._flights) >= LIMIT or self._counts.get(owner, 0) >= LIMIT_EACH:
            answer(None)
            return
        # Twice round: one lost packet should not cost the name.
        self._next(Flight(owner, packet, question, [*servers[:3], *servers[:3]], stream, answer))

    def _next(self, flight: Flight) -> None:
        self._land(flight)
        while flight.servers:
            server = flight.servers.pop(0)
            try:
                self._launch(flight, server)
            except OSError:
                self._land(flight)
                continue
            return
        flight.answer(flight.fallback)

    def _launch(self, flight: Flight, server: str) -> None:
        kind = (socket.SOCK_STREAM if flight.stream else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK
        sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, kind)
        flight.sock = sock
        flight.buffer = b""
        flight.deadline = time.monotonic() + TIMEOUT
        self._flights[sock.fileno()] = flight
        self._counts[flight.owner] = self._counts.get(flight.owner, 0) + 1
        try:
            sock.connect((server, self._port))
        except BlockingIOError:
            pass
        if flight.stream:
            self._reactor.watch(sock.fileno(), lambda: self._connected(flight), write=True)
        else:
            sock.send(flight.packet)
            self._reactor.watch(sock.fileno(), lambda: self._ready(flight))

    def _connected(self, flight: Flight) -> None:
        sock = flight.sock
        assert sock is not None
        try:
            sock.send(len(flight.packet).to_bytes(2, "big") + flight.packet)
        except OSError:
            self._next(flight)
            return
        self._reactor.watch(sock.fileno(), lambda: self._ready(flight))

    def _ready(self, flight: Flight) -> None:
        sock = flight.sock
        assert sock is not None
        try:
            data = sock.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            self._next(flight)
            return
        if flight.stream:
            if not data:
                self._next(flight)
                return
            flight.buffer += data
            if len(flight.buffer) < 2 or len(flight.buffer) - 2 < int.from_bytes(flight.buffer[:2], "big"):
                return
            data = flight.buffer[2 : 2 + int.from_bytes(flight.buffer[:2], "big")]
        if not dns.is_answer_to(data, flight.packet, flight.question):
            return
        if dns.response_code(data) in _BUSY_CODES and flight.servers:
            flight.fallback = data
            self._next(flight)
            return
        self._land(flight)
        flight.answer(data)

    def _land(self, flight: Flight) -> None:
        if flight.sock is not None:
            self._flights.pop(flight.sock.fileno(), None)
            self._reactor.forget(flight.sock.fileno())
            flight.sock.close()
            flight.sock = None
            self._counts[flight.owner] -= 1
            if not self._counts[flight.owner]:
                del self._counts[flight.owner]

    def expire(self, now: float) -> None:
        """Go on to the next server for those that have waited too long."""
        for flight in [f for f in self._flights.values() if f.deadline <= now]:
            self._next(flight)

    @property
    def waiting(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._flights)
