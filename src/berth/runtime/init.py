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
from berth.kernel.file import PROC_SUPER_MAGIC, filesystem_type, write_text
from berth.kernel.paths import make_directories_in_root, open_in_root
from berth.runtime import reaper
from berth.runtime.account import UnknownAccount, resolve
from berth.runtime.failure import Failure, record
from berth.runtime.message import receive, send, send_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from berth.kernel.memory import Habit

    Step = tuple[str, dict[str, Any]]

_DIRECTORY = 0o040000
_RESTRICTED = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
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
        self.null = -1
        self.devpts = -1
        self.slave = -1
        self.reaper = -1
        self.proc = -1
        self.environment: dict[str, str] = {}
        # What was opened or learnt before pivot for steps after it (see runtime.bundle_steps).
        self.host_pid = 0
        self.labels: list[tuple[int, str]] = []
        # What this process, started ahead of its launch, teaches those after it (see kernel.memory).
        self.habit: Habit | None = None


def run(sock: Socket, steps: list[Step], state: Init) -> NoReturn:
    """Carry the steps out; the last one is execve."""
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


def linked(state: Init, *, network: dict[str, Any] | None) -> None:
    """Wait until the setter-up has written the limits and made the links; then configure them."""
    if receive(state.sock) is None:
        os._exit(127)
    if network is not None:
        STEPS["network"](state, **network)


def root(state: Init, *, source: int, propagation: int) -> None:
    """Leave the host's mount events, and put the root filesystem where pivot_root can take it."""
    if state.staging < 0:
        mount.make_private()
    state.root = state.sources[source][0][1]
    mount.move_mount(state.root, state.place)
    if propagation:
        mount.mount_setattr(state.root, 0, 0, propagation)


def trees(state: Init, *, paths: list[str]) -> None:
    """Move what was built on the staging tmpfs to its place, each tree with all that is mounted in it."""
    for path in paths:
        fd = os.open(path[1:], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=state.staging)
        if path != "/dev":
            _refuse_link(state, path)
        _put(state, fd, path)
        os.close(fd)


def _target(state: Init, path: str, is_directory: bool) -> int:
    """A descriptor of the mount point, made if it is missing. Links are resolved inside the root."""
    if is_directory:
        return make_directories_in_root(state.root, path)
    try:
        return open_in_root(state.root, path, os.O_PATH)
    except FileNotFoundError:
        os.close(make_directories_in_root(state.root, os.path.dirname(path)))
        os.close(open_in_root(state.root, path, os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644))
        return open_in_root(state.root, path, os.O_PATH)


def _put(state: Init, fd: int, path: str, is_directory: bool = True) -> None:
    target = _target(state, path, is_directory)
    try:
        if os.path.samestat(os.fstat(target), os.fstat(state.root)):
            raise Failure("mount", errno.EINVAL, f"{path}: it leads to the root")
        mount.move_mount(fd, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(target)


def mount_new(state: Init, *, target: str, kind: str, name: str, options: list[Any], attributes: int) -> None:
    """A new filesystem of our own: proc, sysfs, tmpfs, devpts, mqueue."""
    if kind in ("proc", "sysfs"):
        _refuse_link(state, target)
    pairs = tuple((key, value) for key, value in options)
    fd = mount.new_mount(kind, (("source", name), *pairs), attributes)
    _put(state, fd, target)
    if kind == "devpts":
        state.devpts = fd
    else:
        os.close(fd)


def mount_copy(state: Init, *, target: str, kind: str, name: str, options: list[Any], attributes: int) -> None:
    """A new filesystem with a copy of what it hides."""
    from berth.runtime import copy_up

    pairs = tuple((key, value) for key, value in options)
    fd = mount.new_mount(kind, (("source", name), *pairs), attributes & ~mount.MOUNT_ATTR_RDONLY)
    hidden = _target(state, target, True)
    try:
        copy_up.copy(hidden, fd)
    finally:
        os.close(hidden)
    mount.mount_setattr(fd, attributes)
    _put(state, fd, target)
    os.close(fd)


def _refuse_link(state: Init, target: str) -> None:
    """procfs and sysfs go where they are looked for, or nowhere: later writes to /proc rely on it."""
    try:
        fd = open_in_root(state.root, target, os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    mode = os.fstat(fd).st_mode
    os.close(fd)
    if mode & 0o170000 != _DIRECTORY:
        raise Failure("mount", errno.ENOTDIR, target)


def attach(state: Init, *, target: str, source: int, inside_proc: bool) -> None:
    """What was opened outside: /dev, a bind mount and its submounts, a device node."""
    if not inside_proc:
        _refuse_proc(state, target)
    for below, fd, is_directory in state.sources[source]:
        _put(state, fd, f"{target}/{below}" if below else target, is_directory)
        if target == "/dev" and not below:
            state.null = fd


def _refuse_proc(state: Init, target: str) -> None:
    """A link of the image may lead to /proc; nothing is mounted there (CVE-2023-28642)."""
    try:
        fd = open_in_root(state.root, target, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    inside = filesystem_type(fd) == PROC_SUPER_MAGIC
    os.close(fd)
    if inside:
        raise Failure("mount", errno.EPERM, f"{target}: it leads into /proc")


def control_groups(state: Init, *, target: str, v1: list[list[str]], v2: str | None, attributes: int) -> None:
    """/sys/fs/cgroup as the host has it: cgroup2 itself, or a tmpfs with one folder per v1 hierarchy. Read-only."""
    if v2 == "":
        fd = mount.new_mount("cgroup2", (("source", "cgroup"),), attributes)
        _put(state, fd, target)
        os.close(fd)
        return
    top = mount.new_mount(
        "tmpfs", (("source", "cgroup"), ("mode", "755"), ("size", "64k")), attributes & ~mount.MOUNT_ATTR_RDONLY
    )
    _put(state, top, target)
    for name, controllers in v1:
        chosen = tuple((option, None) for option in controllers.split(","))
        fd = mount.new_mount("cgroup", (("source", "cgroup"), *chosen), attributes)
        os.mkdir(name, 0o755, dir_fd=top)
        mount.move_mount(fd, top, name)
        os.close(fd)
        for alias in controllers.split(","):
            if alias != name:
                os.symlink(name, alias, dir_fd=top)
    if v2:
        fd = mount.new_mount("cgroup2", (("source", "cgroup"),), attributes)
        os.mkdir(v2, 0o755, dir_fd=top)
        mount.move_mount(fd, top, v2)
        os.close(fd)
    mount.mount_setattr(top, attributes)
    os.close(top)


def console(state: Init, *, height: int, width: int) -> None:
    """A pty of the container's own devpts; its master goes to the shim, its slave becomes /dev/console."""
    if state.devpts < 0 and state.root < 0:
        state.devpts = os.open("/dev/pts", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if state.devpts < 0:
        raise Failure("console", errno.ENOENT, "/dev/pts")
    master, state.slave = terminal.open_pair(state.devpts)
    if height and width:
        terminal.set_size(master, height, width)
    send(state.sock, {"console": True}, [master])
    os.close(master)
    if state.root >= 0:
        clone = mount.open_tree(state.slave)
        _put(state, clone, "/dev/console", False)
        os.close(clone)


def mask(state: Init, *, path: str) -> None:
    """Hide a path: a directory below an empty tmpfs, a file below our own /dev/null. A missing one needs no hiding."""
    try:
        target = open_in_root(state.root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if os.fstat(target).st_mode & 0o170000 == _DIRECTORY:
            options = (("size", "0"), ("nr_inodes", "2"))
            fd = mount.new_mount("tmpfs", options, mount.MOUNT_ATTR_RDONLY | _RESTRICTED)
        else:
            fd = _null(state)
        mount.move_mount(fd, target)
        os.close(fd)
    finally:
        os.close(target)


def _null(state: Init) -> int:
    """A clone of /dev/null from the /dev that we made ourselves, checked: an image's own could be anything."""
    if state.null < 0:
        raise Failure("mask", errno.ENODEV, "/dev/null")
    fd = mount.open_tree(state.null, "null")
    status = os.fstat(fd)
    if status.st_mode & 0o170000 != 0o020000 or status.st_rdev != os.makedev(1, 3):
        raise Failure("mask", errno.ENODEV, "/dev/null")
    return fd


def protect(state: Init, *, path: str) -> None:
    """Make a path read-only, with all that is mounted below."""
    try:
        target = open_in_root(state.root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fd = mount.open_tree(target, recursive=True)
        mount.mount_setattr(fd, mount.MOUNT_ATTR_RDONLY | _RESTRICTED, recursive=True)
        mount.move_mount(fd, target)
        os.close(fd)
    finally:
        os.close(target)


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
    process.close_on_exec_from(3)
    process.prctl(process.PR_SET_PDEATHSIG, death_signal)
    if init:
        _leave_reaper(state)
    process.reset_signals()
    trace.mark("execve")
    send(state.sock, {"exec": args[0], "marks": trace.take()})
    try:
        os.execve(path, args, state.environment)
    except OSError as error:
        send_errno(state.sock, error.errno or 0)
        os._exit(127)


def _leave_reaper(state: Init) -> None:
    """Go on in a child; this process becomes the reaper."""
    process.block_signals()
    child = os.fork()
    if child:
        state.sock.close()
        reaper.serve(child, state.reaper)
    # A group of its own, in the foreground: a key like ^C then reaches the program once, not through process 1 as well.
    os.setpgid(0, 0)
    if os.isatty(0):
        os.tcsetpgrp(0, os.getpid())


def find(name: str, environment: dict[str, str]) -> str:
    """The path of a program, searched in the environment's PATH. Failure as execve would fail."""
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
        if os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
        denied = True
    raise Failure("execve", errno.EACCES if denied else errno.ENOENT, name)


STEPS: dict[str, Callable[..., None]] = {
    "identity": identity,
    "network": network,
    "linked": linked,
    "root": root,
    "trees": trees,
    "mount": mount_new,
    "mount-copy": mount_copy,
    "attach": attach,
    "cgroup": control_groups,
    "console": console,
    "mask": mask,
    "protect": protect,
    "sysctl": sysctl,
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
