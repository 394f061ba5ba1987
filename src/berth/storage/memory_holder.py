"""The holder of a tmpfs volume that is in use: a process of its own, which outlives the engine and ends with the last user.

    connection -> who uses the volume (the engine while it starts a container, then that container's shim)
    holder -> user    {"pid", "path"}: the filesystem is at /proc/PID/root/PATH, or {"errno", "option"}: the kernel refuses it

The filesystem is mounted in the worker's own mount namespace only, and so nowhere on the host; containers get clones of it. A
connection that is open is a user: nobody has to tell of an end, whoever is killed. The socket's name goes before the holder does,
so a connection that was answered is never one to a holder that ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
from contextlib import suppress

from berth.kernel.mount import move_mount, new_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Until the first user comes: an engine that was killed after it started this does not.
_PATIENCE_MS = 10_000


def main(arguments: Sequence[str], fds: Sequence[int]) -> None:
    """`arguments`: where the socket is, where to mount, and source and options of the filesystem. `fds`: the listening socket."""
    path, place, device, options = arguments
    listener = socket.socket(fileno=fds[0])
    listener.setblocking(False)
    answer = json.dumps(_mount(place, device, json.loads(options))).encode()
    try:
        _serve(listener, answer)
    finally:
        # Whoever comes now finds nobody and starts another; who came just before has no answer, and does the same.
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.close()


def _mount(place: str, device: str, options: list[tuple[str, str | None]]) -> dict[str, object]:
    try:
        mounted = new_mount("tmpfs", (("source", device), *((key, value) for key, value in options)))
    except OSError as error:
        return {"errno": error.errno, "option": error.filename}
    target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    move_mount(mounted, target)
    os.close(target)
    os.close(mounted)
    return {"pid": os.getpid(), "path": place}


def _serve(listener: socket.socket, answer: bytes) -> None:
    """Until the last user has gone."""
    users: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while ready := poll.poll(None if users else _PATIENCE_MS):
        gone = [fd for fd, _ in ready if fd in users]
        for fd in gone:
            poll.unregister(fd)
            users.pop(fd).close()
        if gone and not users:
            # Also when somebody new waits: what the earlier ones wrote ended with them.
            return
        if any(fd == listener.fileno() for fd, _ in ready):
            _welcome(listener, answer, users, poll)


def _welcome(listener: socket.socket, answer: bytes, users: dict[int, socket.socket], poll: select.poll) -> None:
    try:
        user, _ = listener.accept()
    except OSError:
        return
    try:
        user.send(answer)
    except OSError:
        user.close()
        return
    # Nobody says anything on it: readable is its end.
    users[user.fileno()] = user
    poll.register(user, select.POLLIN)
