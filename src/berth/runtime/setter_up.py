"""The setter-up: makes one container from outside, in the host's namespaces and with the host's ids. Lean.

The shim forks a setter-up, which does the work and ends, so that the shim's own memory stays shared with the launcher's.
The setter-up clones init with CLONE_PARENT, which makes init the shim's child. They talk over SEQPACKET pairs:

    setter-up -> init    {"early": mounts} + fds when it may take its ids and do the early steps (see runtime.ahead)
    init -> setter-up    {"ready"}: they are done
    setter-up -> init    {"go": mounts, "stdio", "steps", "more"} + fds, twice where the container is known before its start
                         (see runtime.pool), {"linked"} when it has its limits and links
    init -> setter-up    {"resolver"} + fds, {"console"} + fd, then {"exec"} and the end: execve has worked
                         or {"failed": [step, errno, path]}
    setter-up -> shim    {"pid", "console", "resolver"} + fds, or {"failed", "pid"} + pidfd
"""

from __future__ import annotations

import errno
import os
from binascii import a2b_base64

from berth import failpoint, trace
from berth.kernel import memory, namespace, process
from berth.kernel.bpf import attach_device_program
from berth.kernel.file import write_text
from berth.runtime import ahead, beginning, cgroup, init, interfaces
from berth.runtime.failure import Failure, record
from berth.runtime.message import close_all, pair, receive, receive_errno, send
from berth.runtime.source import Setting, prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    Plan = dict[str, Any]
    Stdio = tuple[int, int, int]

# What slots have learned of the pages that a setter-up and an init come to write to: shared by the launcher and its forks.
_habits: list[memory.Habit] = []


def keep_habits() -> None:
    """Once in the launcher, before it forks."""
    _habits[:] = [memory.Habit(), memory.Habit()]


def own_habit() -> memory.Habit:
    """That of setter-ups."""
    return _habits[0]


class SetUp:
    """The setter-up's view of one launch. `sock` leads to init once it is cloned, as our sibling or, `family` 0, our child."""

    def __init__(self, plan: Plan, family: int = process.CLONE_PARENT) -> None:
        self.plan = plan
        self.family = family
        self.early, self.late = ahead.split(plan)
        # A slot's link: its name inside, and its index here.
        self.veth = ahead.veth(plan) if plan.get("slot") else ""
        self.veth_index = 0
        # How many of the late steps init has been given.
        self.given = 0
        self.step = "cgroup"
        self.sock: Socket | None = None
        self.pid = 0
        self.pidfd = -1
        self.joiner = 0
        self.console: list[int] = []
        self.resolver: list[int] = []
        self.mounts = -1

    def hold_mounts(self) -> None:
        """Keep the mount namespace: whoever lets go of it last takes its mounts down, which takes longer than all else of init's
        end, and who waits for that end does not wait for the mounts then."""
        if self.mounts < 0:
            self.mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def found(self) -> None:
        """Control group, namespaces, ids; init begins with the early steps."""
        plan = self.plan
        group = plan["cgroup"]
        failpoint.hit("launch.setup.before-cgroup")
        cgroup.create(group)
        failpoint.hit("launch.setup.after-cgroup")
        trace.mark("control-group")
        if plan["devices"] and group["v2"] and "devices" not in group["roots"]:
            attach_device_program(group["v2"] + group["path"], a2b_base64(plan["devices"]))
        self.step = "clone"
        program = init.read_program(plan["seccomp"])
        self.sock = self._clone(program)
        failpoint.hit("launch.setup.after-clone")
        trace.mark("clone")
        self.step = "idmap"
        if plan["maps"]:
            write_text(f"/proc/{self.pid}/uid_map", plan["maps"]["uid"])
            write_text(f"/proc/{self.pid}/gid_map", plan["maps"]["gid"])
        failpoint.hit("launch.setup.after-id-map")
        trace.mark("id-map")
        self.step = "source"
        self._sources("early", ahead.sources(self.early), {})
        trace.mark("dev")
        if self.veth:
            self.step = "network"
            self.veth_index = interfaces.make_ahead(plan["slot"], self.veth, self.pid)

    def await_early(self) -> list[str | int] | None:
        """Until init has done the early steps; what failed."""
        answer = receive(self.sock) if self.sock else None
        value, _ = answer or ({"failed": ["init", errno.ECHILD, "init was killed before it was ready"]}, [])
        failed: list[str | int] | None = value.get("failed")
        return failed

    def prime(self, plan: Plan, meanwhile: Callable[[], None]) -> None:
        """Of a container that may be started soon: its mounts, its limits; `meanwhile` is the caller's share."""
        self._take(plan)
        self.given = ahead.quiet(self.early, self.late)
        self._go({"stdio": False, "steps": self.late[: self.given], "more": True}, ())
        meanwhile()
        self._limits()

    def complete(self, plan: Plan, stdio: Stdio | None, meanwhile: Callable[[], None]) -> None:
        """From there to execve. Init mounts what it gets first, beside everything else; `meanwhile` is the caller's share."""
        self._own_streams(plan["base"], stdio)
        init.raise_limits(self.pid, plan["steps"])
        if self.given:
            self.plan = plan
            steps = [(name, plan["network_step"] if name == "network" else values) for name, values in self.late[self.given :]]
            self._send({"go": {}, "stdio": stdio is not None, "steps": steps}, stdio or ())
        else:
            if plan is not self.plan:
                self._take(plan)
            self._go({"stdio": stdio is not None, "steps": self.late}, stdio or ())
            meanwhile()
            self._limits()
        self._network()
        failpoint.hit("launch.setup.after-links")
        trace.mark("links")
        self._send({"linked": True})
        self._wait()
        failpoint.hit("launch.setup.after-exec")
        trace.mark("executed")

    def _take(self, plan: Plan) -> None:
        """A slot's: what it is for."""
        self.plan = plan
        self.early, self.late = ahead.split(plan, self.veth)

    def _go(self, message: dict[str, Any], before: Sequence[int]) -> None:
        """Send init what it mounts."""
        self.step = "source"
        done = ahead.sources(self.early)
        chosen = [index for index in range(len(self.plan["sources"])) if index not in done]
        self._sources("go", chosen, message, before)
        failpoint.hit("launch.setup.after-sources")
        trace.mark("sources")

    def _limits(self) -> None:
        self.step = "cgroup"
        plan = self.plan
        group = plan["cgroup"]
        for controller, name, value, optional in plan["limits"]:
            self._limit(group, controller, name, value, optional)
        if plan["delegated"]:
            cgroup.hand_over(group, plan["base"])
        failpoint.hit("launch.setup.after-limits")
        trace.mark("limits")
        self._adjust_oom(plan["oom_score_adj"])

    def _send(self, value: dict[str, Any], fds: Sequence[int] = ()) -> None:
        assert self.sock is not None
        try:
            send(self.sock, value, fds)
        except ConnectionError:
            # It has failed, and has said why, or was killed.
            self._wait()

    def _limit(self, group: dict[str, Any], controller: str, name: str, value: str, optional: bool) -> None:
        try:
            write_text(f"{cgroup.directory(group, controller)}/{name}", value)
        except OSError as error:
            if not optional or error.errno != errno.ENOENT:
                raise Failure("cgroup", error.errno or 0, f"{name} = {value}") from None

    def _clone(self, program: bytes) -> Socket:
        plan = self.plan
        ours, theirs = pair()
        flags = plan["namespaces"]["new"]
        directory = cgroup.open_v2(plan["cgroup"])
        if beginning.needs_joiner(plan):
            self._clone_joined(plan, ours, theirs, flags, program, directory)
        else:
            self.pid, self.pidfd = process.clone3(flags | self.family, cgroup_fd=directory)
            if self.pid == 0:
                ours.close()
                beginning.begin(plan, self.early, theirs, program, _habits[1] if plan.get("slot") else None)
        theirs.close()
        if directory >= 0:
            os.close(directory)
        return ours

    def _clone_joined(self, plan: Plan, ours: Socket, theirs: Socket, flags: int, program: bytes, directory: int) -> None:
        """Namespaces of another container: a joiner enters them, then clones init. Both are the shim's children.

        The other's user namespace comes first: entering its network, pid or ipc namespace needs power over it.
        """
        opened = [(os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind) for kind, path in plan["namespaces"]["join"]]
        near, far = pair()
        self.joiner, joiner_fd = process.clone3(self.family, cgroup_fd=directory)
        if self.joiner == 0:
            near.close()
            # Init is to notice when the setter-up has gone.
            ours.close()
            _join(plan, self.early, theirs, far, opened, flags | process.CLONE_PARENT, program)
        far.close()
        close_all([fd for fd, _ in opened])
        os.close(joiner_fd)
        answer = receive(near)
        near.close()
        value, fds = answer or ({"failed": ["namespace", errno.ECHILD, "join"]}, [])
        if "failed" in value:
            raise Failure(*value["failed"])
        self.pid, self.pidfd = value["pid"], fds[0]

    def _adjust_oom(self, score: int | None) -> None:
        if score is None:
            return
        try:
            write_text(f"/proc/{self.pid}/oom_score_adj", str(score))
        except PermissionError:
            # lowering it needs CAP_SYS_RESOURCE, which an engine inside a container may not have
            pass

    def _own_streams(self, base: int, stdio: Stdio | None) -> None:
        """Pipes belong to the container's root, else /dev/stdout cannot be opened there; init passes them on."""
        self.step = "source"
        if not base or stdio is None:
            return
        for fd in stdio:
            if os.fstat(fd).st_mode & 0o170000 == 0o010000:
                os.fchown(fd, base, base)

    def _network(self) -> None:
        self.step = "network"
        if self.veth:
            interfaces.connect(self.veth_index, self.plan["links"][0])
        else:
            interfaces.make(self.plan["links"], self.pid)

    def _sources(self, message: str, chosen: list[int], values: dict[str, Any], before: Sequence[int] = ()) -> None:
        """Send the `chosen` sources, opened, in a message with `values`; descriptors `before` go first."""
        plan = self.plan
        userns = os.open(f"/proc/{self.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC) if plan["base"] else -1
        setting = Setting(plan["base"], userns, plan["scratch"], plan["id"])
        shape: dict[int, list[tuple[str, bool]]] = {}
        fds: list[int] = []
        for index in chosen:
            entry = plan["sources"][index]
            try:
                parts = prepare(entry, setting)
            except OSError as error:
                raise Failure(entry["step"], error.errno or 0, str(error.filename or entry.get("path", ""))) from None
            shape[index] = [(below, is_directory) for below, _, is_directory in parts]
            fds += [fd for _, fd, _ in parts]
        # The sources were made with other ids for the filesystem, which has made the kernel forget it.
        process.die_with_parent()
        self._send({message: shape, **values}, [*before, *fds])
        close_all(fds)
        if userns >= 0:
            os.close(userns)

    def _wait(self) -> None:
        self.step = "init"
        assert self.sock is not None
        executed = False
        while answer := receive(self.sock):
            value, fds = answer
            if "failed" in value:
                raise Failure(*value["failed"])
            if "console" in value:
                self.console = fds
            elif "resolver" in value:
                self.resolver = fds
            elif "exec" in value:
                executed = True
                trace.add([("init:" + name, at) for name, at in value.get("marks", [])])
                if number := receive_errno(self.sock):
                    raise Failure("execve", number, value["exec"])
                break
            # Held before its last steps (see runtime.bundle_steps), with a connection of another kind.
            executed = executed or "held" in value
        if not executed:
            raise Failure("init", errno.ECHILD, "init was killed before it could start")


def _join(
    plan: Plan, early: list[init.Step], theirs: Socket, far: Socket, opened: list[tuple[int, int]], flags: int, program: bytes
) -> NoReturn:
    """In the joiner. Only its children are in a joined pid namespace, so init is cloned from here."""
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        cgroup.enter_v1(plan["cgroup"])
        for fd, kind in opened:
            namespace.setns(fd, kind)
        if plan["time"] is not None:
            namespace.unshare(namespace.CLONE_NEWTIME)
            if plan["time"]:
                write_text("/proc/self/timens_offsets", plan["time"])
        process.die_with_parent()
        failpoint.hit("launch.join.before-clone")
        pid, pidfd = process.clone3(flags)
        if pid == 0:
            far.close()
            beginning.begin(plan, early, theirs, program, _habits[1] if plan.get("slot") else None)
        send(far, {"pid": pid}, [pidfd])
    except BaseException as error:
        try:
            send(far, {"failed": record("namespace", error)})
        finally:
            os._exit(1)
    os._exit(0)
