"""Published ports: what a container asks for, and sockets that hold the host's side of it.

A held socket is bound and never listens: the firewall takes the packets before any socket sees them. It makes "port is already
allocated" true for every program of the host, and keeps others from taking the port while the container runs.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from msgspec import Struct

from berth.errors import BerthError, InvalidArgument, ResourceExhausted
from berth.network.firewall import PROTOCOLS
from berth.wire.container import ContainerConfig, HostConfig

_KINDS = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "sctp": (socket.SOCK_STREAM, 132)}


class PortWish(Struct, frozen=True, kw_only=True):
    """One binding asked for. `address` "" leaves the choice to the network; `first` 0 is any free port."""

    protocol: str
    container_port: int
    address: str = ""
    first: int = 0
    last: int = 0


def parse_port(text: str) -> tuple[int, str]:
    """80/tcp (tcp without a protocol) as (80, "tcp")."""
    number, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid port specification: {text!r}: the protocol must be tcp, udp or sctp")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidArgument(f"invalid port specification: {text!r}: the port must be between 1 and 65535")
    return int(number), protocol


def _parse_range(text: str) -> tuple[int, int]:
    if not text or text == "0":
        return 0, 0
    low, _, high = text.partition("-")
    try:
        first, last = int(low), int(high or low)
    except ValueError:
        raise InvalidArgument(f"invalid port specification: {text!r}: the host port must be a number or a range") from None
    if not 0 < first <= last < 65536:
        raise InvalidArgument(f"invalid port specification: {text!r}: the host port must be between 1 and 65535")
    return first, last


def wishes(config: ContainerConfig, host_config: HostConfig) -> list[PortWish]:
    """All bindings that a container asks for, in a stable order."""
    found: list[PortWish] = []
    bindings = host_config.port_bindings or {}
    for key in sorted(bindings, key=parse_port):
        number, protocol = parse_port(key)
        for binding in bindings[key] or []:
            address = binding.host_ip or ""
            if address:
                try:
                    ip_address(address)
                except ValueError:
                    raise InvalidArgument(f"invalid host address {address!r} for port {key}: give an IP address") from None
            first, last = _parse_range(binding.host_port or "")
            found.append(PortWish(protocol=protocol, container_port=number, address=address, first=first, last=last))
    if host_config.publish_all_ports:
        bound = {(w.container_port, w.protocol) for w in found}
        for number, protocol in sorted({parse_port(p) for p in config.exposed_ports or {}} - bound):
            found.append(PortWish(protocol=protocol, container_port=number))
    return found


def bind(protocol: str, address: str, port: int) -> socket.socket:
    """A bound socket; of IPv6 only, on an IPv6 address. OSError."""
    kind, number = _KINDS[protocol]
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind | socket.SOCK_CLOEXEC, number)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or protocol != "tcp":
                raise
            # Connections in TIME_WAIT of a server that has gone are no obstacle; a socket that listens still is. Cleared
            # again at once, else a server that sets the option too could listen on the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        sock.close()
        raise
    return sock


def join(address: str, port: int) -> str:
    """address:port, with brackets around IPv6."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def hold(wish: PortWish, addresses: Iterable[str], allocated: set[tuple[str, str, int]]) -> list[socket.socket]:
    """Sockets on one port of every address, the first port of the wish's range that is free on all.

    `allocated` are (protocol, address, port) of other containers: only the wording depends on it. ResourceExhausted in
    Docker's words leaves nothing bound.
    """
    targets = list(addresses)
    problem: BerthError = ResourceExhausted("all ports are allocated")
    for attempt in range(max(wish.last - wish.first + 1, 1) if wish.first else 20):
        port = wish.first + attempt if wish.first else 0
        sockets: list[socket.socket] = []
        try:
            for address in targets:
                sockets.append(bind(wish.protocol, address, port))
                port = port or sockets[0].getsockname()[1]
        except OSError as error:
            for sock in sockets:
                sock.close()
            problem = _refusal(wish.protocol, address, port, allocated, error)
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise problem from error
            continue
        return sockets
    raise problem


def _refusal(protocol: str, address: str, port: int, allocated: set[tuple[str, str, int]], error: OSError) -> BerthError:
    if error.errno == errno.EADDRINUSE and _is_allocated(protocol, address, port, allocated):
        return ResourceExhausted(f"Bind for {join(address, port)} failed: port is already allocated")
    version = "6" if ":" in address else "4"
    reason = {errno.EADDRINUSE: "address already in use", errno.EADDRNOTAVAIL: "cannot assign requested address"}
    text = reason.get(error.errno or 0, (error.strerror or "failed").lower())
    return ResourceExhausted(f"failed to bind host port: listen {protocol}{version} {join(address, port)}: bind: {text}")


def _is_allocated(protocol: str, address: str, port: int, allocated: set[tuple[str, str, int]]) -> bool:
    same_family = {a for p, a, n in allocated if p == protocol and n == port and (":" in a) == (":" in address)}
    return address in same_family or bool(same_family & {"0.0.0.0", "::"}) or (address in ("0.0.0.0", "::") and bool(same_family))
