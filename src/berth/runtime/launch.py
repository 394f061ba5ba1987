"""Making a container, seen from outside: the lean half that runs in launcher and shim.

    prepare_launcher(store)      once: a private mount namespace with a scratch tmpfs
    start(plan, stdio, fds)      in the shim: a container from a plan; returns when execve has succeeded
    enter(state, plan, stdio)    in the shim: a further process in it
    end_rest(state)              in the shim, or wherever the group is still known: after its end
    cleanup(state)               afterwards

A slot of the warm pool is `prepare_slot`, perhaps `prime`, then `fill`. The work is done by runtime.setter_up.
"""

from __future__ import annotations

import errno
import gc
import os
from time import sleep

from berth.kernel import mount, namespace, process
from berth.kernel.libc import look_up
from berth.runtime import cgroup, setter_up, source
from berth.runtime.enter import Entered, enter
from berth.runtime.failure import Failure, record
from berth.runtime.message import close_all, pair, receive, send
from berth.runtime.setter_up import SetUp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable
    from typing import Any, NoReturn

    Plan = dict[str, Any]
    State = dict[str, Any]
    Stdio = tuple[int, int, int]

__all__ = [
    "SCRATCH",
    "Entered",
    "Failure",
    "SetUp",
    "Started",
    "cleanup",
    "end_rest",
    "enter",
    "fill",
    "leave_host_mounts",
    "make",
    "prepare_launcher",
    "prepare_slot",
    "reap_strays",
    "settle",
    "start",
    "start_alone",
    "undo",
]

SCRATCH = "mnt"
# By every launch, through ctypes.
_CALLED = (
    "capget", "capset", "madvise", "mmap", "mount", "prctl", "setfsgid", "setfsuid", "sethostname", "setns", "sigprocmask",
    "umount2", "unshare",
)  # fmt: skip
_KILL = 9


class Started:
    """A container that runs. `state` is JSON-able and all that `enter` and `cleanup` need, also after a restart."""

    def __init__(self, pid: int, pidfd: int, console: int | None, resolver_sockets: list[int], state: State) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console
        self.resolver_sockets = resolver_sockets
        self.state = state
        self.cgroup: dict[str, Any] = state["cgroup"]


def prepare_launcher(store: str) -> None:
    """Once in the launcher, before any request: its own mount namespace, and nothing in memory that forks would touch."""
    leave_host_mounts(store)
    setter_up.keep_habits()
    look_up(_CALLED)
    gc.collect()
    gc.freeze()


def leave_host_mounts(store: str) -> None:
    """Into a mount namespace of our own, with what every launch needs of it.

    <store>/mnt becomes a tmpfs there, and the place for short-lived mount points; on the host it stays an empty folder.
    """
    scratch = f"{store}/{SCRATCH}"
    os.makedirs(scratch, 0o700, exist_ok=True)
    source.keep_host_mounts()
    namespace.unshare(namespace.CLONE_NEWNS)
    mount.make_slave()
    mount.mount("scratch", scratch, "tmpfs", mount.MS_NODEV, "mode=700,size=1m")
    # The mounter of an overlay takes another fsuid for a moment and must keep its capabilities meanwhile.
    process.prctl(process.PR_SET_SECUREBITS, process.SECBIT_NO_SETUID_FIXUP)


def start_alone(plan: Plan, stdio: Stdio | None) -> Started:
    """Make the container without a setter-up: for a command that lives for this launch. Init is our child."""
    work = SetUp(plan, 0)
    try:
        work.found()
        work.complete(plan, stdio, lambda: None)
    except BaseException as error:
        fds = [work.pidfd] if work.pidfd >= 0 else []
        undo(plan["cgroup"], work.pid, work.joiner, [*fds, *work.console, *work.resolver])
        failed: Any = record(work.step, error)
        raise Failure(*failed) from None
    if work.joiner:
        os.waitpid(work.joiner, 0)
    state = {**plan["state"], "pid": work.pid, "start_time": process.start_time(work.pid)}
    return Started(work.pid, work.pidfd, work.console[0] if work.console else None, work.resolver, state)


def start(plan: Plan, stdio: Stdio | None, extra_fds: dict[str, int]) -> Started:
    """Make the container. Failure leaves nothing behind. `extra_fds` are not passed on to the container."""
    ours, theirs = pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _set_up(plan, stdio, theirs)
    theirs.close()
    answer = receive(ours)
    ours.close()
    os.waitpid(pid, 0)
    value, fds = answer or ({"failed": ["launch", errno.ECHILD, "set-up ended"]}, [])
    if "failed" in value:
        undo(plan["cgroup"], value.get("pid", 0), value.get("joiner", 0), fds)
        if answer is None:
            reap_strays()
        raise Failure(*value["failed"])
    if value["joiner"]:
        os.waitpid(value["joiner"], 0)
    state = {**plan["state"], "pid": value["pid"], "start_time": process.start_time(value["pid"])}
    pidfd, *rest = fds
    console_fd = rest.pop(0) if value["console"] else None
    return Started(value["pid"], pidfd, console_fd, rest, state)


def make(plan: Plan, stdio: Stdio | None, meanwhile: Callable[[], None]) -> tuple[SetUp, list[str | int] | None]:
    """For a caller that is itself a fork of the shim, made for this: the container, as the caller's sibling.

    With it what failed, as a record, or None. After a failure the shim calls `undo`; in both cases it reaps the joiner.
    `meanwhile` is called before the container's program is executed, while init is busy.
    """
    work, failed = _found(plan)
    return work, failed or fill(work, plan, stdio, meanwhile)


def prepare_slot(plan: Plan) -> tuple[SetUp, list[str | int] | None]:
    """The first half of `make`, completed: of the plan only its shape and its names matter (see runtime.ahead)."""
    work, failed = _found(plan)
    if failed is None:
        setter_up.own_habit().watch()
        failed = work.await_early()
        setter_up.own_habit().prepare()
    return work, failed


def _found(plan: Plan) -> tuple[SetUp, list[str | int] | None]:
    work = SetUp(plan)
    try:
        work.found()
    except BaseException as error:
        return work, record(work.step, error)
    return work, None


def fill(work: SetUp, plan: Plan, stdio: Stdio | None, meanwhile: Callable[[], None]) -> list[str | int] | None:
    """The second half: a container of this plan, which has the shape, ids and control group of the first."""
    try:
        work.hold_mounts()
        work.complete(plan, stdio, meanwhile)
    except BaseException as error:
        return record(work.step, error)
    return None


def prime(work: SetUp, plan: Plan, meanwhile: Callable[[], None]) -> list[str | int] | None:
    """For a slot whose container is known and may be started: all that does not depend on when, and on who listens."""
    try:
        work.hold_mounts()
        work.prime(plan, meanwhile)
    except BaseException as error:
        return record(work.step, error)
    return None


def settle() -> None:
    """At the end of a setter-up that was a slot: the next ones know what it needed."""
    setter_up.own_habit().learn()


def undo(group: dict[str, Any], pid: int, joiner: int, fds: list[int]) -> None:
    """In the shim, after a failure: nothing is left of the container."""
    close_all(fds)
    for child in pid, joiner:
        if child:
            try:
                os.kill(child, _KILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
    cgroup.kill(group)
    cgroup.remove(group)


def reap_strays() -> None:
    """In a shim whose setter-up was killed: init, which it had no time to tell us of, ends with it. Waits a few seconds."""
    for _ in range(2000):
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            sleep(0.002)


def end_rest(state: State) -> bool:
    """After init's end: kill what is left in the control group. True when the kernel ran out of memory."""
    group = state["cgroup"]
    killed = cgroup.oom_kills(group) > 0
    cgroup.kill(group)
    return killed or cgroup.oom_kills(group) > 0


def cleanup(state: State) -> bool:
    """After `end_rest`: remove the control group; False when the kernel does not let it go in time."""
    try:
        cgroup.remove(state["cgroup"])
    except OSError:
        # EBUSY: a process that cannot die yet, in an uninterruptible wait
        return False
    return True


def _set_up(plan: Plan, stdio: Stdio | None, shim: Socket) -> NoReturn:
    try:
        os.setsid()
        work, failed = make(plan, stdio, lambda: None)
        if failed is None:
            value: dict[str, Any] = {"pid": work.pid, "joiner": work.joiner, "console": bool(work.console)}
            send(shim, value, [work.pidfd, *work.console, *work.resolver])
        else:
            fds = [work.pidfd] if work.pidfd >= 0 else []
            send(shim, {"failed": failed, "pid": work.pid, "joiner": work.joiner}, fds)
    finally:
        os._exit(0)
