"""A further process in a container that runs. Lean; runs in the shim.

The shim clones an entrant into the container's cgroup2 directory; it joins the v1 groups, enters the namespaces by a
pidfd of init, and clones the process itself with CLONE_PARENT: only children are in a joined pid namespace, and so the
process is the shim's own child. It carries out the last steps of a launch.

    entrant -> shim    {"pid"} + pidfd, or {"failed"}
    process -> shim    {"console"} + fd, then {"exec"} and the end, or {"failed"}
"""

from __future__ import annotations

import errno
import os

from berth import failpoint
from berth.kernel import namespace, process
from berth.kernel.file import write_text
from berth.runtime import cgroup, init, labelling
from berth.runtime.failure import Failure, record
from berth.runtime.message import close_all, pair, receive, receive_errno, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from typing import Any, NoReturn

    Stdio = tuple[int, int, int]


class Entered:
    """An exec that runs."""

    def __init__(self, pid: int, pidfd: int, console: int | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console


def enter(state: dict[str, Any], plan: dict[str, Any], stdio: Stdio | None) -> Entered:
    """Run the process of an exec plan; returns when execve has succeeded. Failure leaves nothing behind."""
    group = state["cgroup"]
    target = open_init(state)
    near, far = pair()
    ours, theirs = pair()
    failpoint.hit("exec.enter.before-clone")
    entrant, entrant_fd = _clone(group, state["pid"])
    if entrant == 0:
        near.close()
        ours.close()
        _entrant(state, plan, stdio, target, far, theirs)
    far.close()
    theirs.close()
    failpoint.hit("exec.enter.after-clone")
    close_all([target, entrant_fd])
    answer = receive(near)
    near.close()
    os.waitpid(entrant, 0)
    value, fds = answer or ({"failed": ["enter", errno.ECHILD, "the process that enters was killed"]}, [])
    if "failed" in value:
        ours.close()
        raise Failure(*value["failed"])
    try:
        console = _wait(ours)
    except Failure:
        os.kill(value["pid"], 9)
        os.waitpid(value["pid"], 0)
        close_all(fds)
        raise
    finally:
        ours.close()
    failpoint.hit("exec.enter.after-exec")
    return Entered(value["pid"], fds[0], console)


def open_init(state: dict[str, Any]) -> int:
    """A pidfd of init, which is surely the one that was started."""
    try:
        fd = os.pidfd_open(state["pid"])
    except OSError as error:
        raise Failure("enter", error.errno or 0, "the container's first process has ended") from None
    if process.start_time(state["pid"]) != state["start_time"]:
        os.close(fd)
        raise Failure("enter", errno.ESRCH, "the container's first process has ended")
    return fd


def _clone(group: dict[str, Any], init_pid: int) -> tuple[int, int]:
    """The entrant, in the container's cgroup2 directory; or where init is, when the container has groups of its own there
    and hands controllers down to them: its top then takes no process (EBUSY)."""
    directory = cgroup.open_v2(group)
    try:
        return process.clone3(0, cgroup_fd=directory)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    finally:
        if directory >= 0:
            os.close(directory)
    directory = cgroup.open_v2({**group, "path": cgroup.path_of(group, init_pid)})
    try:
        return process.clone3(0, cgroup_fd=directory)
    finally:
        if directory >= 0:
            os.close(directory)


def _wait(sock: Socket) -> int | None:
    console: int | None = None
    executed = False
    while answer := receive(sock):
        value, fds = answer
        if "failed" in value:
            close_all(fds if console is None else [console, *fds])
            raise Failure(*value["failed"])
        if "console" in value:
            console = fds[0]
        if "exec" in value:
            executed = True
            if number := receive_errno(sock):
                close_all([] if console is None else [console])
                raise Failure("execve", number, value["exec"])
            break
    if not executed:
        raise Failure("enter", errno.ECHILD, "the process was killed before it could start")
    return console


def _entrant(
    state: dict[str, Any], plan: dict[str, Any], stdio: Stdio | None, target: int, far: Socket, theirs: Socket
) -> NoReturn:
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        failpoint.hit("exec.entrant.before-cgroup")
        cgroup.enter_v1(state["cgroup"])
        _adjust_oom(plan["oom_score_adj"])
        own_streams(state["base"], stdio)
        # An engine that is older than its shim's code knows no labels.
        labelling.give(plan.get("labels") or {})
        init.raise_limits(0, plan["steps"])
        path, flags = ("", 0) if plan["privileged"] else state["seccomp"]
        steps = _steps(state, plan, init.read_program(path), flags)
        namespace.setns(target, state["namespaces"])
        failpoint.hit("exec.entrant.before-process")
        pid, pidfd = process.clone3(process.CLONE_PARENT)
        if pid == 0:
            far.close()
            init.run(steps, init.Init(theirs, stdio, {}))
        failpoint.hit("exec.entrant.after-process")
        send(far, {"pid": pid}, [pidfd])
    except BaseException as error:
        try:
            send(far, {"failed": record("enter", error)})
        finally:
            os._exit(1)
    os._exit(0)


def _steps(state: dict[str, Any], plan: dict[str, Any], program: bytes, flags: int) -> list[init.Step]:
    """The exec plan's steps with what the container decides: its user namespace, its own user, its filter."""
    steps: list[init.Step] = [("identity", {"user": bool(state["namespaces"] & namespace.CLONE_NEWUSER), "unshare": 0})]
    for name, arguments in plan["steps"]:
        if name == "user" and plan["inherit_user"]:
            user, groups = state["user"]
            steps.append((name, {**arguments, "name": user, "groups": groups}))
        elif name == "seccomp":
            if program:
                steps.append((name, {**arguments, "program": program, "flags": flags}))
        else:
            steps.append((name, arguments))
    return steps


def _adjust_oom(score: int | None) -> None:
    if score is None:
        return
    try:
        write_text("/proc/self/oom_score_adj", str(score))
    except PermissionError:
        # lowering it needs CAP_SYS_RESOURCE, which an engine inside a container may not have
        pass


def own_streams(base: int, stdio: Stdio | None) -> None:
    """Pipes belong to the container's root, else /dev/stdout cannot be opened there."""
    if not base or stdio is None:
        return
    for fd in stdio:
        if os.fstat(fd).st_mode & 0o170000 == 0o010000:
            os.fchown(fd, base, base)
