"""The resolver: a process that answers the DNS queries of all containers of an engine, and outlives the engine.

A container's 127.0.0.11 is a pair of sockets (UDP, TCP) made inside its network namespace and handed over here. Names of
containers that share a network with the asker are answered from what the engine said; everything else goes unchanged to the
host's resolvers, or nowhere when all of the asker's networks are internal.

    SEQPACKET socket, peers of uid 0 only; one JSON document per message, "v" 1:
    shim    serve  {container} + descriptors udp, tcp            served as long as the connection is open
    engine  serve  {container} + descriptors udp, tcp, pidfd     served until that process ends
            records {container, record}   drop {container}
            begin ... commit              containers without a record in between are forgotten
            quit

The process gives up root once it runs: it reads packets that containers made.
"""

from __future__ import annotations

import os
import select
import socket
import time

from berth.network import dns
from berth.network.control import Control, give_up_root
from berth.network.directory import Directory, Record
from berth.network.forward import Forwarder
from berth.network.reactor import Reactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TTL = 10
_IDLE = 15.0
_STREAMS = 512
_STREAMS_EACH = 32


class HostServers:
    """The name servers of the host's resolv.conf, read again when it has changed; a stub on the loopback is fine here."""

    def __init__(self, path: str = "/etc/resolv.conf") -> None:
        self._path = path
        self._checked = 0.0
        self._stamp = (0, 0)
        self._servers: list[str] = []

    def get(self) -> list[str]:
        """The servers, at most a second old."""
        now = time.monotonic()
        if now - self._checked < 1 and self._checked:
            return self._servers
        self._checked = now
        try:
            status = os.stat(self._path)
            if (status.st_mtime_ns, status.st_ino) != self._stamp:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    lines = [line.split() for line in file]
                self._servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
                self._stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            pass
        return self._servers


class Stream:
    """A TCP connection of a container."""

    __slots__ = ("buffer", "container", "deadline", "pending", "sock")

    def __init__(self, container: str, sock: socket.socket) -> None:
        self.container = container
        self.sock = sock
        self.buffer = b""
        self.pending = b""
        self.deadline = time.monotonic() + _IDLE


class Served:
    """The sockets of a container, and what they live as long as: a connection (of the shim) or a pidfd."""

    __slots__ = ("lifetime", "tcp", "udp")

    def __init__(self, udp: socket.socket, tcp: socket.socket, lifetime: int) -> None:
        self.udp = udp
        self.tcp = tcp
        self.lifetime = lifetime


class Resolver:
    """All state of the process."""

    def __init__(self, listener: socket.socket, servers: HostServers, port: int = 53) -> None:
        self._reactor = Reactor()
        self._control = Control(self._reactor, listener, self._obey, self._left)
        self._servers = servers
        self._directory = Directory()
        self._forwarder = Forwarder(self._reactor, port)
        self._served: dict[str, Served] = {}
        self._streams: dict[int, Stream] = {}
        self._between: set[str] | None = None
        self._turn = 0

    def run(self) -> None:
        """Until told to quit."""
        self._reactor.run(self._tick)

    def _tick(self, now: float) -> float | None:
        self._forwarder.expire(now)
        for stream in [s for s in self._streams.values() if s.deadline <= now]:
            self._hang_up(stream)
        return 0.25 if self._forwarder.waiting else (1.0 if self._streams else None)

    # Control.

    def _left(self, peer: int) -> None:
        for container, served in list(self._served.items()):
            if served.lifetime == peer:
                self._stop_serving(container)

    def _obey(self, peer: int, message: dict[str, object], fds: Sequence[int]) -> tuple[int, ...]:
        """Carry out a message; the descriptors that are kept."""
        operation = message["op"]
        container = str(message.get("container", ""))
        if operation == "serve":
            return self._serve(peer, container, fds)
        if operation == "records":
            document = message["record"]
            if not isinstance(document, dict):
                raise TypeError("record")
            self._directory.put(container, Record(document))
            if self._between is not None:
                self._between.add(container)
        elif operation == "drop":
            self._directory.drop(container)
        elif operation == "begin":
            self._between = set()
        elif operation == "commit":
            self._directory.keep_only(self._between or set())
            self._between = None
        elif operation == "quit":
            self._reactor.running = False
        return ()

    def _serve(self, peer: int, container: str, fds: Sequence[int]) -> tuple[int, ...]:
        if len(fds) not in (2, 3):
            raise IndexError("descriptors")
        self._stop_serving(container)
        udp, tcp = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
        udp.setblocking(False)
        tcp.setblocking(False)
        tcp.listen(64)
        served = Served(udp, tcp, fds[2] if len(fds) == 3 else peer)
        self._served[container] = served
        self._reactor.watch(udp.fileno(), lambda: self._datagrams(container, udp))
        self._reactor.watch(tcp.fileno(), lambda: self._connection(container, tcp))
        if len(fds) == 3:
            self._reactor.watch(fds[2], lambda: self._ended(container, served))
        return tuple(fds)

    def _ended(self, container: str, served: Served) -> None:
        # An event of a descriptor that had the same number a moment ago is no reason to stop.
        poll = select.poll()
        poll.register(served.lifetime, select.POLLIN)
        if self._served.get(container) is served and poll.poll(0):
            self._stop_serving(container)

    def _stop_serving(self, container: str) -> None:
        served = self._served.pop(container, None)
        if served is None:
            return
        for sock in (served.udp, served.tcp):
            self._reactor.forget(sock.fileno())
            sock.close()
        if not self._control.has(served.lifetime):
            self._reactor.forget(served.lifetime)
            os.close(served.lifetime)
        for stream in [s for s in self._streams.values() if s.container == container]:
            self._hang_up(stream)

    # Queries.

    def _datagrams(self, container: str, udp: socket.socket) -> None:
        for _ in range(32):
            try:
                packet, address = udp.recvfrom(4096)
            except OSError:
                return
            self._answer(container, packet, False, _sender(udp, address))

    def _connection(self, container: str, tcp: socket.socket) -> None:
        try:
            sock, _ = tcp.accept()
        except OSError:
            return
        own = sum(1 for stream in self._streams.values() if stream.container == container)
        if len(self._streams) >= _STREAMS or own >= _STREAMS_EACH:
            sock.close()
            return
        sock.setblocking(False)
        stream = Stream(container, sock)
        self._streams[sock.fileno()] = stream
        self._reactor.watch(sock.fileno(), lambda: self._receive(stream))

    def _receive(self, stream: Stream) -> None:
        try:
            data = stream.sock.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up(stream)
            return
        stream.buffer += data
        stream.deadline = time.monotonic() + _IDLE
        while len(stream.buffer) >= 2:
            length = int.from_bytes(stream.buffer[:2], "big")
            if len(stream.buffer) < 2 + length:
                return
            packet, stream.buffer = stream.buffer[2 : 2 + length], stream.buffer[2 + length :]
            self._answer(stream.container, packet, True, lambda answer: self._write(stream, answer))

    def _write(self, stream: Stream, answer: bytes) -> None:
        if stream.sock.fileno() < 0:
            return
        stream.pending += len(answer).to_bytes(2, "big") + answer
        self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        try:
            sent = stream.sock.send(stream.pending)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._hang_up(stream)
            return
        stream.pending = stream.pending[sent:]
        if len(stream.pending) > 1 << 20:
            self._hang_up(stream)
        elif stream.pending:
            self._reactor.watch(stream.sock.fileno(), lambda: self._flush(stream), write=True)
        else:
            self._reactor.watch(stream.sock.fileno(), lambda: self._receive(stream))

    def _hang_up(self, stream: Stream) -> None:
        if stream.sock.fileno() >= 0:
            self._streams.pop(stream.sock.fileno(), None)
            self._reactor.forget(stream.sock.fileno())
            stream.sock.close()

    def _answer(self, container: str, packet: bytes, stream: bool, send: Callable[[bytes], None]) -> None:
        question = dns.read_question(packet)
        if question is None:
            if len(packet) >= 12 and not packet[2] & 0x80:
                send(dns.refuse(packet, dns.NOTIMP))
            return
        records = self._own(container, question)
        if records is not None:
            send(dns.reply(packet, question, records, stream=stream))
            return
        record = self._directory.records.get(container)
        servers = (record.upstreams or self._servers.get()) if record and record.forward else []
        asked = question

        def answered(answer: bytes | None) -> None:
            if answer is None:
                send(dns.reply(packet, asked, [], dns.SERVFAIL, stream=stream))
            else:
                send(dns.with_identifier(answer, dns.identifier(packet)))

        if servers:
            self._forwarder.send(container, packet, question, servers, stream, answered)
        else:
            answered(None)

    def _own(self, container: str, question: dns.Question) -> list[bytes] | None:
        """The records of a name that is ours, of whatever type was asked for (maybe none); None for others."""
        if question.kind == dns.PTR:
            address = dns.reverse_address(question.name)
            name = self._directory.reverse(container, address) if address else None
            return [dns.pointer_record(name, TTL)] if name else None
        addresses = self._directory.lookup(container, question.name)
        if addresses is None:
            return None
        fitting = [a for a in addresses if question.kind in (dns.ANY, dns.AAAA if ":" in a else dns.A)]
        if len(fitting) > 1:
            # Several containers of one name take turns at being first.
            self._turn = (self._turn + 1) % len(fitting)
            fitting = fitting[self._turn :] + fitting[: self._turn]
        return [dns.address_record(address, TTL) for address in fitting]


def _sender(udp: socket.socket, address: object) -> Callable[[bytes], None]:
    def send(answer: bytes) -> None:
        try:
            udp.sendto(answer, address)  # type: ignore[call-overload]
        except OSError:
            # The asker, or its whole namespace, has gone.
            pass

    return send


def main(arguments: Sequence[str], fds: Sequence[int]) -> None:
    """Serve on the listening socket `fds[0]`."""
    listener = socket.socket(fileno=fds[0])
    resolver = Resolver(listener, HostServers())
    give_up_root()
    resolver.run()
