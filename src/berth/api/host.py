"""Where the API listens: what `berthd --host` takes, and which of it needs TLS.

Whoever may talk to the API is root on the host. So TCP that others can reach takes certificates on both sides, unless the
operator has said otherwise in so many words (`--tls=false`, `--tlsverify=false`), as with dockerd.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from berth.engine.config import TlsSettings
from berth.errors import InvalidArgument


def parse_host(text: str, *, tls: bool) -> str:
    """unix:///absolute/path or tcp://ADDRESS:PORT, complete. InvalidArgument.

    tcp:// alone is 127.0.0.1, with port 2375, or 2376 under TLS.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise InvalidArgument(f"--host {text}: write unix:///path or tcp://address:port")
    if scheme == "unix":
        if not rest.startswith("/"):
            raise InvalidArgument(f"--host {text}: give an absolute path, unix:///path")
        return f"unix://{os.path.normpath(rest)}"
    if scheme == "fd":
        raise InvalidArgument(f"--host {text}: sockets of systemd are not taken over: name the socket, unix:///path")
    if scheme != "tcp":
        raise InvalidArgument(f"--host {text}: unknown scheme {scheme}://: write unix:///path or tcp://address:port")
    name, port = split(rest.rstrip("/"))
    number = port or ("2376" if tls else "2375")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        raise InvalidArgument(f"--host {text}: the port {port!r} is no number from 1 to 65535")
    name = name or "127.0.0.1"
    return f"tcp://[{name}]:{number}" if ":" in name else f"tcp://{name}:{number}"


def split(text: str) -> tuple[str, str]:
    """Address (without brackets) and port ("" if there is none) of `address:port`."""
    if text.startswith("["):
        name, _, port = text[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = text.partition(":")
    return name, port


def is_loopback(name: str) -> bool:
    """Whether only this host can reach the address."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def check_exposure(hosts: Sequence[str], *, tls: bool | None, verify: bool | None) -> None:
    """InvalidArgument for an address that anybody in the network could use, without the word for it. None: not said."""
    for host in hosts:
        if not host.startswith("tcp://") or is_loopback(split(host[6:])[0]) or verify:
            continue
        if tls and verify is None:
            raise InvalidArgument(
                f"--host {host}: without --tlsverify whoever reaches this address is root on this host: add --tlsverify and "
                "--tlscacert, or say --tlsverify=false if that is meant"
            )
        if not tls and tls is None and verify is None:
            raise InvalidArgument(
                f"--host {host}: without TLS whoever reaches this address is root on this host: add --tlsverify with "
                "--tlscacert, --tlscert and --tlskey, listen on 127.0.0.1 and come by ssh, or say --tls=false if that is meant"
            )


def warnings(hosts: Sequence[str], tls: TlsSettings | None) -> list[str]:
    """What `docker info` should say of addresses that give root away."""
    if tls is not None and tls.verify:
        return []
    how = "without encryption" if tls is None else "without client verification"
    scheme = "http" if tls is None else "https"
    open_to_all = [host[6:] for host in hosts if host.startswith("tcp://")]
    return [
        f"WARNING: API is accessible on {scheme}://{address} {how}: access to it is equivalent to root access on the host"
        for address in open_to_all
    ]


def bind(host: str) -> list[socket.socket]:
    """Sockets bound to a tcp:// host, one per address of a name; they do not listen yet. InvalidArgument."""
    name, port = split(host.removeprefix("tcp://"))
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, number, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, number)
            bound.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.setblocking(False)
    except OSError as error:
        for sock in bound:
            sock.close()
        raise InvalidArgument(
            f"--host {host}: {(error.strerror or str(error)).lower()}: choose another address or port"
        ) from error
    return bound
