"""Messages between the processes that make a container: marshalled values with descriptors. Lean.

Both ends are our own code of the same interpreter, before execve. A value fits in one packet; descriptors go in groups
of 64 (the kernel takes 253 at most) with as many packets as that needs.
"""

from __future__ import annotations

import marshal
import os
from _socket import AF_UNIX, CMSG_SPACE, SO_SNDBUF, SOCK_SEQPACKET, SOL_SOCKET, socketpair
from _socket import socket as Socket
from struct import pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_SCM_RIGHTS = 1
_GROUP = 64
_ROOM = 1 << 20


def pair() -> tuple[Socket, Socket]:
    """Two ends, close-on-exec."""
    left, right = socketpair(AF_UNIX, SOCK_SEQPACKET | 0o2000000)
    for end in left, right:
        end.setsockopt(SOL_SOCKET, SO_SNDBUF, _ROOM)
    return left, right


def send(sock: Socket, value: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send a value; the descriptors stay open here. Blocks."""
    groups = [fds[start : start + _GROUP] for start in range(0, len(fds), _GROUP)] or [()]
    # By write(2) wherever that does: a filter may be in force that allows no calls of sockets.
    os.write(sock.fileno(), marshal.dumps((len(groups), value)))
    for group in groups:
        if group:
            sock.sendmsg([b"."], [(SOL_SOCKET, _SCM_RIGHTS, pack(f"{len(group)}i", *group))])
        else:
            os.write(sock.fileno(), b".")


def receive(sock: Socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next value and its descriptors (close-on-exec); None at the end of the conversation."""
    data, _ = _packet(sock, _ROOM)
    if not data:
        return None
    count, value = marshal.loads(data)
    fds: list[int] = []
    for _ in range(count):
        got, passed = _packet(sock, 1)
        fds += passed
        if not got:
            close_all(fds)
            return None
    return value, fds


def _packet(sock: Socket, room: int) -> tuple[bytes, list[int]]:
    """The next packet and its descriptors; an empty one at the end.

    That the peer has left something unread is told first, once, in between what it had said.
    """
    for _ in range(2):
        try:
            data, ancillary, _, _ = sock.recvmsg(room, CMSG_SPACE(4 * _GROUP), 0x40000000)
            break
        except ConnectionError:
            continue
    else:
        return b"", []
    fds: list[int] = []
    for _, kind, rights in ancillary:
        if kind == _SCM_RIGHTS:
            fds += unpack(f"{len(rights) // 4}i", rights[: len(rights) // 4 * 4])
    return data, fds


def send_errno(sock: Socket, number: int) -> None:
    """After "exec" has been said: why execve failed. A container may be able to write here by then, so it is four bytes."""
    os.write(sock.fileno(), pack("i", number))


def receive_errno(sock: Socket) -> int:
    """What `send_errno` sent; 0 when the connection closes, as execve makes it do."""
    try:
        data = sock.recv(4)
    except ConnectionError:
        return 0
    return int(unpack("i", data)[0]) if len(data) == 4 else 0


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
