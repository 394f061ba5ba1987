"""The worker that touches a container's tree, a process of its own: it enters one tree, serves requests, and ends.

    engine -> parent   {"tree": [kind, ...]}, with the control socket of a new worker, which the parent forks
                       kind is `pid PID UID_BASE`, or `overlay JSON` with store, layers, upper, work and binds
                       {"expand": [ratio, limit]}, with control socket, source and sink: another kind, see `expansion`
    engine -> worker   {"op": name, ...}, with descriptors: stream sockets, directories of the host
    worker -> engine   {"ok": value} or {"error": {"kind": class of berth.errors, "message": text}}

one at a time, on SEQPACKET sockets; the first message from the worker says that it is ready. It never changes its root:
paths are resolved by openat2 from a descriptor, so nothing of the tree is ever executed, loaded or looked up by a library.
Everything is imported before a tree is entered. It ends when its socket closes.

The parent only forks, so that imports are paid once for many trees. It ends after a short idle time, or with the engine.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys

from berth import errors
from berth.errors import BerthError
from berth.kernel.capability import capset, effective, mask
from berth.storage import expansion
from berth.storage.space import translate
from berth.storage.tree_entry import Entered, enter_overlay, enter_pid
from berth.storage.tree_work import OPERATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LONGEST_MESSAGE = 1 << 17
MOST_DESCRIPTORS = 250
IDLE_SECONDS = 2.0


def main(arguments: Sequence[str], fds: Sequence[int]) -> None:
    """The parent: fork a worker for each tree that is asked for. `fds` is the engine's socket."""
    engine = socket.socket(fileno=fds[0])
    engine.settimeout(IDLE_SECONDS)
    os.umask(0)
    # With this one ext4 would take what is copied into a volume beyond its size.
    rights = effective() & ~mask(("CAP_SYS_RESOURCE",))
    capset(rights, rights, 0)
    # The kernel reaps the workers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        try:
            data, passed, _, _ = socket.recv_fds(engine, LONGEST_MESSAGE, 3)
        except OSError:
            return
        if not data:
            return
        if os.fork() == 0:
            _live(engine, json.loads(data), passed)
        for fd in passed:
            os.close(fd)


def _live(engine: socket.socket, task: dict[str, Any], fds: list[int]) -> None:
    """The life of a worker. Never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        engine.close()
        if "expand" in task:
            expansion.run(*fds, *task["expand"])
        else:
            _work(task["tree"], socket.socket(fileno=fds[0]))
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _work(arguments: list[str], control: socket.socket) -> None:
    try:
        tree = _enter(arguments)
    except (OSError, BerthError) as error:
        _answer(control, _failure(error, "opening the filesystem of the container"))
        return
    with tree:
        _answer(control, {"ok": None})
        while _serve(control, tree):
            pass
    try:
        control.send(b'{"ok": null}')
    except OSError:
        pass


def _enter(arguments: list[str]) -> Entered:
    if arguments[0] == "pid":
        return enter_pid(int(arguments[1]), int(arguments[2]))
    return enter_overlay(json.loads(arguments[1]))


def _serve(control: socket.socket, tree: Entered) -> bool:
    """One request; false at the end."""
    try:
        data, fds, _, _ = socket.recv_fds(control, LONGEST_MESSAGE, MOST_DESCRIPTORS)
    except OSError:
        return False
    if not data:
        return False
    try:
        request: dict[str, Any] = json.loads(data)
        name = request.pop("op")
        if name == "close":
            return False
        try:
            answer: dict[str, Any] = {"ok": OPERATIONS[name](tree, fds, **request)}
        except (OSError, BerthError) as error:
            answer = _failure(error, _ACTIONS.get(name, name))
    finally:
        for fd in fds:
            os.close(fd)
    return _answer(control, answer)


_ACTIONS = {
    "get": "reading from the container",
    "export": "reading from the container",
    "put": "unpacking the archive",
    "stat": "looking at the path",
    "read_file": "reading the file",
    "make_directories": "making directories",
    "copy_out": "copying from the container",
    "copy_in": "copying into the container",
}


def _failure(error: OSError | BerthError, action: str) -> dict[str, Any]:
    known = translate(error, action) if isinstance(error, OSError) else error
    kind = next(parent.__name__ for parent in type(known).__mro__ if vars(errors).get(parent.__name__) is parent)
    return {"error": {"kind": kind, "message": known.message}}


def _answer(control: socket.socket, answer: dict[str, Any]) -> bool:
    try:
        control.send(json.dumps(answer).encode())
    except OSError:
        return False
    return True
