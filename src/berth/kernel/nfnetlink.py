"""nf_tables by raw netlink: the few messages that are sent while a container starts or ends.

The rule set of the engine is made once through libnftables; what changes with each container goes through here, as one
batch each, since a batch of raw messages takes 0.02 ms. A batch is a transaction: all of it happens or nothing. Numbers in
nf_tables attributes are big-endian. Constants are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import os
from struct import pack, unpack, unpack_from

from berth.kernel.netlink import ACK, CREATE, EXCL, attribute, attributes, message, open_socket, talk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Sequence

NETLINK_NETFILTER = 12
FAMILY_INET, FAMILY_IPV4, FAMILY_IPV6 = 1, 2, 10
_SUBSYSTEM = 10 << 8
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSETELEM, _DELSETELEM = 0, 2, 3, 6, 12, 14
_NEWGEN, _GETGEN = 15, 16
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NESTED = 0x8000
_MSG_DONTWAIT = 0x40

_HOOK_OUTPUT, _HOOK_POSTROUTING = 3, 4
_REGISTER_1, _REGISTER_2 = 1, 2
_PAYLOAD_NETWORK, _PAYLOAD_TRANSPORT = 1, 2
_META_L4PROTO = 16
_NAT_SOURCE, _NAT_DESTINATION = 0, 1
_UDP, _TCP = 17, 6
RESOLVER_ADDRESS = b"\x7f\x00\x00\x0b"
_DNS_TABLE = "berth-dns"


def _header(family: int, resource: int = 0) -> bytes:
    return pack("BB", family, 0) + pack(">H", resource)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, pack(">i", value))


def _nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def batch(messages: Sequence[bytes], what: str, sock: Socket | None = None) -> None:
    """Carry out the messages as one transaction. OSError about `what` with the first failure.

    Whoever removes things gives a socket that stays open: the kernel lets a netfilter socket close only when everything that
    was removed has been freed, which takes an RCU grace period (13 ms).
    """
    if not messages:
        return
    last = bytearray(messages[-1])
    flags = unpack_from("H", last, 6)[0]
    last[6:8] = pack("H", flags | ACK)
    data = message(_BATCH_BEGIN, 0, _header(0, 10)) + b"".join(messages[:-1]) + bytes(last)
    data += message(_BATCH_END, 0, _header(0, 10))
    if sock is not None:
        _exchange(sock, data, what)
        return
    sock = open_socket(NETLINK_NETFILTER)
    try:
        _exchange(sock, data, what)
    finally:
        sock.close()


def _exchange(sock: Socket, data: bytes, what: str) -> None:
    # A failed batch is answered by one message per failure: what is left of an earlier one is not ours.
    while True:
        try:
            sock.recv(65536, _MSG_DONTWAIT)
        except BlockingIOError:
            break
    talk(sock, data, what)


def generation(sock: Socket) -> int:
    """The number of the rule set, which each transaction raises by one."""
    sock.send(message(_SUBSYSTEM | _GETGEN, 0, _header(0)))
    while True:
        answer = sock.recv(65536)
        kind = unpack_from("H", answer, 4)[0]
        if kind == _SUBSYSTEM | _NEWGEN:
            return int(unpack(">I", attributes(answer, 20)[1])[0])
        if kind == 2:
            number = -unpack_from("i", answer, 16)[0]
            raise OSError(number, os.strerror(number), "nf_tables: generation")


def new_table(family: int, table: str) -> bytes:
    """The message that makes a table; no failure when it is there."""
    return message(_SUBSYSTEM | _NEWTABLE, CREATE, _header(family) + _text(1, table))


def delete_table(family: int, table: str) -> bytes:
    """The message that removes a table with all that is in it."""
    return message(_SUBSYSTEM | _DELTABLE, 0, _header(family) + _text(1, table))


def new_nat_chain(family: int, table: str, chain: str, hook: int, priority: int) -> bytes:
    """The message that makes a base chain of type nat."""
    point = _nest(4, _number(1, hook), _number(2, priority))
    return message(_SUBSYSTEM | _NEWCHAIN, CREATE, _header(family) + _text(1, table) + _text(3, chain) + point + _text(7, "nat"))


def new_rule(family: int, table: str, chain: str, expressions: Sequence[bytes]) -> bytes:
    """The message that appends a rule."""
    body = _text(1, table) + _text(2, chain) + _nest(4, *expressions)
    return message(_SUBSYSTEM | _NEWRULE, CREATE | 0x800, _header(family) + body)


def element(
    family: int, table: str, name: str, key: bytes, data: bytes | None = None, *, add: bool, exclusive: bool = False
) -> bytes:
    """The message that adds an element to a set or a map (with `data`), or removes it (ENOENT when it is missing)."""
    entry = _nest(1, attribute(1, key))
    if data is not None:
        entry += _nest(2, attribute(1, data))
    kind = _NEWSETELEM if add else _DELSETELEM
    flags = (CREATE | (EXCL if exclusive else 0)) if add else 0
    return message(_SUBSYSTEM | kind, flags, _header(family) + _text(1, table) + _text(2, name) + _nest(3, _nest(1, entry)))


def _expression(name: str, *parts: bytes) -> bytes:
    return _nest(1, _text(1, name), _nest(2, *parts))


def _payload_is(base: int, offset: int, value: bytes) -> list[bytes]:
    load = _expression("payload", _number(1, _REGISTER_1), _number(2, base), _number(3, offset), _number(4, len(value)))
    return [load, _is(value)]


def _is(value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REGISTER_1), _number(2, 0), _nest(3, attribute(1, value)))


def _load(register: int, value: bytes) -> bytes:
    return _expression("immediate", _number(1, register), _nest(2, attribute(1, value)))


def _translate(protocol: int, address_offset: int, port_offset: int, port: int, to: int, kind: int) -> list[bytes]:
    return [
        *_payload_is(_PAYLOAD_NETWORK, address_offset, RESOLVER_ADDRESS),
        _expression("meta", _number(1, _REGISTER_1), _number(2, _META_L4PROTO)),
        _is(pack("B", protocol)),
        *_payload_is(_PAYLOAD_TRANSPORT, port_offset, pack(">H", port)),
        _load(_REGISTER_1, RESOLVER_ADDRESS),
        _load(_REGISTER_2, pack(">H", to)),
        _expression("nat", _number(1, kind), _number(2, FAMILY_IPV4), _number(3, _REGISTER_1), _number(5, _REGISTER_2)),
    ]


def redirect_dns(udp_port: int, tcp_port: int, replace: bool = False) -> None:
    """Inside a container's network namespace: queries to 127.0.0.11 port 53 reach the sockets bound to 127.0.0.11 there.

    So an application may bind port 53 on every address itself. Answers are translated back by connection tracking; the
    source rule covers an answer whose entry has expired. `replace` takes back an earlier call (it costs some milliseconds,
    so not in a new namespace).
    """
    table, out, back = _DNS_TABLE, "output", "postrouting"
    rules = []
    for protocol, port in ((_UDP, udp_port), (_TCP, tcp_port)):
        rules.append(new_rule(FAMILY_IPV4, table, out, _translate(protocol, 16, 2, 53, port, _NAT_DESTINATION)))
        rules.append(new_rule(FAMILY_IPV4, table, back, _translate(protocol, 12, 0, port, 53, _NAT_SOURCE)))
    chains = [
        new_nat_chain(FAMILY_IPV4, table, out, _HOOK_OUTPUT, -100),
        new_nat_chain(FAMILY_IPV4, table, back, _HOOK_POSTROUTING, 100),
    ]
    old = [new_table(FAMILY_IPV4, table), delete_table(FAMILY_IPV4, table)] if replace else []
    batch([*old, new_table(FAMILY_IPV4, table), *chains, *rules], "nf_tables: 127.0.0.11")
