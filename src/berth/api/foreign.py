"""Web pages that a browser on this host, or in its network, is led to: they must not reach the API over TCP.

A browser sends what a page asks it to send, also to 127.0.0.1. No Docker client sends `Origin`; and a name that an attacker has
pointed at the loopback (DNS rebinding) shows in `Host`. The unix socket is out of a browser's reach, and TLS that verifies asks
for a certificate.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

from aiohttp import web

from berth.api.host import is_loopback, split
from berth.api.route import Handler
from berth.errors import Forbidden


@web.middleware
async def refuse_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Forbidden for requests that a page has made."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    tls = bool(getattr(request.protocol, "peer", ""))
    if tls or (sock is not None and sock.family != socket.AF_UNIX):
        if "Origin" in request.headers:
            raise Forbidden(
                f"a web page (Origin: {request.headers['Origin'][:100]}) has no access to the engine over TCP: "
                "whatever may use it is root on this host"
            )
        if not tls and sock is not None and is_loopback(sock.getsockname()[0]):
            _check_name(request.headers.get("Host", ""))
    return await handler(request)


def _check_name(host: str) -> None:
    name, _ = split(host)
    # Nobody can own a name without a dot, and clients behind a forwarder say "docker".
    if "." not in name or is_loopback(name):
        return
    try:
        ip_address(name)
    except ValueError:
        raise Forbidden(
            f"this address is for this host alone, and {name[:100]} is no name of it: use tcp://127.0.0.1 or tcp://localhost"
        ) from None
