"""Forwarding of queries: servers in turn, limits, answers that are not ours. Over real sockets of the loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import dnslib
import pytest

from berth.network import dns, forward
from berth.network.forward import Forwarder
from berth.network.reactor import Reactor


class Loop:
    """A forwarder with its loop, turned by hand."""

    def __init__(self, port: int) -> None:
        self.reactor = Reactor()
        self.forwarder = Forwarder(self.reactor, port)
        self.answers: list[bytes | None] = []

    def ask(self, name: str, servers: list[str], *, owner: str = "c", stream: bool = False) -> bytes:
        packet = bytes(dnslib.DNSRecord.question(name).pack())
        question = dns.read_question(packet)
        assert question is not None
        self.forwarder.send(owner, packet, question, servers, stream, self.answers.append)
        return packet

    def turn(self) -> None:
        """One round of ready descriptors, a tenth of a second at most."""
        for fd, _ in self.reactor._epoll.poll(0.1):
            handler = self.reactor._handlers.get(fd)
            if handler:
                handler()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2)
        yield sock


def reply_to(packet: bytes, *, code: int = 0, name: str = "") -> bytes:
    query = dnslib.DNSRecord.parse(packet)
    reply = query.reply()
    if name:
        reply.q.qname = name
    reply.header.rcode = code
    return bytes(reply.pack())


def test_the_answer_comes_back_and_forgeries_do_not(server: socket.socket) -> None:
    loop = Loop(server.getsockname()[1])
    sent = loop.ask("example.test", ["127.0.0.1"])
    packet, peer = server.recvfrom(512)
    assert packet[2:] == sent[2:], "everything but the id is as the container sent it"
    server.sendto(reply_to(packet, name="other.test"), peer)
    server.sendto(bytes([packet[0] ^ 1]) + reply_to(packet)[1:], peer)
    loop.turn()
    loop.turn()
    assert loop.answers == []
    server.sendto(reply_to(packet), peer)
    loop.turn()
    assert loop.answers == [reply_to(packet)]
    assert not loop.forwarder.waiting and not loop.reactor._handlers


def test_a_server_that_fails_or_sleeps_is_followed_by_the_next(server: socket.socket) -> None:
    loop = Loop(server.getsockname()[1])
    # Nobody listens on the first address; the second answers SERVFAIL first.
    loop.ask("example.test", ["127.0.0.2", "127.0.0.1"])
    loop.turn()
    packet, peer = server.recvfrom(512)
    server.sendto(reply_to(packet, code=dns.SERVFAIL), peer)
    loop.turn()
    loop.turn()
    packet, peer = server.recvfrom(512)
    assert loop.answers == []
    # No answer: time goes by. No server is left, so the best that was heard is the answer.
    loop.forwarder.expire(time.monotonic() + forward.TIMEOUT + 1)
    assert len(loop.answers) == 1 and loop.answers[0] is not None
    assert dns.response_code(loop.answers[0]) == dns.SERVFAIL


def test_one_container_cannot_take_all_places(server: socket.socket) -> None:
    loop = Loop(server.getsockname()[1])
    for _ in range(forward.LIMIT_EACH):
        loop.ask("example.test", ["127.0.0.1"], owner="greedy")
    assert loop.answers == []
    loop.ask("example.test", ["127.0.0.1"], owner="greedy")
    assert loop.answers == [None]
    loop.ask("example.test", ["127.0.0.1"], owner="modest")
    assert loop.answers == [None]
    for _ in range(2):
        loop.forwarder.expire(time.monotonic() + forward.TIMEOUT + 1)
    assert loop.answers == [None] * (forward.LIMIT_EACH + 2)
    assert not loop.forwarder._counts and not loop.reactor._handlers


def test_no_server_is_no_answer() -> None:
    loop = Loop(9)
    loop.ask("example.test", [])
    assert loop.answers == [None]
