"""DNS messages (RFC 1035, RFC 6891), as much as the resolver needs: read a question, write short answers. Pure bytes.

What is forwarded is never taken apart; so options, signatures and record types that nobody here has heard of pass through.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
_QR, _TC, _RD, _RA = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_HEADER = 12
_POINTER_TO_QUESTION = b"\xc0\x0c"
_CLASS_IN = 1


class Question:
    """The question of a query: `name` in lower case without the last dot; `end` is where it ends in the packet; `room` is
    how large an answer over UDP may be."""

    __slots__ = ("end", "kind", "name", "room")

    def __init__(self, name: str, kind: int, end: int, room: int) -> None:
        self.name = name
        self.kind = kind
        self.end = end
        self.room = room


def read_question(packet: bytes) -> Question | None:
    """The question of a query of class IN, or None for anything else: such packets are not for us."""
    if len(packet) < _HEADER + 5:
        return None
    flags, questions = unpack_from(">HH", packet, 2)
    if flags & _QR or flags & _OPCODE or questions != 1:
        return None
    labels: list[str] = []
    offset = _HEADER
    while True:
        length = packet[offset]
        offset += 1
        if length == 0:
            break
        # No compression in a question, and room for this label, the root, type and class.
        if length > 63 or offset + length + 5 > len(packet) or offset > 255 + _HEADER:
            return None
        labels.append(packet[offset : offset + length].decode("latin-1").lower())
        offset += length
    if offset + 4 > len(packet):
        return None
    kind, group = unpack_from(">HH", packet, offset)
    if group != _CLASS_IN:
        return None
    end = offset + 4
    return Question(".".join(labels), kind, end, _room(packet, end))


def _room(packet: bytes, end: int) -> int:
    """512, or what the OPT record says. It is the only additional record of a query, and its name is the root."""
    answers, authorities, additional = unpack_from(">HHH", packet, 6)
    if answers or authorities or not additional or len(packet) < end + 11:
        return 512
    name, kind, size = unpack_from(">BHH", packet, end)
    return min(max(size, 512), 4096) if name == 0 and kind == OPT else 512


def identifier(packet: bytes) -> int:
    """The id of a message."""
    number: int = unpack_from(">H", packet)[0]
    return number


def with_identifier(packet: bytes, number: int) -> bytes:
    """The same message with another id."""
    return pack(">H", number) + packet[2:]


def response_code(packet: bytes) -> int:
    """The RCODE of an answer."""
    return packet[3] & 0x0F


def is_answer_to(answer: bytes, query: bytes, question: Question) -> bool:
    """Whether a message answers our query: same id, same question (letter case aside)."""
    if len(answer) < _HEADER or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    if not unpack_from(">H", answer, 4)[0]:
        return response_code(answer) != NOERROR
    return answer[_HEADER : question.end].lower() == query[_HEADER : question.end].lower()


def reply(query: bytes, question: Question, records: Sequence[bytes], code: int = NOERROR, *, stream: bool = False) -> bytes:
    """An answer with these records; over UDP as many as fit, marked as truncated when some do not."""
    flags = _QR | _RA | (unpack_from(">H", query, 2)[0] & _RD) | code
    body = query[_HEADER : question.end]
    room = (65535 if stream else question.room) - _HEADER - len(body)
    kept = 0
    for record in records:
        if len(record) > room:
            flags |= _TC
            break
        room -= len(record)
        kept += 1
    return query[:2] + pack(">HHHHH", flags, 1, kept, 0, 0) + body + b"".join(records[:kept])


def refuse(query: bytes, code: int) -> bytes:
    """An answer without a question section, to something that could not be read."""
    return query[:2] + pack(">HHHHH", _QR | code, 0, 0, 0, 0)


def address_record(address: str, ttl: int) -> bytes:
    """An A or AAAA record for the name that was asked for."""
    v6 = ":" in address
    raw = inet_pton(AF_INET6 if v6 else AF_INET, address)
    return _POINTER_TO_QUESTION + pack(">HHIH", AAAA if v6 else A, _CLASS_IN, ttl, len(raw)) + raw


def pointer_record(name: str, ttl: int) -> bytes:
    """A PTR record for the name that was asked for."""
    raw = b"".join(bytes([len(label)]) + label for label in name.encode("latin-1").split(b".") if 0 < len(label) < 64) + b"\0"
    return _POINTER_TO_QUESTION + pack(">HHIH", PTR, _CLASS_IN, ttl, len(raw)) + raw


def reverse_address(name: str) -> str | None:
    """The address that a name below in-addr.arpa or ip6.arpa stands for."""
    try:
        if name.endswith(".in-addr.arpa"):
            parts = name[: -len(".in-addr.arpa")].split(".")
            return inet_ntop(AF_INET, bytes(int(part) for part in reversed(parts))) if len(parts) == 4 else None
        if name.endswith(".ip6.arpa"):
            digits = name[: -len(".ip6.arpa")].split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return inet_ntop(AF_INET6, bytes.fromhex("".join(reversed(digits))))
    except ValueError:
        pass
    return None
