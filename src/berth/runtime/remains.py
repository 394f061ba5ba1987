"""What a dead shim leaves behind, seen from the engine: processes, a control group, run files, and no exit record."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

from berth import failpoint
from berth.contract.runtime import Exit
from berth.kernel.fs import remove_tree
from berth.kernel.process import start_time
from berth.runtime import binary, cgroup, cgroup_layout, record

if TYPE_CHECKING:
    from berth.runtime.record import Document

_PATIENCE_MS = 5000
_HEX = set("0123456789abcdef")


def is_id(text: str) -> bool:
    """Whether it is a container's id."""
    return len(text) == 64 and set(text) <= _HEX


def exit_of(document: Document) -> Exit:
    """An exit record, or the `exit` of a message, as a value."""
    return Exit(
        code=int(document["code"]),
        signal=int(document["signal"]),
        at=float(document["at"]),
        oom_killed=bool(document.get("oom_killed", False)),
        ran_for=document.get("ran_for"),
    )


def send_signal(pid: int, started: int, number: int) -> int:
    """Signal the process that has this pid and this start time, and no other: its pidfd (the caller's), or -1 when it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return -1
    # The pidfd pins the process; if the start time still fits now, it is the one that was meant.
    if start_time(pid) == started:
        try:
            signal.pidfd_send_signal(pidfd, number)
            return pidfd
        except ProcessLookupError:
            pass
    os.close(pidfd)
    return -1


def end_process(pid: int, started: int) -> None:
    """SIGKILL, and wait until it has ended."""
    pidfd = send_signal(pid, started, signal.SIGKILL)
    if pidfd >= 0:
        await_end(pidfd)
        os.close(pidfd)


def kill(pidfd: int) -> None:
    """SIGKILL, if it still is there."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


def await_end(pidfd: int) -> bool:
    """Wait a few seconds for the end of a process; whether it came. Blocks: not for the engine's loop."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_PATIENCE_MS))


def group_of(name: str, id: str) -> cgroup.Group:
    """The control group that a container of this engine has, if it has one."""
    roots, v2, enabled = cgroup_layout.layout().parts()
    return {"path": f"/{name}/{id}", "roots": roots, "v2": v2, "enabled": cgroup_layout.usual(enabled)}


def bury(run: str, id: str, directory: str, group: cgroup.Group, state: Document | None, status: int | None = None) -> Exit:
    """The shim was killed: end what is left of the container and write the exit record that it could not write. Blocks.

    `status` is init's wait status, where it can still be learned; without it, init counts as killed.
    """
    found = record.read_exit(run, id, directory)
    if found is not None:
        # The shim may still be there, for a client that has not taken all of its output yet.
        forget_foreign(run, id)
        empty(group)
        return exit_of(found)
    if state is not None:
        end_process(state["shim"], state["shim_start"])
        end_process(state["pid"], state["pid_start"])
    oom = cgroup.oom_kills(group) > 0
    forget_foreign(run, id)
    empty(group)
    ended = record.ended(signal.SIGKILL if status is None else status, time.time())
    document: Document = {"v": 1, **ended, "oom_killed": oom}
    if state is not None:
        document |= {"pid": state["pid"], "started_at": state["started_at"]}
        if "began" in state:
            document["ran_for"] = record.uptime() - state["began"]
    try:
        record.write_exit(run, id, directory, document)
    except OSError:
        # No place for it anywhere: whoever asked gets it now, and a later engine finds it the same way.
        pass
    record.remove(record.socket_path(run, id))
    return exit_of(document)


def forget_foreign(run: str, id: str) -> None:
    """Have what another runtime's binary keeps of a container removed by it. Blocks."""
    command = record.read(record.command_path(run, id))
    if command is not None:
        failpoint.hit("foreign.forget.before-delete")
        binary.delete(command, id)
        failpoint.hit("foreign.forget.after-delete")


def has_group(group: cgroup.Group) -> bool:
    """Whether any directory of the control group is left."""
    return any(os.path.isdir(path) for path in cgroup.directories(group))


def pids_beside(pid: int) -> list[int]:
    """The processes in the pid namespace of one, for hosts without control groups. In the host's own it stands alone."""
    found = []
    try:
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
        if namespace == os.readlink("/proc/self/ns/pid"):
            return [pid]
    except OSError:
        return []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                found.append(int(entry))
        except OSError:
            # It has ended meanwhile.
            continue
    return found


def empty(group: cgroup.Group) -> None:
    """Kill what is in the control group and remove it. Blocks."""
    if has_group(group):
        cgroup.kill(group)
        cgroup.remove(group)


def remove(run: str, name: str, id: str) -> None:
    """End and remove whatever there is of a container, run files included. Blocks."""
    state = record.read(record.state_path(run, id))
    if state is not None:
        end_process(state["shim"], state["shim_start"])
        end_process(state["pid"], state["pid_start"])
    forget_foreign(run, id)
    empty(state["cgroup"] if state is not None else group_of(name, id))
    record.remove_run_files(run, id)
    # What was being written when its writer was killed.
    for name in _entries(record.shims(run)):
        if name.startswith(f"{id}."):
            record.remove(f"{record.shims(run)}/{name}")


def known_ids(run: str, name: str) -> set[str]:
    """The ids that have run files or a control group."""
    found = {entry.split(".", 1)[0] for entry in _entries(record.shims(run))}
    roots, v2, _ = cgroup_layout.layout().parts()
    for root in {*roots.values(), *([v2] if v2 else [])}:
        found.update(_entries(f"{root}/{name}"))
    return {id for id in found if is_id(id)}


def remove_engine(run: str, name: str) -> None:
    """The engine stops with its containers: remove the parent of their control groups and the run directory. What is still in
    use stays. Blocks."""
    if known_ids(run, name):
        return
    roots, v2, _ = cgroup_layout.layout().parts()
    for root in {*roots.values(), *([v2] if v2 else [])}:
        try:
            os.rmdir(f"{root}/{name}")
        except OSError:
            pass  # Not there, or somebody else put a group into it.
    remove_tree(run)


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
