"""system dial-stdio: a connection to the engine on standard input and output, for a client at the other end of ssh."""

from __future__ import annotations

import os
import select
import socket

from berth.cli.command import declare
from berth.cli.session import engine

_CHUNK = 65536


@declare("dial-stdio")
def dial_stdio() -> None:
    """Proxy the stdio stream to the engine's connection. For ssh:// hosts, not for people."""
    with engine().address.open() as sock:
        sources: list[int] = [0, sock.fileno()]
        while sock.fileno() in sources:
            ready, _, _ = select.select(sources, [], [])
            if 0 in ready and not _copy_in(sock):
                sources.remove(0)
            if sock.fileno() in ready and not _copy_out(sock):
                return


def _copy_in(sock: socket.socket) -> bool:
    data = os.read(0, _CHUNK)
    if not data:
        sock.shutdown(socket.SHUT_WR)
        return False
    sock.sendall(data)
    return True


def _copy_out(sock: socket.socket) -> bool:
    data = sock.recv(_CHUNK)
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
    return bool(data)


COMMANDS = {"system dial-stdio": dial_stdio}
