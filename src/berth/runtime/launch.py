"""Making a container, seen from outside: the lean half that runs in launcher and shim.

    prepare_launcher(store)      once: a private mount namespace with a scratch tmpfs
    start(plan, stdio, fds)      in the shim: a container from a plan; returns when execve has succeeded
    enter(state, plan, stdio)    in the shim: a further process in it
    cleanup(state)               in the shim, or wherever the group is still known: after its end

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
import gc
import os
from binascii import a2b_base64
from time import sleep

from berth import failpoint, trace
from berth.kernel import memory, mount, namespace, netlink, process
from berth.kernel.bpf import attach_device_program
from berth.kernel.file import write_text
from berth.runtime import ahead, beginning, cgroup, init, source
from berth.runtime.enter import Entered, enter
from berth.runtime.failure import Failure, record
from berth.runtime.message import close_all, pair, receive, receive_errno, send
from berth.runtime.source import Setting, prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable, Sequence
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
    "enter",
    "fill",
    "leave_host_mounts",
    "make",
    "make_links",
    "prepare_launcher",
    "prepare_slot",
    "reap_strays",
    "settle",
    "start",
    "start_alone",
    "undo",
]

SCRATCH = "mnt"
# What slots have learned of the pages that a setter-up and an init come to write to: shared by the launcher and its forks.
_habits: list[memory.Habit] = []
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
    _habits[:] = [memory.Habit(), memory.Habit()]
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
        _habits[0].watch()
        failed = work.await_early()
        _habits[0].prepare()
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
        work.complete(plan, stdio, meanwhile)
    except BaseException as error:
        return record(work.step, error)
    return None


def prime(work: SetUp, plan: Plan, meanwhile: Callable[[], None]) -> list[str | int] | None:
    """For a slot whose container is known and may be started: all that does not depend on when, and on who listens."""
    try:
        work.prime(plan, meanwhile)
    except BaseException as error:
        return record(work.step, error)
    return None


def settle() -> None:
    """At the end of a setter-up that was a slot: the next ones know what it needed."""
    _habits[0].learn()


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


def cleanup(state: State) -> bool:
    """After init's end: kill what is left in the control group, and remove it. True when the kernel ran out of memory.

    A directory that the kernel does not let go in time stays, to be found when the engine compares.
    """
    group = state["cgroup"]
    killed = cgroup.oom_kills(group) > 0
    cgroup.kill(group)
    killed = killed or cgroup.oom_kills(group) > 0
    try:
        cgroup.remove(group)
    except OSError:
        # EBUSY: a process that cannot die yet, in an uninterruptible wait
        pass
    return killed


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
            self._make_veth()

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
            link = self.plan["links"][0]
            netlink.connect_veth(self.veth_index, link["parent"], link["mac"], link["mtu"], link["hairpin"], link["isolated"])
        else:
            make_links(self.plan["links"], self.pid)

    def _make_veth(self) -> None:
        self.step = "network"
        netns = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.veth_index = netlink.prepare_veth(self.plan["slot"], self.veth, netns)
        finally:
            os.close(netns)

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


def make_links(links: list[dict[str, Any]], pid: int) -> None:
    """The network interfaces of a container, made from outside: they appear in the network namespace of its init."""
    if not links:
        return
    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for link in links:
            if link["kind"] == "veth":
                _make_veth(link, netns)
            else:
                netlink.create_macvlan(link["parent"], link["name"], netns, link["mac"], link["mtu"], link["mode"], link["kind"])
    finally:
        os.close(netns)


def _make_veth(link: dict[str, Any], netns: int) -> None:
    arguments = link["parent"], link["name"], netns, link["mac"], link["mtu"], link["hairpin"], link["isolated"]
    try:
        netlink.create_veth(link["host_name"], *arguments)
    except FileExistsError:
        # The slot that this container was to start from has died, and the kernel has not taken down its namespace yet.
        try:
            netlink.delete_link(link["host_name"])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        netlink.create_veth(link["host_name"], *arguments)


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
