"""Control groups of one container: create, join, freeze, kill, remove. Lean: also runs in launcher and shim.

A group is a small dict (JSON-able, in the plan and in the run state):

    path      "/berth/<id>", the same in every hierarchy
    roots     {controller: mount point of its v1 hierarchy}
    v2        mount point of the cgroup2 hierarchy, or what is ours below it, or None
    enabled   the v2 controllers to delegate down to the group

On a hybrid host both kinds exist: limits go to the v1 hierarchies, and a directory on cgroup2 gives freeze and kill.
For the engine: what the host has is `runtime.cgroup_host`, what limits mean in files `cgroup_limits`, readings `cgroup_stats`.
"""

from __future__ import annotations

import errno
import os
from time import monotonic, sleep

from berth.kernel.file import read_text, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Group = dict[str, Any]

_PATIENCE = 5.0
# What the owner of a subtree writes to (cgroup-v2.rst, "Model of Delegation").
_DELEGATED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")


def directory(group: Group, controller: str) -> str:
    """Where the controller's files are: its v1 hierarchy, or cgroup2."""
    root = group["roots"].get(controller) or group["v2"]
    return str(root) + str(group["path"])


def directories(group: Group) -> list[str]:
    """All directories of the group, each once."""
    found = {root + group["path"]: None for root in group["roots"].values()}
    if group["v2"]:
        found[group["v2"] + group["path"]] = None
    return list(found)


def create(group: Group) -> None:
    """Make the directories; parents too. FileExistsError is not one: leftovers of the same name are used."""
    parts = [part for part in group["path"].split("/") if part]
    for root in set(group["roots"].values()):
        here = root
        for part in parts:
            here += "/" + part
            if _make(here) and root == group["roots"].get("cpuset"):
                _inherit_cpuset(here)
    if group["v2"]:
        _create_v2(group["v2"], parts, group["enabled"])


def _make(path: str) -> bool:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    return True


def _inherit_cpuset(path: str) -> None:
    """A new v1 cpuset is empty, and nothing can join it until it has CPUs and memory nodes."""
    parent = os.path.dirname(path)
    for name in "cpuset.cpus", "cpuset.mems":
        if not read_text(f"{path}/{name}").strip():
            write_text(f"{path}/{name}", read_text(f"{parent}/{name}").strip())


def _create_v2(root: str, parts: list[str], enabled: list[str]) -> None:
    here = root
    for part in parts:
        _delegate(here, enabled)
        here += "/" + part
        _make(here)


def _delegate(path: str, wanted: list[str]) -> None:
    """Hand controllers down to the children of a v2 group."""
    have = read_text(path + "/cgroup.subtree_control").split()
    for controller in wanted:
        if controller not in have:
            try:
                write_text(path + "/cgroup.subtree_control", "+" + controller)
            except OSError as error:
                # A process of that level is in the way, or the level was not given it: a limit that needs it fails then.
                if error.errno not in (errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP):
                    raise


def hand_over(group: Group, owner: int) -> None:
    """Let the container's root make groups below its own on cgroup2, and move its processes there; its limits stay the host's.

    cgroup v1 is not made for that.
    """
    if not group["v2"]:
        return
    top = group["v2"] + group["path"]
    os.chown(top, owner, owner)
    for name in _DELEGATED:
        try:
            os.chown(f"{top}/{name}", owner, owner)
        except FileNotFoundError:
            # A group that was made threaded, or an older kernel, has fewer of them.
            pass


def open_v2(group: Group) -> int:
    """A descriptor of the cgroup2 directory for CLONE_INTO_CGROUP, or -1."""
    if not group["v2"]:
        return -1
    return os.open(group["v2"] + group["path"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def path_of(group: Group, pid: int) -> str:
    """The path of the cgroup2 group that a process of the container is in: the container's own, or one that it made below."""
    for line in read_text(f"/proc/{pid}/cgroup").splitlines():
        if line.startswith("0::"):
            return str(group["path"] + line.partition(group["path"])[2])
    return str(group["path"])


def enter_v1(group: Group) -> None:
    """Move the calling process, which must have one thread only, into the group of every v1 hierarchy. Children come with it.

    A thread that moves itself ("0" in tasks) need not exclude the forks and ends of all others: moving a process by its
    number (cgroup.procs) waits 8 to 14 ms for an RCU grace period.
    """
    for root in dict.fromkeys(group["roots"].values()):
        write_text(root + group["path"] + "/tasks", "0")


def pids(group: Group) -> list[int]:
    """All processes of the group and of groups below it."""
    where = directories(group)
    if not where:
        return []
    found: list[int] = []
    for path, _, _ in _walk(where[-1]):
        try:
            found += [int(line) for line in read_text(path + "/cgroup.procs").split()]
        except (FileNotFoundError, OSError):
            continue
    return found


def _walk(top: str) -> list[tuple[str, list[str], list[str]]]:
    return list(os.walk(top))


def freeze(group: Group, frozen: bool) -> None:
    """Stop or continue all processes; returns when it is so. TimeoutError when the kernel does not manage."""
    v2 = group["v2"] + group["path"] if group["v2"] else ""
    deadline = monotonic() + _PATIENCE
    if v2 and os.path.exists(v2 + "/cgroup.freeze"):
        write_text(v2 + "/cgroup.freeze", "1" if frozen else "0")
        while f"frozen {int(frozen)}" not in read_text(v2 + "/cgroup.events"):
            _wait(deadline, v2)
        return
    if "freezer" not in group["roots"]:
        raise OSError(errno.EOPNOTSUPP, "this host has no freezer control group", group["path"])
    path = directory(group, "freezer") + "/freezer.state"
    wanted = "FROZEN" if frozen else "THAWED"
    while True:
        write_text(path, wanted)
        if read_text(path).strip() == wanted:
            return
        _wait(deadline, path)


def frozen(group: Group) -> bool:
    """Whether `freeze` has stopped it."""
    try:
        if group["v2"]:
            return read_text(group["v2"] + group["path"] + "/cgroup.freeze").strip() == "1"
        return "freezer" in group["roots"] and read_text(directory(group, "freezer") + "/freezer.state").strip() != "THAWED"
    except OSError:
        return False


def _wait(deadline: float, path: str) -> None:
    if monotonic() > deadline:
        raise TimeoutError(errno.ETIMEDOUT, "the control group does not change state", path)
    sleep(0.002)


def kill(group: Group) -> None:
    """SIGKILL to every process, and thaw; returns when the group is empty or after a few seconds."""
    v2 = group["v2"] + group["path"] if group["v2"] else ""
    try:
        write_text(v2 + "/cgroup.kill", "1")
    except OSError:
        pass
    deadline = monotonic() + _PATIENCE
    while left := pids(group):
        for pid in left:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        if "freezer" in group["roots"]:
            try:
                write_text(directory(group, "freezer") + "/freezer.state", "THAWED")
            except OSError:
                pass
        if monotonic() > deadline:
            return
        sleep(0.002)


def oom_kills(group: Group) -> int:
    """How many processes the kernel killed for want of memory in this group."""
    if "memory" in group["roots"]:
        path = directory(group, "memory") + "/memory.oom_control"
    elif group["v2"]:
        path = directory(group, "memory") + "/memory.events"
    else:
        return 0
    try:
        lines = read_text(path).splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def remove(group: Group) -> None:
    """Remove the directories, deepest first; waits a little for processes that are still dying. Idempotent."""
    deadline = monotonic() + _PATIENCE
    for top in directories(group):
        for path, _, _ in reversed(_walk(top)):
            _remove(path, deadline)


def _remove(path: str, deadline: float) -> None:
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or monotonic() > deadline:
                raise
            sleep(0.002)
        else:
            return
