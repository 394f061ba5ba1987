"""Connection tracking: forget flows (ctnetlink, linux/netfilter/nfnetlink_conntrack.h).

A UDP flow that was translated before a published port came or went would keep going the old way as long as packets flow.
"""

from __future__ import annotations

import errno
from struct import pack, unpack

from berth.kernel.netlink import ACK, attribute, attributes, dump, message, open_socket, talk
from berth.kernel.nfnetlink import NETLINK_NETFILTER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _REPLY, _ID, _ZONE = 1, 2, 12, 18
_UDP = 17
_NESTED = 0x8000


def _endpoints(raw: bytes) -> tuple[int, bytes, bytes, int, int]:
    """Protocol, source, destination, source port, destination port of a tuple."""
    parts = attributes(raw, 0)
    address, protocol = attributes(parts.get(1, b""), 0), attributes(parts.get(2, b""), 0)
    number = protocol.get(1, b"\0")[0]
    source = address.get(1) or address.get(3) or b""
    destination = address.get(2) or address.get(4) or b""
    from_port = unpack(">H", protocol[2])[0] if 2 in protocol else 0
    to_port = unpack(">H", protocol[3])[0] if 3 in protocol else 0
    return number, source, destination, from_port, to_port


def flush_udp(ports: Collection[int], addresses: Collection[bytes]) -> int:
    """Forget UDP flows to one of these (host) ports, or answered by one of these addresses. Returns how many there were."""
    found = []
    # One dump of both families: the kernel walks its whole table (262,144 buckets, 25 ms) however little is in it.
    for body in dump(NETLINK_NETFILTER, _GET, pack("BBH", 0, 0, 0)):
        entry = attributes(body, 4)
        if _ORIGINAL not in entry or _REPLY not in entry:
            continue
        protocol, _, _, _, port = _endpoints(entry[_ORIGINAL])
        if protocol == _UDP and (port in ports or _endpoints(entry[_REPLY])[1] in addresses):
            found.append((body[0], entry))
    return sum(_forget(family, entry) for family, entry in found)


def _forget(family: int, entry: dict[int, bytes]) -> bool:
    body = pack("BBH", family, 0, 0) + attribute(_ORIGINAL | _NESTED, entry[_ORIGINAL])
    for kind in (_ID, _ZONE):
        if kind in entry:
            body += attribute(kind, entry[kind])
    sock = open_socket(NETLINK_NETFILTER)
    try:
        talk(sock, message(_DELETE, ACK, body), "conntrack")
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    finally:
        sock.close()
    return True
