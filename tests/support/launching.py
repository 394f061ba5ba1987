"""Launches through runtime.launch alone, without engine, launcher or shim: what tests of the runtime's launch half drive.

`Bench` has a store with a busybox layer. Each test function runs in a child that plays launcher and shim in one.
"""

from __future__ import annotations

import os
import pickle
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berth.contract.runtime import ExecRequest, IOPlan, LaunchRequest
from berth.model.endpoint import NetworkPlan
from berth.model.oci import (
    Capabilities,
    DeviceRule,
    IdMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Seccomp,
    Spec,
    User,
)
from berth.model.rootfs import Overlay
from berth.runtime import cgroup, cgroup_layout, launch, seccomp_profile
from berth.runtime.plan import Compiler

PARENT = "berth-launch-test"
BASE = 3_000_000
NAMES = (
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP"
)
CAPABILITIES = ["CAP_" + name for name in NAMES.split()]
NAMESPACES = ("user", "pid", "network", "mount", "ipc", "uts", "cgroup")
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
RESTRICTED = ["nosuid", "noexec", "nodev"]


def usual_mounts() -> list[Mount]:
    """What Docker mounts in every container."""
    return [
        Mount(destination="/proc", type="proc", source="proc", options=RESTRICTED),
        Mount(destination="/dev", type="tmpfs", source="tmpfs", options=["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount(
            destination="/dev/pts",
            type="devpts",
            source="devpts",
            options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        Mount(destination="/sys", type="sysfs", source="sysfs", options=[*RESTRICTED, "ro"]),
        Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=["ro", *RESTRICTED]),
        Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=RESTRICTED),
        Mount(destination="/dev/shm", type="tmpfs", source="shm", options=[*RESTRICTED, "mode=1777", "size=67108864"]),
    ]


@dataclass
class Outcome:
    """What a run came to. `failure` is (step, errno, path)."""

    output: str = ""
    code: int | None = None
    failure: tuple[str, int, str] | None = None
    oom: bool = False
    seconds: float = 0.0
    extra: Any = None


@dataclass
class Wish:
    """A container to launch; the defaults are Docker's with a user namespace."""

    args: list[str]
    env: list[str] = field(default_factory=lambda: ["PATH=/usr/bin:/bin"])
    cwd: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    terminal: bool = False
    init: bool = False
    mounts: list[Mount] = field(default_factory=list)
    without: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = NAMESPACES
    joined: dict[str, str] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=lambda: list(CAPABILITIES))
    ambient: list[str] = field(default_factory=list)
    seccomp: Seccomp | str | None = "default"
    resources: Resources | None = None
    devices: list[Any] = field(default_factory=list)
    rlimits: list[Rlimit] = field(default_factory=list)
    sysctl: dict[str, str] = field(default_factory=dict)
    masked: list[str] = field(default_factory=lambda: list(MASKED))
    protected: list[str] = field(default_factory=lambda: list(READONLY))
    readonly: bool = False
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    umask: int | None = None
    hostname: str | None = "inside"
    network: NetworkPlan | None = None
    bind_files: tuple[tuple[str, str], ...] = ()
    extents: tuple[tuple[int, int, int], ...] = ((0, BASE, 65536),)
    rootfs_propagation: str | None = None


class Running:
    """A started container of a test, in the child."""

    def __init__(self, bench: Bench, started: launch.Started, read: int) -> None:
        self.bench = bench
        self.started = started
        self.read = read

    def shell(self, script: str, **wish: Any) -> str:
        """Output of a shell command by exec."""
        return self.exec(["sh", "-c", script], **wish).output

    def exec(self, args: list[str], **wish: Any) -> Outcome:
        """Run a further process to its end."""
        process = Process(
            user=User(uid=0, gid=0),
            args=args,
            env=wish.pop("env", ["PATH=/usr/bin:/bin"]),
            cwd=wish.pop("cwd", "/"),
            capabilities=capabilities(wish.pop("capabilities", CAPABILITIES)),
        )
        plan = self.bench.compiler.exec(ExecRequest(id="exec", process=process, **wish))
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        begin = time.perf_counter()
        try:
            entered = launch.enter(self.started.state, plan, None if plan["terminal"] else (null, write, write))
        except launch.Failure as failure:
            os.close(read)
            return Outcome(failure=(failure.step, failure.errno, failure.path))
        finally:
            os.close(null)
            os.close(write)
        seconds = time.perf_counter() - begin
        source = read if entered.console is None else entered.console
        output = drain(source)
        code = os.waitstatus_to_exitcode(os.waitpid(entered.pid, 0)[1])
        os.close(entered.pidfd)
        os.close(read)
        if entered.console is not None:
            os.close(entered.console)
        return Outcome(output=output, code=code, seconds=seconds)


def capabilities(names: list[str], ambient: list[str] | None = None) -> Capabilities:
    """Docker's way: inheritable stays empty."""
    extra = ambient or []
    return Capabilities(bounding=names, effective=names, permitted=names, inheritable=extra, ambient=extra)


def drain(fd: int, seconds: float = 20.0) -> str:
    """Everything until the end, or AssertionError after a while."""
    parts = []
    deadline = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"no end of output after {b''.join(parts)!r}"
        try:
            part = os.read(fd, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


def read_until(fd: int, mark: bytes) -> bytes:
    """Output up to a mark."""
    data = b""
    while mark not in data:
        ready, _, _ = select.select([fd], [], [], 20)
        part = os.read(fd, 65536) if ready else b""
        assert part, f"no {mark!r} in {data!r}"
        data += part
    return data


class Bench:
    """Directories, a busybox layer, a compiler."""

    def __init__(self) -> None:
        self.base = tempfile.mkdtemp(prefix="berth-launch-")
        self.store = self.base + "/store"
        self.layer = self.store + "/layers/base"
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "home/bob"):
            os.makedirs(f"{self.layer}/{name}")
        busybox = shutil.which("busybox")
        assert busybox
        shutil.copy(busybox, self.layer + "/bin/busybox")
        for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if name != "busybox":
                os.symlink("busybox", f"{self.layer}/bin/{name}")
        users = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n"
        Path(self.layer + "/etc/passwd").write_text(users)
        Path(self.layer + "/etc/group").write_text("root:x:0:\nwheel:x:10:bob,root\nbob:x:1000:\ntapes:x:26:\n")
        os.chown(self.layer + "/home/bob", 1000, 1000)
        self.compiler = Compiler(self.base + "/run", self.store)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.base)
        group = self.compiler.group("/" + PARENT)
        cgroup.kill(group)
        cgroup.remove(group)

    def layer_with(self, build: Callable[[Path], None]) -> str:
        """A further layer, made by a function; its path in the store."""
        name = "layers/" + secrets.token_hex(4)
        path = Path(self.store) / name
        path.mkdir()
        build(path)
        return name

    def request(self, wish: Wish, layers: tuple[str, ...] = ()) -> LaunchRequest:
        """The request for a wish, with an upper directory of its own. `layers` go over the busybox layer."""
        id = secrets.token_hex(8)
        for name in "upper", "work":
            os.makedirs(f"{self.store}/containers/{id}/{name}")
        overlay = Overlay(
            store=self.store,
            layers=(*layers, "layers/base"),
            upper=f"containers/{id}/upper",
            work=f"containers/{id}/work",
        )
        return LaunchRequest(
            id=id,
            spec=self.spec(wish, id),
            rootfs=overlay,
            directory=f"{self.store}/containers/{id}",
            user=wish.user,
            groups=wish.groups,
            network=wish.network,
            io=IOPlan(terminal=wish.terminal, height=24 if wish.terminal else 0, width=80 if wish.terminal else 0),
            init=wish.init,
            bind_files=wish.bind_files,
        )

    def spec(self, wish: Wish, id: str) -> Spec:
        """The OCI specification of a wish."""
        profile = wish.seccomp
        if profile == "default":
            profile = seccomp_profile.default(frozenset(wish.capabilities))
        assert not isinstance(profile, str)
        mounts = [mount for mount in usual_mounts() if mount.destination not in wish.without]
        maps = [IdMapping(container_id=a, host_id=b, size=c) for a, b, c in wish.extents] if "user" in wish.namespaces else []
        return Spec(
            process=Process(
                terminal=wish.terminal,
                user=User(uid=0, gid=0, umask=wish.umask),
                args=wish.args,
                env=wish.env,
                cwd=wish.cwd,
                capabilities=capabilities(wish.capabilities, wish.ambient),
                rlimits=wish.rlimits,
                no_new_privileges=wish.no_new_privileges,
                oom_score_adj=wish.oom_score_adj,
            ),
            root=Root(path="rootfs", readonly=wish.readonly),
            hostname=wish.hostname,
            mounts=[*mounts, *wish.mounts],
            linux=Linux(
                namespaces=[Namespace(type=kind, path=wish.joined.get(kind)) for kind in wish.namespaces],
                uid_mappings=maps,
                gid_mappings=maps,
                devices=wish.devices,
                cgroups_path=f"/{PARENT}/{id}",
                resources=wish.resources or Resources(devices=[DeviceRule(allow=False, access="rwm")]),
                rootfs_propagation=wish.rootfs_propagation,
                seccomp=profile,
                sysctl=wish.sysctl,
                masked_paths=wish.masked,
                readonly_paths=wish.protected,
            ),
        )

    def run(self, wish: Wish, layers: tuple[str, ...] = ()) -> Outcome:
        """Launch, wait, clean up."""
        request = self.request(wish, layers)
        return in_child(self, lambda: launch_and_wait(self, request))

    def shell(self, script: str, layers: tuple[str, ...] = (), **wish: Any) -> str:
        """Output of a shell script, which must succeed."""
        outcome = self.run(Wish(["sh", "-c", script], **wish), layers)
        assert outcome.failure is None, outcome.failure
        assert outcome.code == 0, outcome
        return outcome.output

    def running(self, wish: Wish, use: Callable[[Running], Any], layers: tuple[str, ...] = ()) -> Any:
        """Start a container, let a function use it (in the child), kill it, and return what the function said."""
        request = self.request(wish, layers)

        def body() -> Any:
            with started(self, request) as container:
                return use(container)

        return in_child(self, body)


@contextmanager
def started(bench: Bench, request: LaunchRequest) -> Iterator[Running]:
    """In the child: a running container that is killed and cleaned up in the end."""
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    plan = bench.compiler.launch(request)
    try:
        container = launch.start(plan, None if plan["terminal"] else (null, write, write), {})
    finally:
        os.close(write)
        os.close(null)
    try:
        yield Running(bench, container, read)
    finally:
        try:
            os.kill(container.pid, 9)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(container.pid, 0)
        except ChildProcessError:
            pass
        launch.end_rest(container.state)
        launch.cleanup(container.state)


def launch_and_wait(bench: Bench, request: LaunchRequest) -> Outcome:
    """In the child: a whole launch."""
    plan = bench.compiler.launch(request)
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    begin = time.perf_counter()
    try:
        container = launch.start(plan, None if plan["terminal"] else (null, write, write), {})
    except launch.Failure as failure:
        return Outcome(failure=(failure.step, failure.errno, failure.path), extra=leftovers(request.id))
    finally:
        os.close(write)
        os.close(null)
    seconds = time.perf_counter() - begin
    output = drain(read if container.console is None else container.console)
    code = os.waitstatus_to_exitcode(os.waitpid(container.pid, 0)[1])
    oom = launch.end_rest(container.state)
    launch.cleanup(container.state)
    return Outcome(output=output, code=code, oom=oom, seconds=seconds, extra=leftovers(request.id))


def leftovers(id: str) -> list[str]:
    """Control groups and children that a launch left."""
    roots, v2, _ = cgroup_layout.layout().parts()
    left = [f"{root}/{PARENT}/{id}" for root in {*roots.values(), *([v2] if v2 else [])}]
    left = [path for path in left if os.path.exists(path)]
    try:
        left.append(f"child {os.waitpid(-1, os.WNOHANG)[0]}")
    except ChildProcessError:
        pass
    return left


def in_child(bench: Bench, body: Callable[[], Any]) -> Any:
    """Run a function in a forked child that was prepared as the launcher is; its result or exception comes back."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        # A test that hangs ends by itself, also when the test run has been killed meanwhile.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        try:
            launch.prepare_launcher(bench.store)
            result: tuple[bool, Any] = (True, body())
        except BaseException as error:
            import traceback

            result = (False, f"{error!r}\n{traceback.format_exc()}")
        with os.fdopen(write, "wb") as stream:
            pickle.dump(result, stream)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    done, value = pickle.loads(data)
    if not done:
        raise AssertionError(value)
    return value
