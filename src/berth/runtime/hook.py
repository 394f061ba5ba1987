"""OCI hooks: programs that are given the container's state on standard input. Lean: init runs some of them.

Whatever a hook prints goes into the message of its failure; nothing of it is shown otherwise.
"""

from __future__ import annotations

import os
from select import POLLIN, poll
from time import monotonic

from berth.kernel import process
from berth.runtime.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Hook = dict[str, Any]

PID = "\0"
"""Stands in a state for the process id, which is not known yet when the text is made."""
_PID_TEXT = '"\\u0000"'
_SHOWN = 4096
_KILL = 9


def with_pid(state: str, pid: int) -> str:
    """The text of a state with the process id in its places."""
    return state.replace(_PID_TEXT, str(pid))


def run(stage: str, hooks: list[Hook], state: str, heed: int = -1) -> None:
    """Run the hooks of a stage in their order. Failure with a sentence when one fails, cannot be run or takes too long.

    `heed` is a socket: when its peer has gone, the hook is ended, and has failed.
    """
    for number, entry in enumerate(hooks):
        problem = _run(entry, state, heed)
        if problem:
            raise Failure("hook", 0, f"error running {stage} hook #{number}: {problem}")


def _run(entry: Hook, state: str, heed: int) -> str:
    """What went wrong, or nothing. A file in memory holds the state, so that nobody waits for a hook that does not read it."""
    memory = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(memory, state.encode())
    os.lseek(memory, 0, os.SEEK_SET)
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        us = os.getpid()
        pid = os.fork()
        if pid == 0:
            # Nobody would heed what it says, end it when its time is over, or know that it still is at work.
            process.share_fate(us)
            _execute(entry, memory, write)
        os.close(write)
        write = -1
        return _await(entry, pid, read, heed)
    finally:
        for fd in memory, read, write:
            if fd >= 0:
                os.close(fd)


def _execute(entry: Hook, memory: int, output: int) -> NoReturn:
    path = entry["path"]
    try:
        for number, fd in enumerate((memory, output, output)):
            os.dup2(fd, number)
        process.close_on_exec_from(3)
        process.reset_signals()
        environment = dict(item.partition("=")[::2] for item in entry["env"]) if entry.get("env") else dict(os.environ)
        os.execve(path, entry.get("args") or [path], environment)
    except BaseException as error:
        os.write(2, f"{path}: {error}".encode())
    os._exit(127)


def _await(entry: Hook, pid: int, read: int, heed: int) -> str:
    timeout = entry.get("timeout")
    deadline = None if timeout is None else monotonic() + timeout
    pidfd = os.pidfd_open(pid)
    waiter = poll()
    waiter.register(pidfd, POLLIN)
    waiter.register(read, POLLIN)
    if heed >= 0:
        # That it has hung up is told without being asked for.
        waiter.register(heed, 0)
    output = b""
    try:
        while True:
            left = None if deadline is None else max(0, int((deadline - monotonic()) * 1000))
            ready = dict(waiter.poll(left))
            if heed in ready:
                return _end(pid, "who waited for it has ended")
            if read in ready:
                part = os.read(read, _SHOWN)
                output = (output + part)[:_SHOWN]
                if not part:
                    waiter.unregister(read)
            elif pidfd in ready:
                return _verdict(os.waitpid(pid, 0)[1], output)
            if not ready or left == 0:
                return _end(pid, f"{entry['path']} did not end within {timeout} seconds")
    finally:
        os.close(pidfd)


def _end(pid: int, problem: str) -> str:
    os.kill(pid, _KILL)
    os.waitpid(pid, 0)
    return problem


def _verdict(status: int, output: bytes) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return ""
    how = f"exit status {code}" if code > 0 else f"signal {-code}"
    return f"{how}, output: {output.decode(errors='replace').strip()}"
