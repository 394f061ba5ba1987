"""A launch module without containers: fork and exec, for tests of launcher, shim and streams. Lean, as the real one is."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys


class Failure(Exception):
    def __init__(self, step, errno, path):
        super().__init__(step, errno, path)
        self.step = step
        self.errno = errno
        self.path = path


class Started:
    def __init__(self, pid, console):
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.console = console
        self.resolver_sockets = []
        self.state = {"pid": pid}
        self.cgroup = {"path": "/none", "roots": {}, "v2": None, "enabled": []}


def prepare_launcher(store):
    pass


def start(plan, stdio, extra_fds):
    if plan.get("kill_shim"):
        os.kill(os.getpid(), signal.SIGKILL)
    console = None
    if stdio is None:
        console, slave = os.openpty()
        os.set_inheritable(console, False)
        height, width = plan["size"]
        fcntl.ioctl(console, 0x5414, struct.pack("4H", height, width, 0, 0))
        stdio = (slave, slave, slave)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(plan, stdio, console, theirs)
    os.close(theirs)
    if console is not None:
        os.close(stdio[0])
    answer = os.read(ours, 64)
    os.close(ours)
    if answer:
        os.waitpid(pid, 0)
        raise Failure("execve", int(answer), plan["args"][0])
    started = Started(pid, console)
    if plan.get("resolver_fds"):
        started.resolver_sockets = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    return started


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


def enter(state, plan, stdio):
    return start(plan, stdio, {})


def cleanup(state):
    return False
