"""The container's first process, from clone to execve: carries out the steps of a plan, one function per step. Lean.

`run` never returns. A step that fails ends it with one record (step, errno, path) to whoever waits; what went before
needs no undoing, since everything lives in namespaces that end with this process. Exec runs the last steps of the same
list in a container that exists (`runtime.enter`).

After `pivot` nothing is imported, loaded or executed from the container's files before execve, and every path goes
through openat2.
"""

from __future__ import annotations

import errno
import os
import resource
from _socket import AF_INET, SOCK_DGRAM, SOCK_STREAM
from _socket import socket as Socket

from berth import failpoint, trace
from berth.kernel import capability, mount, namespace, netlink, nfnetlink, process, seccomp, terminal
from berth.kernel.file import write_text
from berth.kernel.paths import make_directories_in_root, open_in_root
from berth.runtime import init_mounts, labelling, reaper
from berth.runtime.account import UnknownAccount, resolve
from berth.runtime.failure import Failure, record
from berth.runtime.message import receive, send, send_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from berth.kernel.memory import Habit

    Step = tuple[str, dict[str, Any]]

_DIRECTORY = 0o040000
_DNS_ADDRESS = "127.0.0.11"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Init:
    """What the steps share. `sock` leads to the process that waits for us, `stdio` are descriptors or None for a pty."""

    def __init__(self, sock: Socket, stdio: tuple[int, int, int] | None, sources: dict[int, list[tuple[str, int, bool]]]) -> None:
        self.sock = sock
        self.stdio = stdio
        self.sources = sources
        self.place = -1
        # The tmpfs that trees are built on ahead of the root (see runtime.ahead).
        self.staging = -1
        self.root = -1
        # Of the root's mount, once it is the root: the kernel refuses to pivot onto a shared one.
        self.propagation = 0
        self.null = -1
        self.devpts = -1
        self.terminals = ""
        self.slave = -1
        self.reaper = -1
        self.proc = -1
        self.environment: dict[str, str] = {}
        # What was opened or learnt before pivot for steps after it (see runtime.bundle_steps).
        self.host_pid = 0
        self.labels: list[tuple[int, str, str]] = []
        # What this process, started ahead of its launch, teaches those after it (see kernel.memory).
        self.habit: Habit | None = None
        self._sealed = False

    def seal(self, first: int) -> None:
        """No descriptor from `first` on goes through execve. Said before a filter is loaded, which may not know of close_range:
        all that is opened later is close-on-exec by itself."""
        if not self._sealed:
            process.close_on_exec_from(first)
        self._sealed = True


def run(steps: list[Step], state: Init) -> NoReturn:
    """Carry the steps out; the last one is execve."""
    carry_out(steps, state)
    os._exit(127)


def carry_out(steps: list[Step], state: Init) -> None:
    """Steps, of which more are to come. One that fails ends this process."""
    step = ""
    try:
        for step, arguments in steps:
            failpoint.hit("launch.init.before-step")
            STEPS[step](state, **arguments)
            trace.mark(step)
    except BaseException as error:
        try:
            # A step may have exchanged it: who started us is not always who made us.
            send(state.sock, {"failed": record(step, error)})
        finally:
            os._exit(127)


def read_program(path: str) -> bytes:
    """A compiled seccomp filter; empty without a path."""
    if not path:
        return b""
    with open(path, "rb") as file:
        return file.read()


def identity(state: Init, *, user: bool, unshare: int) -> None:
    """Become root of the user namespace; then the namespaces that must belong to that root or to our control group."""
    process.prctl(process.PR_SET_SECUREBITS, process.SECBIT_NO_SETUID_FIXUP)
    if user:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    # mqueue's root belongs to whoever makes the ipc namespace; the cgroup namespace's root is where we are by now.
    if unshare:
        namespace.unshare(unshare)


def network(
    state: Init, *, links: list[Any], routes: list[Any], loopback: bool, resolver: bool, sysctls: list[list[str]]
) -> None:
    """Addresses, routes, and the sockets that answer on 127.0.0.11."""
    if sysctls:
        for name, value in sysctls:
            sysctl(state, name=name, value=value)
    netlink.configure(links, routes, loopback)
    if not resolver:
        return
    udp, tcp = Socket(AF_INET, SOCK_DGRAM), Socket(AF_INET, SOCK_STREAM)
    for sock in udp, tcp:
        sock.bind((_DNS_ADDRESS, 0))
    tcp.listen(64)
    nfnetlink.redirect_dns(udp.getsockname()[1], tcp.getsockname()[1])
    send(state.sock, {"resolver": True}, [udp.fileno(), tcp.fileno()])


def loopback(state: Init) -> None:
    """The link of a network namespace's own."""
    netlink.configure()


def linked(state: Init, *, network: dict[str, Any] | None) -> None:
    """Wait until the setter-up has written the limits and made the links; then configure them."""
    if receive(state.sock) is None:
        os._exit(127)
    if network is not None:
        STEPS["network"](state, **network)


def sysctl(state: Init, *, name: str, value: str) -> None:
    """Write a kernel parameter through a procfs of our own that nobody has mounted over."""
    if state.proc < 0:
        state.proc = mount.new_mount("proc")
    try:
        write_text("sys/" + name, value, state.proc)
    except OSError as error:
        raise Failure("sysctl", error.errno or 0, f"{name.replace('/', '.')} = {value}") from None


def pivot(state: Init, *, readonly: bool, chroot: bool = False) -> None:
    """The root filesystem becomes the root; the host's tree goes, or, where that is an initramfs, is covered."""
    if readonly:
        mount.mount_setattr(state.root, mount.MOUNT_ATTR_RDONLY)
    os.fchdir(state.root)
    if chroot:
        mount.move_here_to_root()
        os.chroot(".")
    else:
        mount.pivot_root_here()
        mount.umount2(".")
    if state.propagation:
        mount.mount_setattr(state.root, propagation=state.propagation)
    os.chdir("/")


def hostname(state: Init, *, name: str) -> None:
    """uname -n."""
    process.sethostname(name)


def domainname(state: Init, *, name: str) -> None:
    """The NIS domain name."""
    process.setdomainname(name)


def personality(state: Init, *, value: int) -> None:
    """The execution domain."""
    process.personality(value)


def scheduler(
    state: Init, *, policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int
) -> None:
    """The scheduler's policy and its parameters."""
    process.sched_setattr(policy, flags, nice, priority, runtime, deadline, period)


def io_priority(state: Init, *, value: int) -> None:
    """The place in the disk's queue."""
    process.ioprio_set(value)


def rlimit(state: Init, *, kind: int, name: str, soft: int, hard: int) -> None:
    """A resource limit; Failure names it when the hard one may not be raised."""
    try:
        resource.setrlimit(kind, (soft, hard))
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EPERM
        raise Failure("rlimit", number, f"{name}={soft}:{hard}") from None


def raise_limits(pid: int, steps: Iterable[Step]) -> None:
    """From the host's user namespace, before `pid` (0: this process) does such steps: only there may a hard limit be raised.

    What cannot be raised here either, `rlimit` will name.
    """
    for name, wanted in steps:
        if name != "rlimit":
            continue
        soft, hard = resource.prlimit(pid, wanted["kind"])
        if hard != resource.RLIM_INFINITY and (wanted["hard"] == resource.RLIM_INFINITY or wanted["hard"] > hard):
            try:
                resource.prlimit(pid, wanted["kind"], (soft, wanted["hard"]))
            except (OSError, ValueError):
                continue


def session(state: Init, *, umask: int) -> None:
    """A session of our own; standard input, output and error; the controlling terminal."""
    os.setsid()
    os.umask(umask)
    stdio = state.stdio or (state.slave, state.slave, state.slave)
    # first out of the way, so that none is overwritten by another
    high = [os.dup(fd) if fd > 2 else _move_up(fd) for fd in stdio]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
        os.close(fd)
    if state.stdio is None:
        terminal.make_controlling(0)


def _move_up(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def chdir(state: Init, *, path: str, make: bool) -> None:
    """The working directory, made if it is missing and `make` says so.

    Magic links are refused (WORKDIR /proc/self/fd/N reached the host through a leaked descriptor, CVE-2024-21626), and
    the result must be below the container's root.
    """
    slash = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if make:
            fd = make_directories_in_root(slash, path)
        else:
            fd = open_in_root(slash, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(slash)
    os.fchdir(fd)
    os.close(fd)
    if not os.getcwd().startswith("/"):
        raise Failure("chdir", errno.ENOENT, path)


def user(state: Init, *, name: str, groups: list[str], environment: list[str]) -> None:
    """Look the user up in the container's files, take its ids, and own the streams. Capabilities stay (securebits)."""
    try:
        account = resolve(name, groups)
    except UnknownAccount as error:
        raise Failure("user", 0, str(error)) from None
    uid, gid = account.uid, account.gid
    for entry in environment:
        key, separator, value = entry.partition("=")
        if separator:
            state.environment[key] = value
    state.environment.setdefault("HOME", account.home)
    _own_streams(uid)
    try:
        os.setgroups(account.groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise Failure("user", error.errno or 0, f"{uid}:{gid}") from None


def _own_streams(uid: int) -> None:
    """So that /dev/stdout can be opened again by the user. Only pipes and our own pty: not what somebody handed in."""
    for fd in 0, 1, 2:
        status = os.fstat(fd)
        kind = status.st_mode & 0o170000
        if (kind == 0o010000 or (kind == 0o020000 and os.isatty(fd))) and status.st_uid != uid:
            try:
                os.fchown(fd, uid, -1)
            except OSError:
                # a stream of the host's that is not ours to give
                pass


def no_new_privileges(state: Init) -> None:
    """execve gives nothing from now on."""
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)


def filter_calls(state: Init, *, program: bytes, flags: int) -> None:
    """seccomp. Before the capabilities go, since loading needs CAP_SYS_ADMIN in the user namespace."""
    if state.habit is not None:
        # The filter is the user's: from here on it may forbid to read.
        state.habit.learn()
    state.seal(3)
    seccomp.load(program, flags)


def bound(state: Init, *, bounding: int) -> None:
    """Drop from the bounding set what execve must never give."""
    capability.drop_bounding(bounding, capability.last())


def capabilities(state: Init, *, effective: int, permitted: int, inheritable: int, ambient: int) -> None:
    """The final sets, and the usual rules of setuid again."""
    process.prctl(process.PR_SET_SECUREBITS, 0)
    capability.capset(effective, permitted, inheritable)
    if ambient:
        capability.set_ambient(ambient)


def reaper_image(state: Init) -> None:
    """Prepare for a process 1 of ours (see runtime.reaper)."""
    state.reaper = reaper.reserve()


def execute(state: Init, *, args: list[str], death_signal: int, init: bool) -> None:
    """execve, searched in the container's PATH; the connection closes by itself when it works."""
    path = find(args[0], state.environment)
    state.seal(3)
    process.prctl(process.PR_SET_PDEATHSIG, death_signal)
    if init:
        _leave_reaper(state, args)
    process.reset_signals()
    trace.mark("execve")
    send(state.sock, {"exec": args[0], "marks": trace.take()})
    try:
        os.execve(path, args, state.environment)
    except OSError as error:
        send_errno(state.sock, error.errno or 0)
        os._exit(127)


def _leave_reaper(state: Init, args: list[str]) -> None:
    """Go on in a child; this process becomes the reaper."""
    process.block_signals()
    child = os.fork()
    if child:
        state.sock.close()
        reaper.serve(child, state.reaper, args)
    # A group of its own, in the foreground: a key like ^C then reaches the program once, not through process 1 as well.
    os.setpgid(0, 0)
    if os.isatty(0):
        os.tcsetpgrp(0, os.getpid())


def find(name: str, environment: dict[str, str]) -> str:
    """The path of a program, searched in the environment's PATH. Failure as execve would fail. A filter may be in force that is
    older than faccessat2, by which alone the effective ids are asked for."""
    if "/" in name:
        return name
    denied = False
    for folder in environment.get("PATH", _DEFAULT_PATH).split(":"):
        candidate = f"{folder or '.'}/{name}"
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if mode & 0o170000 == _DIRECTORY:
            continue
        if os.access(candidate, os.X_OK, effective_ids=True) or os.access(candidate, os.X_OK):
            return candidate
        denied = True
    raise Failure("execve", errno.EACCES if denied else errno.ENOENT, name)


STEPS: dict[str, Callable[..., None]] = {
    "identity": identity,
    "loopback": loopback,
    "network": network,
    "linked": linked,
    "root": init_mounts.root,
    "trees": init_mounts.trees,
    "mount": init_mounts.mount_new,
    "mount-copy": init_mounts.mount_copy,
    "attach": init_mounts.attach,
    "cgroup": init_mounts.control_groups,
    "console": init_mounts.console,
    "mask": init_mounts.mask,
    "protect": init_mounts.protect,
    "sysctl": sysctl,
    "open-label": labelling.open_label,
    "label": labelling.label,
    "pivot": pivot,
    "hostname": hostname,
    "domainname": domainname,
    "personality": personality,
    "scheduler": scheduler,
    "io-priority": io_priority,
    "rlimit": rlimit,
    "session": session,
    "chdir": chdir,
    "user": user,
    "bound": bound,
    "no-new-privileges": no_new_privileges,
    "seccomp": filter_calls,
    "capabilities": capabilities,
    "reaper": reaper_image,
    "execve": execute,
}
