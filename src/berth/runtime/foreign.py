"""A container that another OCI runtime's binary makes: what `runtime.launch` is for our own, behind the same face. Lean.

    make(plan, stdio)            in the birth: mounts, bundle, `create`, network, `start`
    enter(state, plan, stdio)    in the shim: `exec`
    cleanup(state)               in the shim, after the end: `delete`

Shim, streams, log, exit record and the engine's side are the same as for our own containers. The launcher imports this
module only in forks that are to become such a shim.

The bundle is in a mount namespace that ends with the birth, on a tmpfs over the engine's empty bundle directory: the root
filesystem and bind sources are made as for our own containers, idmapped already, so the binary has to know nothing of
that. Only what the binary itself keeps (below its --root) is on the host, and the record beside the run file that says how
to have it removed.

The binary leaves its container behind as an orphan; the shim is a subreaper for as long as that takes, and becomes its parent.
"""

from __future__ import annotations

import errno
import json
import os
from _socket import AF_UNIX, CMSG_SPACE, SOCK_CLOEXEC, SOCK_STREAM
from _socket import socket as Socket
from _struct import unpack_from

from berth import failpoint
from berth.kernel import mount, namespace, process, terminal
from berth.kernel.capability import NUMBERS
from berth.kernel.libc import AT_FDCWD
from berth.kernel.paths import open_in_root
from berth.runtime import binary, cgroup, init, interfaces, labelling, launch, source
from berth.runtime import record as run_record
from berth.runtime.account import Account, UnknownAccount, resolve
from berth.runtime.enter import Entered, open_init, own_streams
from berth.runtime.failure import Failure, record
from berth.runtime.launch import undo
from berth.runtime.message import close_all, pair, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Document = dict[str, Any]
    Stdio = tuple[int, int, int]
    Parts = list[tuple[str, int, bool]]
else:
    pass

__all__ = ["Failure", "SetUp", "adopt_orphans", "cleanup", "end_rest", "enter", "make", "strays", "undo"]

_CONSOLE = "console.sock"
_PID_FILE = "pid"
_KILL = 9
_UNLIMITED = (1 << 64) - 1


def adopt_orphans(yes: bool) -> None:
    """Whether orphans among the caller's descendants become its children."""
    process.prctl(process.PR_SET_CHILD_SUBREAPER, int(yes))


def strays(known: set[int]) -> list[tuple[int, int]]:
    """Pids and pidfds of the caller's children that it did not ask for: orphans that came while it adopted them."""
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children", encoding="ascii") as file:
        found = [int(pid) for pid in file.read().split()]
    return [(pid, os.pidfd_open(pid)) for pid in found if pid not in known]


def make(plan: Document, stdio: Stdio | None, meanwhile: Callable[[], None]) -> tuple[SetUp, list[str | int] | None]:
    """The container, and what failed, as a record, or None. After a failure the shim calls `undo`."""
    work = SetUp(plan, stdio)
    try:
        meanwhile()
        work.run()
    except BaseException as error:
        failed = record(work.step, error)
        work.give_up()
        return work, failed
    return work, None


end_rest = launch.end_rest


def cleanup(state: Document) -> bool:
    """After `end_rest`: remove the control group, and what the binary keeps; False when a part of the group stays."""
    gone = launch.cleanup(state)
    failpoint.hit("foreign.end.after-group")
    binary.delete(state["command"], state["id"])
    failpoint.hit("foreign.end.after-delete")
    return gone


class SetUp:
    """The birth's view of one launch."""

    def __init__(self, plan: Document, stdio: Stdio | None) -> None:
        self.plan = plan
        self.stdio = stdio
        self.step = "cgroup"
        self.pid = 0
        self.pidfd = -1
        self.mounts = -1
        self.joiner = 0
        self.console: list[int] = []
        self.resolver: list[int] = []

    def run(self) -> None:
        """From nothing to a program that runs."""
        plan = self.plan
        cgroup.create(plan["cgroup"])
        failpoint.hit("foreign.make.after-cgroup")
        self.step = "source"
        # Before the sources: a binary takes the first mount of a control group that it finds, and that must be the host's.
        namespace.unshare(namespace.CLONE_NEWNS)
        mount.make_slave()
        parts = self._sources()
        failpoint.hit("foreign.make.after-sources")
        self.step = "user"
        account = _account(parts[0][0][1], *plan["state"]["user"])
        self.step = "rootfs"
        _fill_bundle(plan["bundle"], parts)
        with open("config.json", "w", encoding="utf-8", opener=_private) as file:
            json.dump(_with_account(plan["config"], account), file)
        own_streams(plan["base"], self.stdio)
        self.step = "runtime"
        failpoint.hit("foreign.make.before-record")
        run_record.write(plan["record"], plan["command"])
        failpoint.hit("foreign.make.after-record")
        self._create()
        failpoint.hit("foreign.make.after-create")
        self.step = "network"
        interfaces.make(plan["links"], self.pid)
        failpoint.hit("foreign.make.after-links")
        if plan["network"] is not None:
            self._configure_network(plan["network"])
        failpoint.hit("foreign.make.after-network")
        self.step = "runtime"
        binary.call(plan["command"], ["start", plan["id"]], plan["bundle"])
        failpoint.hit("foreign.make.after-start")

    def give_up(self) -> None:
        """Nothing of what the binary made stays; init is left to `undo`, in the shim."""
        if self.pidfd >= 0:
            os.kill(self.pid, _KILL)
        failpoint.hit("foreign.undo.after-kill")
        binary.delete(self.plan["command"], self.plan["id"])
        failpoint.hit("foreign.undo.after-delete")
        run_record.remove(self.plan["record"])

    def _sources(self) -> list[Parts]:
        """Detached mounts: the root filesystem first, then the binds."""
        plan = self.plan
        userns = _user_namespace(plan["maps"], plan["user_namespace"])
        setting = source.Setting(plan["base"], userns, plan["scratch"], plan["id"])
        parts = []
        for entry in plan["sources"]:
            try:
                parts.append(source.prepare(entry, setting))
            except OSError as error:
                raise Failure(entry["step"], error.errno or 0, str(error.filename or entry.get("path", ""))) from None
        if userns >= 0:
            os.close(userns)
        return parts

    def _create(self) -> None:
        """The binary's `create`: init exists and waits."""
        plan = self.plan
        arguments = ["create", "--bundle", plan["bundle"], "--pid-file", _PID_FILE]
        if self.stdio is None:
            listener = _listen_for_console()
            arguments += ["--console-socket", _CONSOLE]
        binary.call(plan["command"], [*arguments, plan["id"]], plan["bundle"], self.stdio)
        self.pid, self.pidfd = _started(".")
        self.mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if self.stdio is None:
            self.console = [_take_console(listener)]

    def _configure_network(self, arguments: Document) -> None:
        """As init does for our own containers, by a child that enters the network namespace and nothing else of it."""
        near, far = pair()
        pid = os.fork()
        if pid == 0:
            near.close()
            _network(self.pid, arguments, far)
        far.close()
        failed: list[Any] = ["network", errno.ECHILD, "the process that configures it was killed"]
        while answer := receive(near):
            value, fds = answer
            if "resolver" in value:
                self.resolver = fds
            failed = value.get("failed", failed) if "done" not in value else []
        near.close()
        os.waitpid(pid, 0)
        if failed:
            raise Failure(*failed)


def _network(pid: int, arguments: Document, sock: Socket) -> NoReturn:
    try:
        state = init.Init(sock, None, {})
        # The host's own procfs, which nobody in a container can have mounted over; it shows the parameters of our network.
        state.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        namespace.setns(netns, namespace.CLONE_NEWNET)
        failpoint.hit("foreign.network.after-enter")
        init.network(state, **arguments)
        send(sock, {"done": True})
    except BaseException as error:
        send(sock, {"failed": record("network", error)})
    finally:
        os._exit(0)


def _user_namespace(maps: dict[str, str] | None, path: str) -> int:
    """A user namespace to map mounts by: that of a container that is joined, or one with the same map as the binary makes.
    -1 in the host's."""
    if path:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if maps is None:
        return -1
    return namespace.mapped_user_namespace(maps["uid"], maps["gid"])


def _account(root: int, name: str, groups: list[str]) -> Account:
    """The user, looked up in files below `root`, whose links lead nowhere else."""
    opened = [_open_quietly(root, path) for path in ("/etc/passwd", "/etc/group")]
    try:
        passwd, group = (f"/proc/self/fd/{fd}" if fd >= 0 else "" for fd in opened)
        return resolve(name, groups, passwd, group)
    except UnknownAccount as error:
        raise Failure("user", 0, str(error)) from None
    finally:
        close_all([fd for fd in opened if fd >= 0])


def _open_quietly(root: int, path: str) -> int:
    try:
        return open_in_root(root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _with_account(config: Document, account: Account) -> Document:
    process_ = config["process"]
    process_["user"] |= {"uid": account.uid, "gid": account.gid, "additionalGids": account.groups}
    if not any(entry.startswith("HOME=") for entry in process_.get("env", ())):
        process_.setdefault("env", []).append(f"HOME={account.home}")
    return config


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _fill_bundle(place: str, parts: list[Parts]) -> None:
    """The root filesystem and the bind sources at `place`, in our own mount namespace, as the working directory."""
    mount.mount("bundle", place, "tmpfs", mount.MS_NODEV, "mode=711")
    os.chdir(place)
    for number, (top, *below) in enumerate(parts):
        _, fd, is_directory = top
        name = f"m{number}" if number else "rootfs"
        if is_directory:
            os.mkdir(name, 0o711)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        mount.move_mount(fd, AT_FDCWD, name)
        for path, inner, _ in below:
            target = open_in_root(fd, path, os.O_PATH)
            mount.move_mount(inner, target)
            close_all([inner, target])
        os.close(fd)


def _listen_for_console() -> Socket:
    listener = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    listener.bind(_CONSOLE)
    listener.listen(1)
    return listener


def _take_console(listener: Socket) -> int:
    """The terminal's master, which the binary has sent by the time it ends."""
    listener.setblocking(False)
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # not in typeshed
        connection = Socket(fileno=fd)
        _, ancillary, _, _ = connection.recvmsg(4096, CMSG_SPACE(4), 0x40000000)
        connection.close()
        master: int = unpack_from("i", ancillary[0][2])[0]
        return master
    except (BlockingIOError, IndexError):
        raise Failure("console", errno.EPROTO, "the runtime sent no terminal") from None
    finally:
        listener.close()
        os.unlink(_CONSOLE)


def _started(directory: str) -> tuple[int, int]:
    """The pid that the binary wrote, and a pidfd: the process is our or our parent's child, so its pid is not used again."""
    with open(f"{directory}/{_PID_FILE}", encoding="ascii") as file:
        pid = int(file.read())
    return pid, os.pidfd_open(pid)


def enter(state: Document, plan: Document, stdio: Stdio | None) -> Entered:
    """Run the process of an exec plan. Failure leaves nothing behind."""
    place = f"{state['scratch']}/exec-{os.getpid()}"
    target = open_init(state)
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    os.mkdir(place, 0o700)
    failpoint.hit("foreign.exec.after-place")
    adopt_orphans(True)
    try:
        os.chdir(place)
        return _exec(state, plan, place, stdio)
    finally:
        adopt_orphans(False)
        os.fchdir(here)
        for name in os.listdir(place):
            os.unlink(f"{place}/{name}")
        os.rmdir(place)
        close_all([target, here])


def _exec(state: Document, plan: Document, place: str, stdio: Stdio | None) -> Entered:
    root = os.open(f"/proc/{state['pid']}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        document = _process_document(state, plan, root)
    finally:
        os.close(root)
    with open("process.json", "w", encoding="utf-8") as file:
        json.dump(document, file)
    own_streams(state["base"], stdio)
    failpoint.hit("foreign.exec.before-call")
    arguments = ["exec", "--detach", "--process", f"{place}/process.json", "--pid-file", f"{place}/{_PID_FILE}"]
    if stdio is None:
        listener = _listen_for_console()
        arguments += ["--console-socket", _CONSOLE]
    binary.call(state["command"], [*arguments, state["id"]], place, stdio)
    failpoint.hit("foreign.exec.after-call")
    pid, pidfd = _started(place)
    console = None
    if stdio is None:
        console = _take_console(listener)
        size = document["consoleSize"]
        if size["height"] and size["width"]:
            terminal.set_size(console, size["height"], size["width"])
    return Entered(pid, pidfd, console)


def _process_document(state: Document, plan: Document, root: int) -> Document:
    """The OCI process of an exec plan, whose steps say what our own init would do."""
    steps: dict[str, Any] = dict(plan["steps"])
    user = steps["user"]
    name, groups = state["user"] if plan["inherit_user"] else (user["name"], user["groups"])
    sets = steps["capabilities"] | steps["bound"]
    document: Document = {
        "terminal": plan["terminal"],
        "user": {"umask": steps["session"]["umask"]},
        "args": steps["execve"]["args"],
        "env": list(user["environment"]),
        "cwd": steps["chdir"]["path"],
        "capabilities": {key: [name for name, bit in NUMBERS.items() if mask >> bit & 1] for key, mask in sets.items()},
        "rlimits": [_rlimit(arguments) for step, arguments in plan["steps"] if step == "rlimit"],
        "noNewPrivileges": "no-new-privileges" in steps,
    }
    if labelling.APPARMOR in plan.get("labels", ()):
        document["apparmorProfile"] = plan["labels"][labelling.APPARMOR]
    if plan["terminal"]:
        document["consoleSize"] = steps["console"]
    filled: Document = _with_account({"process": document}, _account(root, name, groups))["process"]
    return filled


def _rlimit(limit: Document) -> Document:
    return {"type": limit["name"], "soft": limit["soft"] & _UNLIMITED, "hard": limit["hard"] & _UNLIMITED}
