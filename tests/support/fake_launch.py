"""A launch module without containers: fork and exec, for tests of launcher, shim and streams. Lean, as the real one is."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import time

from berth.kernel import process


class Failure(Exception):
    def __init__(self, step, errno, path):
        super().__init__(step, errno, path)
        self.step = step
        self.errno = errno
        self.path = path


class Process:
    def __init__(self):
        self.pid = 0
        self.pidfd = -1
        self.joiner = 0
        self.console = []
        self.resolver = []


class Entered:
    def __init__(self, process):
        self.pid = process.pid
        self.pidfd = process.pidfd
        self.console = process.console[0] if process.console else None


def prepare_launcher(store):
    pass


def make(plan, stdio, meanwhile):
    """The process becomes the caller's sibling: a child of the shim."""
    if plan.get("kill_shim"):
        shim = os.getppid()
        os.kill(shim, signal.SIGKILL)
        while os.getppid() == shim:
            time.sleep(0.001)
    if plan.get("kill_birth"):
        os.kill(os.getpid(), signal.SIGKILL)
    work = Process()
    # In place of a mount namespace, which is held until the end.
    work.mounts = os.open("/dev/null", os.O_RDONLY)
    try:
        meanwhile()
    except Failure as failure:
        return work, list(failure.args)
    if plan.get("resolver_fds"):
        work.resolver = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    return work, _begin(plan, stdio, work, process.CLONE_PARENT)


def undo(group, pid, joiner, fds):
    if pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def enter(state, plan, stdio):
    work = Process()
    failed = _begin(plan, stdio, work, 0)
    if failed:
        undo({}, work.pid, 0, [])
        os.close(work.pidfd)
        raise Failure(*failed)
    return Entered(work)


def _begin(plan, stdio, work, flags):
    console = None
    if stdio is None:
        console, slave = os.openpty()
        os.set_inheritable(console, False)
        height, width = plan["size"]
        fcntl.ioctl(console, 0x5414, struct.pack("4H", height, width, 0, 0))
        stdio = (slave, slave, slave)
    ours, theirs = os.pipe()
    work.pid, work.pidfd = process.clone3(flags)
    if work.pid == 0:
        _child(plan, stdio, console, theirs)
    os.close(theirs)
    if console is not None:
        os.close(stdio[0])
    answer = os.read(ours, 64)
    os.close(ours)
    if answer:
        if console is not None:
            os.close(console)
        return ["execve", int(answer), plan["args"][0]]
    work.console = [] if console is None else [console]
    return None


def _child(plan, stdio, console, theirs):
    try:
        os.setsid()
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_DFL)
        if console is not None:
            fcntl.ioctl(stdio[0], 0x540E, 0)
        for target, source in enumerate([os.dup(fd) for fd in stdio]):
            os.dup2(source, target)
        os.execvpe(plan["args"][0], plan["args"], {"PATH": os.environ.get("PATH", "/bin:/usr/bin"), **plan.get("env", {})})
    except OSError as error:
        os.write(theirs, str(error.errno).encode())
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(127)


def end_rest(state):
    return False


def cleanup(state):
    return True
