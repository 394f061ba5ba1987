"""Processes: clone3, prctl, filesystem ids, descriptors, signals."""

from __future__ import annotations

import ctypes
import os
from struct import pack

from berth.kernel import number
from berth.kernel.libc import check, libc, syscall

CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 0x200000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

SECBIT_NO_SETUID_FIXUP = 4

_KERNEL_SIGACTION_SIZE = 32
_CLOSE_RANGE_CLOEXEC = 4
_SIG_BLOCK, _SIG_UNBLOCK = 0, 1
_KEYCTL_JOIN_SESSION_KEYRING = 1
_IOPRIO_WHO_PROCESS = 1


def clone3(flags: int, exit_signal: int = 17, cgroup_fd: int = -1) -> tuple[int, int]:
    """Like fork: (0, -1) in the child, (pid, pidfd) in the parent. Only for single-threaded processes.

    With `cgroup_fd` the child starts in that control group (v2). With CLONE_PARENT the child becomes a sibling; it then
    takes over the caller's own exit signal. Python's own fork hooks run; the C library's cached thread id stays stale,
    which matters to nothing but raise(3).
    """
    pidfd = ctypes.c_int(-1)
    if cgroup_fd >= 0:
        flags |= CLONE_INTO_CGROUP
    signal = 0 if flags & CLONE_PARENT else exit_signal
    arguments = pack("11Q", flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, signal, 0, 0, 0, 0, 0, max(cgroup_fd, 0))
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid: int = libc.syscall(number.CLONE3, buffer, len(arguments), 0, 0, 0, 0)
    error = ctypes.get_errno()
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0, -1
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error), "clone3")
    return pid, pidfd.value


def prctl(option: int, *arguments: int) -> int:
    """prctl(2) with missing arguments 0."""
    return check(libc.prctl(option, *(*arguments, 0, 0, 0, 0)[:4]), f"prctl {option}")


def die_with_parent() -> None:
    """SIGKILL when the parent ends. A change of ids, also of those for the filesystem, makes the kernel forget it."""
    prctl(PR_SET_PDEATHSIG, 9)


def share_fate(parent: int) -> None:
    """In a fork of `parent`: end when that does, also if it has ended already. Held beyond execve."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(137)


def set_filesystem_ids(uid: int) -> None:
    """The ids that new files get and permission checks use, of this thread; user and group alike."""
    libc.setfsgid(ctypes.c_uint(uid))
    libc.setfsuid(ctypes.c_uint(uid))


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from `first` on as close-on-exec."""
    syscall(number.CLOSE_RANGE, first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC, what="close_range")


def reset_signals() -> None:
    """Every signal at its default and none blocked, whatever this process inherited.

    By the system call: the C library keeps 32 and 33 for itself, which a process started by posix_spawn (make does it) may
    have inherited as ignored.
    """
    action = bytes(_KERNEL_SIGACTION_SIZE)
    for signal in range(1, 65):
        if signal not in (9, 19):
            syscall(number.RT_SIGACTION, signal, action, None, 8, what="rt_sigaction")
    empty = ctypes.create_string_buffer(128)
    check(libc.sigprocmask(2, empty, None), "sigprocmask")


def block_signals() -> None:
    """Block every signal that can be blocked; they wait for whoever comes next."""
    full = ctypes.create_string_buffer(b"\xff" * 128, 128)
    check(libc.sigprocmask(_SIG_BLOCK, full, None), "sigprocmask")


def join_session_keyring(name: str) -> None:
    """A new session keyring for this process and its children."""
    syscall(number.KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name.encode(), what="keyctl")


def personality(value: int) -> None:
    """The execution domain, which execve keeps."""
    check(libc.personality(ctypes.c_ulong(value)), "personality")


def ioprio_set(value: int) -> None:
    """The I/O class and priority of this process."""
    syscall(number.IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, value, what="ioprio_set")


def sched_setattr(policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int) -> None:
    """The scheduling of this process; times in nanoseconds."""
    values = pack("IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
    syscall(number.SCHED_SETATTR, 0, values, 0, what="sched_setattr")


def sethostname(name: str) -> None:
    """The host name of this UTS namespace."""
    raw = name.encode()
    check(libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname")


def setdomainname(name: str) -> None:
    """The NIS domain name of this UTS namespace."""
    raw = name.encode()
    check(libc.setdomainname(raw, ctypes.c_size_t(len(raw))), "setdomainname")


def start_time(pid: int) -> int:
    """When the process began, in clock ticks since boot: with the pid it names one process for good. 0 when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0
    finally:
        os.close(fd)
