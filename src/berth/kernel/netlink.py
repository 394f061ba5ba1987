"""Routing netlink: links, addresses, routes, in as few messages as a container needs (rtnetlink(7)).

A call packs all of its messages into one send and reads one acknowledgement. The kernel goes on after a message that
failed and reports the failure first, so the first answer decides. Functions act on the network namespace of the calling
thread and raise OSError with the name of the thing as its file name.

A link that is handed to another namespace (`netns_fd`) is made there directly: it never exists under a foreign name. The
end of a veth inside a container cannot be made "up" in the same message as the pair (its peer does not exist yet).
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, if_nametoindex, inet_ntop, inet_pton
from _socket import socket as Socket
from errno import ENODEV
from struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Link = tuple[str, str, Sequence[str], int]
    RouteEntry = tuple[str, str | None, str]

AF_NETLINK = 16
NETLINK_ROUTE = 0
_SOCK_RAW_CLOEXEC = 3 | 0o2000000

REQUEST, ACK, DUMP, EXCL, CREATE, REPLACE = 1, 4, 0x300, 0x200, 0x400, 0x100
NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, GETADDR, NEWROUTE, DELROUTE, GETROUTE = 16, 17, 18, 20, 21, 22, 24, 25, 26
NEWNEIGH = 28
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_IFF_UP = 1

# Attributes of a link (if_link.h).
_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _LINKINFO, _NET_NS_FD = 1, 3, 4, 5, 10, 18, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_BRPORT_HAIRPIN, _BRPORT_ISOLATED = 4, 33
_VETH_PEER, _MACVLAN_MODE, _IPVLAN_MODE = 1, 1, 1

# A bridge's forwarding entry (neighbour.h): static, and not moved by frames that arrive elsewhere.
_AF_BRIDGE, _NUD_NOARP, _NTF_MASTER, _NTF_STICKY, _NDA_LLADDR = 7, 0x40, 0x04, 0x40, 2

_IFA_F_NODAD = 0x02
_TABLE_MAIN, _PROTO_STATIC, _TYPE_UNICAST, _SCOPE_UNIVERSE, _SCOPE_LINK = 254, 4, 1, 0, 253


def attribute(kind: int, data: bytes) -> bytes:
    """A netlink attribute, padded to four bytes."""
    return pack("HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """A netlink message. Always a request."""
    return pack("IHHII", 16 + len(body), kind, REQUEST | flags, sequence, 0) + body


def open_socket(protocol: int) -> Socket:
    """A bound netlink socket, close-on-exec."""
    sock = Socket(AF_NETLINK, _SOCK_RAW_CLOEXEC, protocol)
    sock.bind((0, 0))
    return sock


def talk(sock: Socket, data: bytes, what: str) -> None:
    """Send messages of which the last asks for an acknowledgement; OSError about `what` when one of them failed."""
    sock.send(data)
    while True:
        answer = sock.recv(65536)
        kind = unpack_from("H", answer, 4)[0]
        if kind != _ERROR:
            continue
        number = -unpack_from("i", answer, 16)[0]
        if number:
            raise OSError(number, os.strerror(number), what)
        return


def _send(data: bytes, what: str) -> None:
    sock = open_socket(NETLINK_ROUTE)
    try:
        talk(sock, data, what)
    finally:
        sock.close()


def _interface(index: int = 0, flags: int = 0) -> bytes:
    return pack("BxHiII", 0, 0, index, flags, flags)


def _name(name: str) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) < 16:
        raise OSError(22, "an interface name has 1 to 15 bytes", name)
    return attribute(_IFNAME, raw + b"\0")


def mac_bytes(mac: str) -> bytes:
    """02:42:ac:11:00:02 as six bytes."""
    return bytes.fromhex(mac.replace(":", "").replace("-", ""))


def address_bytes(address: str) -> tuple[int, bytes]:
    """The family and the bytes of an IP address."""
    family = AF_INET6 if ":" in address else AF_INET
    return family, inet_pton(family, address)


def create_veth(
    host_name: str,
    parent: str,
    peer_name: str,
    peer_netns_fd: int,
    mac: str,
    mtu: int,
    hairpin: bool = False,
    isolated: bool = False,
) -> None:
    """A veth pair: `host_name` here, up and in the bridge `parent` ("" for none); `peer_name` in the other namespace (-1: in
    this one), down.

    `hairpin` lets a frame leave through the port it came in by; `isolated` ports of a bridge do not reach each other. The
    bridge gets a fixed entry for `mac`: it neither floods the first frames, nor sends them to the port of a container of the
    same address that ended a moment ago and whose namespace the kernel has not taken down yet, nor lets a neighbour claim them.
    """
    peer = _interface() + _name(peer_name) + (attribute(_ADDRESS, mac_bytes(mac)) if mac else b"")
    peer += attribute(_MTU, pack("I", mtu))
    if peer_netns_fd >= 0:
        peer += attribute(_NET_NS_FD, pack("i", peer_netns_fd))
    info = attribute(_INFO_KIND, b"veth\0") + attribute(_INFO_DATA, attribute(_VETH_PEER, peer))
    body = _interface(0, _IFF_UP) + _name(host_name) + attribute(_MTU, pack("I", mtu)) + attribute(_LINKINFO, info)
    if parent:
        body += attribute(_MASTER, pack("i", if_nametoindex(parent)))
    sock = open_socket(NETLINK_ROUTE)
    try:
        talk(sock, message(NEWLINK, ACK | CREATE | EXCL, body), host_name)
        if parent:
            talk(sock, _bridge_port_messages(if_nametoindex(host_name), mac, hairpin, isolated), host_name)
    finally:
        sock.close()


def prepare_veth(host_name: str, peer_name: str, peer_netns_fd: int) -> int:
    """A veth pair for somebody who is still to come: both ends down, the one here in no bridge. The index of that one."""
    peer = _interface() + _name(peer_name) + attribute(_NET_NS_FD, pack("i", peer_netns_fd))
    info = attribute(_INFO_KIND, b"veth\0") + attribute(_INFO_DATA, attribute(_VETH_PEER, peer))
    _send(message(NEWLINK, ACK | CREATE | EXCL, _interface() + _name(host_name) + attribute(_LINKINFO, info)), host_name)
    return if_nametoindex(host_name)


def connect_veth(index: int, parent: str, mac: str, mtu: int, hairpin: bool, isolated: bool) -> None:
    """What is left to do of `create_veth` on this side after `prepare_veth`: the bridge, up. A name it has: to give it another
    one would wait for all who read the list of names."""
    body = _interface(index, _IFF_UP) + attribute(_MTU, pack("I", mtu)) + attribute(_MASTER, pack("i", if_nametoindex(parent)))
    _send(message(NEWLINK, 0, body) + _bridge_port_messages(index, mac, hairpin, isolated), parent)


def _bridge_port_messages(port: int, mac: str, hairpin: bool, isolated: bool) -> bytes:
    """The messages that set a bridge port's options and its forwarding entry; the last asks for an acknowledgement."""
    flags = attribute(_BRPORT_HAIRPIN, pack("B", hairpin)) + attribute(_BRPORT_ISOLATED, pack("B", isolated))
    slave = attribute(_INFO_SLAVE_KIND, b"bridge\0") + attribute(_INFO_SLAVE_DATA, flags)
    options = _interface(port) + attribute(_LINKINFO, slave)
    if not mac:
        return message(NEWLINK, ACK, options)
    entry = pack("BxHiHBB", _AF_BRIDGE, 0, port, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
    entry += attribute(_NDA_LLADDR, mac_bytes(mac))
    forward = message(NEWNEIGH, ACK | CREATE | REPLACE, entry)
    return message(NEWLINK, 0, options) + forward if hairpin or isolated else forward


def set_hairpin(host_name: str) -> None:
    """Let a frame leave through the bridge port it came in by, from now on."""
    flags = attribute(_BRPORT_HAIRPIN, pack("B", True))
    slave = attribute(_INFO_SLAVE_KIND, b"bridge\0") + attribute(_INFO_SLAVE_DATA, flags)
    sock = open_socket(NETLINK_ROUTE)
    try:
        talk(sock, message(NEWLINK, ACK, _interface(if_nametoindex(host_name)) + attribute(_LINKINFO, slave)), host_name)
    finally:
        sock.close()


def create_macvlan(parent: str, name: str, netns_fd: int, mac: str, mtu: int, mode: int = 4, kind: str = "macvlan") -> None:
    """A macvlan (`mode` 4 is bridge) or ipvlan (`mode` 0 is L2, 1 L3) on the link `parent`, in the other namespace (-1: in
    this one)."""
    if kind == "ipvlan":
        data = attribute(_IPVLAN_MODE, pack("H", mode))
        address = b""
    else:
        data = attribute(_MACVLAN_MODE, pack("I", mode))
        address = attribute(_ADDRESS, mac_bytes(mac)) if mac else b""
    # Older kernels look the name up here even when the link is made elsewhere; so it is made with a name that nobody has,
    # and gets its own name as it moves.
    first_name = name if netns_fd < 0 else "m" + os.urandom(6).hex()
    info = attribute(_INFO_KIND, kind.encode() + b"\0") + attribute(_INFO_DATA, data)
    body = _interface() + _name(first_name) + address + (attribute(_MTU, pack("I", mtu)) if mtu else b"")
    body += attribute(_LINK, pack("i", if_nametoindex(parent)))
    _send(message(NEWLINK, ACK | CREATE | EXCL, body + attribute(_LINKINFO, info)), name)
    if netns_fd < 0:
        return
    try:
        move = _interface(if_nametoindex(first_name)) + attribute(_NET_NS_FD, pack("i", netns_fd)) + _name(name)
        _send(message(NEWLINK, ACK, move), name)
    except OSError:
        delete_link(first_name)
        raise


def _address_message(index: int, address: str, flags: int) -> bytes:
    text, _, prefix = address.partition("/")
    family, raw = address_bytes(text)
    length = int(prefix or len(raw) * 8)
    body = pack("BBBBi", family, length, _IFA_F_NODAD if family == AF_INET6 else 0, 0, index)
    body += attribute(2, raw) + attribute(1, raw)
    if family == AF_INET and length < 31:
        bits = int.from_bytes(raw, "big") | ((1 << (32 - length)) - 1)
        body += attribute(4, bits.to_bytes(4, "big"))
    return message(NEWADDR, CREATE | flags, body)


def _route_message(kind: int, flags: int, destination: str, gateway: str | None, index: int) -> bytes:
    text, _, prefix = destination.partition("/")
    family, raw = address_bytes(text)
    length = int(prefix or len(raw) * 8)
    scope = _SCOPE_UNIVERSE if gateway or family == AF_INET6 or kind == DELROUTE else _SCOPE_LINK
    body = pack("BBBBBBBBI", family, length, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _TYPE_UNICAST, 0)
    if length:
        body += attribute(1, raw)
    if gateway:
        body += attribute(5, address_bytes(gateway)[1])
    if index:
        body += attribute(4, pack("i", index))
    return message(kind, flags, body)


def configure(links: Sequence[Link] = (), routes: Iterable[RouteEntry] = (), loopback: bool = True) -> None:
    """Bring up the loopback and the links, with addresses and routes, in one send; inside the container's namespace.

    `links` are (name, MAC or "", addresses with prefix length, MTU or 0); `routes` are (destination, gateway or None,
    name of the link).
    """
    index = {name: if_nametoindex(name) for name, _, _, _ in links}
    parts: list[bytes] = []
    if loopback:
        parts.append(message(NEWLINK, 0, _interface(1, _IFF_UP)))
    for name, mac, addresses, mtu in links:
        body = _interface(index[name], _IFF_UP)
        if mac:
            body += attribute(_ADDRESS, mac_bytes(mac))
        if mtu:
            body += attribute(_MTU, pack("I", mtu))
        parts.append(message(NEWLINK, 0, body))
        parts += [_address_message(index[name], address, EXCL) for address in addresses]
    for destination, gateway, name in routes:
        parts.append(_route_message(NEWROUTE, CREATE | EXCL, destination, gateway, index.get(name) or if_nametoindex(name)))
    # An acknowledgement at the end: a NOOP would get none, so the loopback is set once more.
    parts.append(message(NEWLINK, ACK, _interface(1)))
    _send(b"".join(parts), " ".join(index) or "lo")


def create_bridge(name: str, mac: str, mtu: int) -> None:
    """A bridge, down and without an address. FileExistsError when there is a link of that name."""
    info = attribute(_INFO_KIND, b"bridge\0")
    body = _interface() + _name(name) + attribute(_ADDRESS, mac_bytes(mac)) + attribute(_MTU, pack("I", mtu))
    _send(message(NEWLINK, ACK | CREATE | EXCL, body + attribute(_LINKINFO, info)), name)


def set_link(name: str, up: bool, mtu: int = 0) -> None:
    """Bring a link up or down, with another MTU unless 0."""
    extra = attribute(_MTU, pack("I", mtu)) if mtu else b""
    body = pack("BxHiII", 0, 0, 0, _IFF_UP if up else 0, _IFF_UP) + _name(name) + extra
    _send(message(NEWLINK, ACK, body), name)


def rename_link(index: int, name: str) -> None:
    """Give a link that is down another name."""
    _send(message(NEWLINK, ACK, _interface(index) + _name(name)), name)


def delete_link(name: str) -> None:
    """Remove a link, and the other end of a veth. OSError ENODEV when there is none."""
    _send(message(DELLINK, ACK, _interface() + _name(name)), name)


def add_address(name: str, address: str) -> None:
    """Add an address with prefix length; no error when it is there."""
    data = _address_message(if_nametoindex(name), address, REPLACE | ACK)
    _send(data, name)


def add_route(destination: str, gateway: str | None, name: str) -> None:
    """Add or replace a route over the link `name`."""
    _send(_route_message(NEWROUTE, CREATE | REPLACE | ACK, destination, gateway, if_nametoindex(name)), destination)


def delete_route(destination: str, gateway: str | None = None) -> None:
    """Remove a route. ProcessLookupError when there is none."""
    _send(_route_message(DELROUTE, ACK, destination, gateway, 0), destination)


def attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """The attributes from `offset` on, by kind without the nesting flag; the last one wins."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(data):
        length, kind = unpack_from("HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def dump(protocol: int, kind: int, body: bytes) -> Iterator[bytes]:
    """The bodies of all messages that answer a dump request."""
    sock = open_socket(protocol)
    try:
        sock.send(message(kind, DUMP, body))
        while True:
            data = sock.recv(1 << 18)
            offset = 0
            while offset + 16 <= len(data):
                length, answer = unpack_from("IH", data, offset)
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    number = -unpack_from("i", data, offset + 16)[0]
                    raise OSError(number, os.strerror(number))
                yield data[offset + 16 : offset + length]
                offset += (length + 3) & ~3
    finally:
        sock.close()


def links() -> list[dict[str, str | int]]:
    """All links: name, index, mtu, up, kind ("" for a physical one), master (an index, 0 for none), mac."""
    return [_described(body) for body in dump(NETLINK_ROUTE, GETLINK, _interface())]


def link(which: str | int) -> dict[str, str | int] | None:
    """The link of this name or index, as in `links`, or None: where there are hundreds, asking for all of them takes long."""
    sock = open_socket(NETLINK_ROUTE)
    try:
        body = _interface(which) if isinstance(which, int) else _interface() + _name(which)
        sock.send(message(GETLINK, 0, body))
        answer = sock.recv(1 << 18)
    finally:
        sock.close()
    length, kind = unpack_from("IH", answer)
    if kind != _ERROR:
        return _described(answer[16:length])
    number = -unpack_from("i", answer, 16)[0]
    if number == ENODEV:
        return None
    raise OSError(number, os.strerror(number), str(which))


def _described(body: bytes) -> dict[str, str | int]:
    index, flags = unpack_from("iI", body, 4)
    values = attributes(body, 16)
    info = attributes(values.get(_LINKINFO, b""), 0)
    return {
        "name": values[_IFNAME].rstrip(b"\0").decode(),
        "index": index,
        "mtu": unpack_from("I", values[_MTU])[0],
        "up": flags & _IFF_UP,
        "kind": info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        "master": unpack_from("i", values[_MASTER])[0] if _MASTER in values else 0,
        "mac": values.get(_ADDRESS, b"").hex(":"),
    }


def addresses() -> list[tuple[int, str]]:
    """All addresses with prefix length, each with the index of its link."""
    found = []
    for body in dump(NETLINK_ROUTE, GETADDR, pack("BBBBi", 0, 0, 0, 0, 0)):
        family, length = unpack_from("BB", body)
        values = attributes(body, 8)
        raw = values.get(2) or values.get(1)
        if family in (AF_INET, AF_INET6) and raw:
            found.append((unpack_from("i", body, 4)[0], f"{inet_ntop(family, raw)}/{length}"))
    return found


def routes() -> list[tuple[str, str, int]]:
    """The unicast routes of the main table: destination, gateway ("" on the link), index of the link."""
    found = []
    for body in dump(NETLINK_ROUTE, GETROUTE, pack("BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0)):
        family, length, _, _, table, _, _, kind = unpack_from("8B", body)
        if family not in (AF_INET, AF_INET6) or table != _TABLE_MAIN or kind != _TYPE_UNICAST:
            continue
        values = attributes(body, 12)
        zero = b"\0" * (4 if family == AF_INET else 16)
        gateway = inet_ntop(family, values[5]) if 5 in values else ""
        link = unpack_from("i", values[4])[0] if 4 in values else 0
        found.append((f"{inet_ntop(family, values.get(1, zero))}/{length}", gateway, link))
    return found
