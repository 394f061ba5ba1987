"""Messages between engine, launcher and shims: one JSON document and any number of descriptors per SEQPACKET packet.

    packet   {"v": 1, ...}                                    descriptors: those of the message
             {"v": 1, "memfd": true}                          the document is over 64 KiB: it is in a memfd, the first descriptor
             {"v": 1, "bundle": n}                            more descriptors than one packet carries (the kernel's limit is
                                                              253): all n lie in the queue of a socket, the first descriptor

Both at once is the memfd first, then the bundle. A message is one packet, so it is sent wholly or not at all, also without
blocking. Lean code: imported by launcher and shim.

Shims outlive the engine that started them, so both sides meet older and newer ones: what a message has beyond what is known is
ignored, what it lacks has a default. VERSION grows only with what others cannot understand so; a side that knows less says so.
"""

from __future__ import annotations

import _socket
import errno
import json
import os
from _struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]

VERSION = 1
INLINE = 65536
PER_PACKET = 240
_SPACE = _socket.CMSG_SPACE(4 * 253)


class ChannelError(Exception):
    """A packet that does not follow the protocol, or whose descriptors did not fit into this process."""


class Cut(ChannelError):
    """Descriptors did not fit into this process, and are lost. `message` is what came with them, of a long one its id only."""

    def __init__(self, message: Message) -> None:
        super().__init__("too many open files")
        self.message = message


class NewerVersion(ChannelError):
    """A message of a version that this side does not know. `id` is the request's, if it is one."""

    def __init__(self, version: object, id: object) -> None:
        super().__init__(f"a message of version {version}: this side speaks version {VERSION}")
        self.version = version
        self.id = id


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors; one that is closed already is passed over."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise


def memory_file(data: bytes) -> int:
    """A memfd with the data."""
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as stream:
            stream.write(data)
    except OSError:
        os.close(fd)
        raise
    return fd


def _send_packet(sock: _socket.socket, payload: bytes, fds: Sequence[int]) -> None:
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack(f"{len(fds)}i", *fds))] if fds else []
    sock.sendmsg([payload], ancillary)


def _bundle(fds: Sequence[int]) -> int:
    """A socket whose queue holds all of them."""
    inside, outside = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        for start in range(0, len(fds), PER_PACKET):
            _send_packet(inside, b"+", fds[start : start + PER_PACKET])
        return outside.detach()
    finally:
        inside.close()
        outside.close()


def _unbundle(fd: int, count: int) -> list[int]:
    found: list[int] = []
    sock = _socket.socket(fileno=fd)
    try:
        while len(found) < count:
            payload, fds = _receive_packet(sock)
            found += fds
            if not payload:
                close_all(found)
                raise ChannelError(f"a bundle of {count} descriptors held only {len(found)}")
    finally:
        sock.close()
    return found


def send(sock: _socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a message. The caller keeps its descriptors. BlockingIOError on a full non-blocking socket: nothing was sent."""
    payload = json.dumps({"v": VERSION, **message}, separators=(",", ":")).encode()
    head: Message = {"v": VERSION, **({"id": message["id"]} if "id" in message else {})}
    extra: list[int] = []
    passed = fds
    try:
        if len(payload) > INLINE:
            extra.append(memory_file(payload))
            head["memfd"] = True
        if len(fds) > PER_PACKET:
            extra.append(_bundle(fds))
            head["bundle"] = len(fds)
            passed = ()
        if extra:
            payload = json.dumps(head).encode() if "memfd" in head else json.dumps({**json.loads(payload), **head}).encode()
        _send_packet(sock, payload, [*extra, *passed])
    finally:
        close_all(extra)


def _receive_packet(sock: _socket.socket) -> tuple[bytes, list[int]]:
    payload, ancillary, flags, _ = sock.recvmsg(INLINE + 4096, _SPACE, _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += unpack_from(f"{len(data) // 4}i", data)
    if flags & _socket.MSG_TRUNC:
        close_all(fds)
        raise ChannelError("a packet was cut: a message that is too long")
    if flags & _socket.MSG_CTRUNC:
        close_all(fds)
        raise Cut(_head(payload))
    return payload, fds


def _head(payload: bytes) -> Message:
    try:
        message: Message = json.loads(payload)
        return message if message.get("v") == VERSION else {}
    except (ValueError, AttributeError):
        return {}


def receive(sock: _socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors (the caller's from now on), or None at the end. BlockingIOError: none yet."""
    payload, fds = _receive_packet(sock)
    if not payload:
        close_all(fds)
        return None
    try:
        message: Message = json.loads(payload)
        if message.get("memfd"):
            with os.fdopen(fds.pop(0), "rb") as stream:
                stream.seek(0)
                document: Message = json.loads(stream.read())
            document.update((key, value) for key, value in message.items() if key == "bundle")
            message = document
        if "bundle" in message:
            fds[:] = _unbundle(fds.pop(0), message.pop("bundle"))
    except Cut:
        close_all(fds)
        raise Cut({key: message[key] for key in ("v", "id") if key in message}) from None
    except (ValueError, IndexError, AttributeError) as error:
        close_all(fds)
        raise ChannelError(f"a packet that is not a message: {error}") from error
    if not known(message.get("v")):
        close_all(fds)
        raise NewerVersion(message.get("v"), message.get("id"))
    return message, fds


def known(version: object) -> bool:
    """Whether this side understands messages of that version."""
    return isinstance(version, int) and 1 <= version <= VERSION


def peer_is_root(sock: _socket.socket) -> bool:
    """Whether the process at the other end is root of the host (a container's root shows as its mapped host id)."""
    _, uid, _ = unpack_from("3i", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))
    return int(uid) == 0
