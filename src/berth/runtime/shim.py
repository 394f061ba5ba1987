"""The shim: one small process per container, between init and the engine, that survives both engine and launcher.

    launcher ──fork──> shim ──fork──> birth (makes the container, tells engine and shim, ends)
                        └── parent of init, asleep until something happens; then runtime.keeper

What a process executes it makes its own: every object that it touches is a page that it no longer shares with the
launcher. So the shim does next to nothing until its container writes, ends, or the engine asks for something; a container
that idles costs hardly more than a bare fork. Lean code.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
from _struct import unpack_from
from marshal import loads

from berth.runtime import birth, under_way
from berth.runtime.keeper import Keeper
from berth.runtime.stream import hang_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any
else:
    # The module `signal` turns every number into an enumeration, which is more code than all the rest here.
    import _signal

_IGNORED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)
_ROOM = 1 << 18
_GONE = select.POLLIN | select.POLLHUP
_DESCRIPTORS = _socket.CMSG_SPACE(4 * birth.MOST_DESCRIPTORS)


def run(launch: ModuleType, fds: list[int], slot: bool = False) -> None:
    """The life of a shim, in a fresh fork of the launcher. Never returns. `fds`: answer, request, streams, reserved sockets;
    of a `slot` all but the answer come later, by way of birth.

    One function as far as the sleep, since every further one would cost memory.
    """
    status = 1
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        child = os.fork()
        if child == 0:
            near.close()
            birth.run(launch, fds, far, slot)
        # Birth is what takes time: everything else happens beside it.
        far.close()
        under_way.let_go()
        os.setsid()
        for number in _IGNORED:
            _signal.signal(number, _signal.SIG_IGN)
        name = os.open("/proc/self/comm", os.O_WRONLY)
        os.write(name, b"berth-shim")
        os.close(name)
        if not slot:
            _signal.alarm(birth.SECONDS + 5)
        data, ancillary, _, _ = near.recvmsg(_ROOM, _DESCRIPTORS, _socket.MSG_CMSG_CLOEXEC)
        if data[:4] == b"\0\0\0\0":
            os.waitpid(child, 0)
        elif data and not near.recv(1):
            # It has told us, but perhaps not the engine: what it made ends with us, and the engine tries again.
            data = b""
        if data:
            ok, joiner, watched, awake, passed = unpack_from(birth.HEAD, data)
            own = unpack_from("i" * (len(ancillary[0][2]) >> 2), ancillary[0][2]) if ancillary else ()
            if passed:
                os.close(fds[1])
                fds[1:] = own[-passed:]
                own = own[:-passed]
            _signal.alarm(0)
            if joiner and ok:
                os.waitpid(joiner, 0)
            if ok and not awake:
                os.close(fds[1])
                poll = select.poll()
                poll.register(fds[0], select.POLLIN)
                for fd in own[:watched]:
                    poll.register(fd, select.POLLIN)
                poll.register(near.fileno(), select.POLLIN)
                # That birth has ended, or the engine has gone, is no reason to wake up.
                while len(events := poll.poll()) == 1 and events[0][1] == _GONE:
                    if events[0][0] == fds[0]:
                        poll.unregister(fds[0])
                        os.close(fds[0])
                        fds[0] = -1
                    elif events[0][0] == near.fileno():
                        poll.unregister(near.fileno())
                        near.close()
                        os.waitpid(child, 0)
                        child = 0
                    else:
                        break
            if ok:
                _wake(launch, loads(data[birth.HEAD_SIZE :]), fds, own, awake, near, child).serve()
                status = 0
            else:
                _give_up(launch, loads(data[birth.HEAD_SIZE :]), fds, own)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _wake(
    launch: ModuleType,
    born: dict[str, Any],
    fds: list[int],
    own: Sequence[int],
    awake: int,
    near: _socket.socket,
    child: int,
) -> Keeper:
    held = dict(zip(born["names"], own, strict=True))
    messages = birth.read_head(fds[1])["streams"] if awake else []
    if awake:
        os.close(fds[1])
    connected = fds[2 : 2 + born["streams"]]
    engine = _socket.socket(fileno=fds[0]) if fds[0] >= 0 else None
    streams = list(zip(messages, connected, strict=True))
    return Keeper(launch, born, held, engine, streams, fds[2 + born["streams"] :], near, child)


def _give_up(launch: ModuleType, failed: dict[str, Any], fds: list[int], own: Sequence[int]) -> None:
    """There is no container: remove what was made of it, then say why."""
    if failed["cgroup"] is not None:
        launch.undo(failed["cgroup"], failed["pid"], failed["joiner"], list(own))
    for fd in fds[2 : 2 + failed["streams"]]:
        hang_up(_socket.socket(fileno=fd))
    if failed["failed"] is not None:
        birth.refuse(fds[0], failed["answer"], failed["failed"])
