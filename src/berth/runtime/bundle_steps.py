"""Steps of init that only launches by the OCI command line have. Lean; `install` adds them to those of `runtime.init`.

    keyring               the session's keyring
    host-pid              our number on the host, while there is the host's procfs
    runtime-hooks, hooks  the process that waits at `fd` runs the former, init itself the latter
    hold                  between create and start
    seccomp               that of `runtime.init`, with a listener whose descriptor goes to a socket
    leave                 execve by way of `runtime.trampoline`

Between create and start init waits in accept(2), on a socket that was bound before it was cloned: nobody needs to stay
for it, and who starts it hears whether execve has worked.
"""

from __future__ import annotations

import errno
import os
from _socket import SOL_SOCKET
from _socket import socket as Socket
from struct import pack

from berth.kernel import process, seccomp
from berth.runtime import hook, init
from berth.runtime.failure import Failure
from berth.runtime.message import receive, send, send_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from berth.runtime.init import Init
else:
    import _signal

_SCM_RIGHTS = 1
_ENDING = (1, 2, 3, 15)


def install() -> None:
    """Once, in the command."""
    init.STEPS.update(
        {
            "keyring": keyring,
            "host-pid": host_pid,
            "runtime-hooks": runtime_hooks,
            "hooks": hooks,
            "hold": hold,
            "seccomp": filter_calls,
            "leave": leave,
        }
    )


def keyring(state: Init, *, name: str) -> None:
    """A session keyring of the container's own: without it the caller's would be in reach."""
    try:
        process.join_session_keyring(name)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


def host_pid(state: Init) -> None:
    """The procfs at /proc is the host's until pivot."""
    state.host_pid = int(os.readlink("/proc/self"))


def runtime_hooks(state: Init, *, fd: int) -> None:
    """The mounts are there, the host's tree too: who waits runs prestart and createRuntime hooks in the host's namespaces."""
    with_parent = Socket(fileno=fd)
    send(with_parent, {"pid": state.host_pid})
    answer = receive(with_parent)
    with_parent.close()
    if answer is None:
        raise Failure("hook", errno.ECHILD, "who runs hooks has ended")
    if "failed" in answer[0]:
        raise Failure(*answer[0]["failed"])


def hooks(state: Init, *, stage: str, hooks: list[dict[str, Any]], text: str) -> None:
    """In the container's namespaces, and so with the process id that is seen there. Who makes or starts the container waits."""
    hook.run(stage, hooks, hook.with_pid(text, os.getpid()), state.sock.fileno())


def hold(state: Init, *, fd: int, program: str) -> None:
    """Everything is made: wait for start.

    Process 1 of a namespace gets no signal that it has no handler for; until start it ends as any process would.
    """
    _check_program(program, state.environment)
    for number in _ENDING:
        _signal.signal(number, lambda received, _frame: os._exit(128 + received))
    listener = Socket(fileno=fd)
    send(state.sock, {"held": True})
    state.sock.close()
    while True:
        accepted, _ = listener._accept()  # type: ignore[attr-defined]  # not in typeshed
        connection = Socket(fileno=accepted)
        answer = receive(connection)
        if answer is not None and "start" in answer[0]:
            break
        connection.close()
    listener.close()
    state.sock = connection


def _check_program(name: str, environment: dict[str, str]) -> None:
    """What execve will refuse is told to who creates, as far as it can be seen now."""
    path = init.find(name, environment)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise Failure("execve", error.errno or 0, name) from None
    if mode & 0o170000 == 0o040000 or not mode & 0o111:
        raise Failure("execve", errno.EACCES, name)


def filter_calls(state: Init, *, program: bytes, flags: int, first: int, listener: dict[str, Any] | None = None) -> None:
    """seccomp. Descriptors from `first` on do not go along. With a listener its descriptor and the process's state go to the
    socket `fd`, which is connected."""
    state.seal(first)
    if listener is None:
        seccomp.load(program, flags)
        return
    fd = seccomp.load(program, flags | seccomp.NEW_LISTENER)
    body = hook.with_pid(listener["text"], state.host_pid).encode()
    Socket(fileno=listener["fd"]).sendmsg([body], [(SOL_SOCKET, _SCM_RIGHTS, pack("i", fd))])
    os.close(fd)


def leave(state: Init, *, args: list[str], program: int, report: int, preserve: int) -> None:
    """execve of the container's program; `preserve` descriptors above standard error go along. With `program` -1 directly."""
    path = init.find(args[0], state.environment)
    state.seal(3 + preserve)
    process.reset_signals()
    send(state.sock, {"exec": args[0]})
    try:
        if program < 0:
            os.execve(path, args, state.environment)
        os.dup2(state.sock.fileno(), report)
        # It may have been there already, which dup2 leaves as it is.
        os.set_inheritable(report, True)
        os.execve(program, [path, *args], state.environment)
    except OSError as error:
        send_errno(state.sock, error.errno or 0)
        os._exit(127)
