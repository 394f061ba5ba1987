"""Who is at the other end of a connection, in words: for `explain`, never for a decision."""

from __future__ import annotations

import socket
import struct

from aiohttp import web

_LONGEST = 120
_CREDENTIALS = struct.Struct("iii")


def client_of(request: web.Request) -> str:
    """`docker/28.5.1 (process 4711, docker, uid 0)`: what it calls itself, and what the kernel knows of it."""
    agent = request.headers.get("User-Agent", "")
    said = "".join(c for c in agent if c.isprintable())[:_LONGEST] or "a client without a name"
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer := getattr(request.protocol, "peer", ""):
        return f"{said} ({peer})"
    if sock is None:
        return said
    if sock.family != socket.AF_UNIX:
        address = (request.transport.get_extra_info("peername") or ("?",))[0] if request.transport else "?"
        return f"{said} (from {address})"
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return f"{said} (process {pid}{_name(pid)}, uid {uid})"


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return ", " + "".join(c for c in file.read().strip() if c.isprintable())
    except OSError:
        # It has ended, or is in another pid namespace (0 then).
        return ""
