"""Runtime and Task: how the engine starts containers and talks to those that run.

    Runtime.launch(LaunchRequest) ── launcher forks a shim, the shim makes the container ──> Task
    Runtime.load(id)              ── reconnects to the shim of a container that runs or has just ended ──> Task | None

A task is one run of a container, from execve to the end of its last process. Its shim survives the engine: it owns the
pipes or the pty, writes the log, keeps reserved ports bound, and writes the exit record. All methods are coroutines of
the engine's loop; none blocks it. Implementations raise berth's error kinds, never OSError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from msgspec import Struct, field

from berth.errors import BerthError
from berth.model.endpoint import NetworkPlan
from berth.model.oci import Process, Resources, Spec
from berth.model.rootfs import Overlay


class LogPlan(Struct, frozen=True, kw_only=True):
    """Where the shim writes output. `driver` is json-file, local or none. Rotation: `max_size` bytes, `max_files` files
    (path, path.1, ...); 0 is unbounded; with `compress` the rotated ones are path.N.gz. `attributes` go into each record
    (labels and env the user asked for)."""

    driver: str = "json-file"
    path: str = ""
    max_size: int = 10 * 1024 * 1024
    max_files: int = 3
    compress: bool = False
    attributes: dict[str, str] = field(default_factory=dict)


class IOPlan(Struct, frozen=True, kw_only=True):
    """`open_stdin` keeps standard input open without a client; `stdin_once` closes it when the first client that writes goes."""

    terminal: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    height: int = 0
    width: int = 0
    log: LogPlan = field(default_factory=LogPlan)


class AttachStream(Struct, frozen=True, kw_only=True):
    """A connected stream socket that is handed over with the message. The runtime owns the descriptor from then on, also
    when the call fails. `framed`: output gets Docker's 8-byte headers (not used with a terminal). `pending`: bytes that
    the engine had already read from the client. `detach_keys`: the byte sequence that detaches, empty for none."""

    fd: int
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    framed: bool = False
    pending: bytes = b""
    detach_keys: bytes = b""


class LaunchRequest(Struct, frozen=True, kw_only=True):
    """Everything about one launch.

    `spec.process.user` holds for numeric users; `user` as the user wrote it (name, uid, name:group ...) is looked up by
    init inside the container, bounded and by openat2, together with HOME and supplementary groups (`groups` are added).
    `directory` is the container's directory, for the exit record; `reserved` are bound sockets that hold published ports,
    kept open by the shim as long as it lives (handed over like AttachStream.fd). `init`: a tiny init that reaps is pid 1.
    `bind_files` are (source, destination) of the engine's own files (hosts, hostname, resolv.conf). `runtime` is the path of
    another OCI runtime's binary that makes the container; empty for our own.
    """

    id: str
    spec: Spec
    rootfs: Overlay
    directory: str
    user: str = ""
    groups: tuple[str, ...] = ()
    network: NetworkPlan | None = None
    io: IOPlan = field(default_factory=IOPlan)
    reserved: tuple[int, ...] = ()
    init: bool = False
    bind_files: tuple[tuple[str, str], ...] = ()
    stop_signal: int = 15
    runtime: str = ""


class ExecRequest(Struct, frozen=True, kw_only=True):
    """A further process in a running container. `user` as in LaunchRequest; empty is the container's own user.

    `about` means nothing to the runtime: it is kept beside the process, so that an engine that starts later gets it back.
    `ends_with_client`: when the last client closes its connection without detaching, the process and what it started are told
    to hang up, and killed two seconds later.
    """

    id: str
    process: Process
    user: str = ""
    groups: tuple[str, ...] = ()
    terminal: bool = False
    height: int = 0
    width: int = 0
    privileged: bool = False
    about: str = ""
    ends_with_client: bool = False


class Exit(Struct, frozen=True, kw_only=True):
    """How a process ended. `code` is 128 + signal for a signal, as Docker counts. `at` is seconds since the epoch; `ran_for` is
    seconds of a clock that nobody sets, or None where they are not known."""

    code: int
    signal: int = 0
    at: float = 0.0
    oom_killed: bool = False
    ran_for: float | None = None


class LaunchFailed(BerthError):
    """The container's process could not be started. `step` is what init was doing, `errno` why, `path` to what.

    `step` is `execve` when the executable is missing (ENOENT) or may not be run (EACCES, ENOEXEC, EISDIR);
    `user` when the user or group is unknown; `chdir` for the working directory; else the name of the step.
    """

    def __init__(self, step: str, errno: int, path: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno
        self.path = path


class Abilities(Struct, frozen=True, kw_only=True):
    """What this host's control groups can do. The defaults are those of a host that can do everything of cgroup v1.

    `version` is 2 for pure cgroup2, 1 for v1 and hybrid hosts, 0 where there is nothing to use. `cpus` and `mems` are what
    may be chosen from, as the kernel writes it ("0-3"), empty where cpuset is missing. `slices` is the directory that
    systemd's slices are in, empty where systemd does not run or keeps us in a subtree. `notes` say in whole sentences
    what is unusual, for the log.
    """

    version: int = 1
    memory: bool = True
    swap: bool = True
    reservation: bool = True
    swappiness: bool = True
    oom_kill_disable: bool = True
    cpu_shares: bool = True
    cpu_quota: bool = True
    cpu_realtime: bool = True
    cpuset: bool = True
    cpus: str = ""
    mems: str = ""
    pids: bool = True
    io_weight: bool = True
    io_weight_device: bool = True
    io_throttle: bool = True
    freezer: bool = True
    slices: str = ""
    notes: tuple[str, ...] = ()


class Stats(Struct, frozen=True, kw_only=True):
    """A reading of the control group. Times in nanoseconds, sizes in bytes; 0 where the kernel does not tell."""

    cpu_total: int = 0
    cpu_user: int = 0
    cpu_system: int = 0
    percpu: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    memory_usage: int = 0
    memory_max_usage: int = 0
    memory_limit: int = 0
    memory_stats: dict[str, int] = field(default_factory=dict)
    memory_failcnt: int = 0
    pids_current: int = 0
    pids_limit: int = 0
    blkio: dict[str, tuple[tuple[int, int, str, int], ...]] = field(default_factory=dict)


class ExecTask(Protocol):
    """A running exec."""

    @property
    def about(self) -> str:
        """What the request said of it."""
        ...

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        ...

    @property
    def pid(self) -> int:
        """The process id on the host."""
        ...

    async def wait(self) -> Exit:
        """The end of the process; may be called by many, at any time."""
        ...

    async def resize(self, height: int, width: int) -> None:
        """The size of its terminal, in characters. InvalidArgument without one."""
        ...

    async def kill(self, signal: int) -> None:
        """A signal to the process. NotFound when it has ended."""
        ...

    async def end(self) -> None:
        """End it and what it started: SIGHUP, two seconds later SIGKILL. NotFound when it has ended."""
        ...


class Task(Protocol):
    """One run of a container."""

    @property
    def id(self) -> str:
        """The container's id."""
        ...

    @property
    def pid(self) -> int:
        """The process id of init on the host."""
        ...

    @property
    def started_at(self) -> float:
        """Seconds since the epoch."""
        ...

    def running_for(self) -> float:
        """Seconds since the start, by a clock that nobody sets."""
        ...

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs. A task that `load` has found and that has ended says so at once."""
        ...

    async def wait(self) -> Exit:
        """The end of init, with all of its output written to the log. May be called by many, at any time."""
        ...

    async def kill(self, signal: int) -> None:
        """A signal to init, by pidfd. NotFound when it has ended."""
        ...

    def check(self, op: str) -> None:
        """Before something is begun that needs the shim (exec, attach). Unavailable when that one cannot be talked to."""
        ...

    async def attach(self, stream: AttachStream) -> None:
        """Add a client. Its connection is closed by the shim once the container has ended and all output is sent."""
        ...

    async def resize(self, height: int, width: int) -> None:
        """The size of the terminal, in characters."""
        ...

    async def hold_ports(self, sockets: Sequence[int], released: Sequence[tuple[str, str, int]]) -> None:
        """Bound sockets to keep open for the run; they are the runtime's from now on, also when this fails. Of those that it
        keeps, let go of the ones bound to (protocol, address, port)."""
        ...

    async def rotate_log(self) -> None:
        """Begin a new log file now."""
        ...

    async def exec(self, request: ExecRequest, streams: Sequence[AttachStream] = ()) -> ExecTask:
        """Run a further process. LaunchFailed when it cannot be started."""
        ...

    def find_exec(self, id: str) -> ExecTask | None:
        """An exec that runs or has lately ended, also one that an earlier engine started."""
        ...

    def exec_ids(self) -> list[str]:
        """The ids that `find_exec` knows."""
        ...

    def on_detach(self, listener: Callable[[str], None]) -> None:
        """Call `listener` whenever a client has sent its detach keys: with the exec's id, or "" for the container itself."""
        ...

    def on_oom(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the container has run out of memory, whoever was killed for it. Not after its end."""
        ...

    async def pause(self) -> None:
        """Freeze all processes of the container."""
        ...

    async def resume(self) -> None:
        """Thaw them."""
        ...

    async def update(self, resources: Resources) -> None:
        """Change limits of the running container."""
        ...

    async def stats(self) -> Stats:
        """A reading of the control group."""
        ...

    async def pids(self) -> list[int]:
        """The host's process ids of all processes in the container."""
        ...

    async def delete(self) -> None:
        """After the end: end the shim, remove control group, socket and run files. Idempotent."""
        ...


class Runtime(Protocol):
    """Starts containers. One per engine."""

    async def launch(self, request: LaunchRequest, streams: Sequence[AttachStream] = ()) -> Task:
        """Start a container; when it returns, execve has succeeded. LaunchFailed leaves nothing behind."""
        ...

    def claim_slot(self) -> str:
        """The id that a new container should get to be started from a prepared slot; empty when there is none. Slots that are
        not started within seconds are ended, and the container starts without."""
        ...

    def slot_base(self, id: str) -> int:
        """The first of the host ids of this container's slot, which still belong to the slot; 0 without one."""
        ...

    def slot_link(self, id: str) -> str:
        """The name of the host's end of the network link that this container's slot has made; empty without one."""
        ...

    def prime_slot(self, request: LaunchRequest) -> bool:
        """The container may be started soon: have its slot do what depends neither on the network (what the request says of it
        does not count) nor on attached streams; whether it has a slot for that. The launch that comes is of the same request but
        for these, or does without the slot. Who opens the root filesystem before that drops the slot."""
        ...

    def slot_range(self, id: str) -> int:
        """The first of the host ids of this container's slot, which belong to the caller from now on; 0 without a slot.
        After that the launch comes, or `drop_slot`."""
        ...

    async def drop_slot(self, id: str) -> None:
        """The container will not be started now: end its slot. Nothing happens without one."""
        ...

    async def drop_slots(self) -> None:
        """The engine ends: end all slots, and make no more."""
        ...

    async def load(self, id: str) -> Task | None:
        """The task of a container whose shim still lives, or has left an exit record; None when there is neither."""
        ...

    def tasks(self) -> AsyncIterator[str]:
        """The ids that have a shim, a control group or run files of this engine: what recovery compares with the database."""
        ...

    async def remove_leftovers(self, id: str) -> None:
        """End and remove whatever `tasks` found of a container that the database does not know. Idempotent."""
        ...

    async def spawn(self, module: str, arguments: Sequence[str], fds: Sequence[int]) -> int:
        """Fork a worker from the launcher: it imports `module` (site-packages on its path) and calls `main(arguments, fds)`.

        Returns its pid. The worker is root in the host's namespaces, with a mount namespace of its own; it ends by itself
        when its sockets close. The caller keeps its own copies of `fds`.
        """
        ...

    async def close(self) -> None:
        """Let go of launcher and shims; containers go on."""
        ...
