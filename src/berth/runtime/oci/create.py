"""create, start, run and delete: from a bundle to a container, and what becomes of it.

    run       one launch; this command is init's parent and waits
    create    the same, but init waits on a socket (`runtime.bundle_steps`), and this command ends
    start     tells it to go on, and hears whether execve has worked

Whatever fails, what was made goes again: init, control group, state, and poststop hooks run, as after any end.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM
from _socket import socket as Socket

from berth.errors import BerthError, Conflict, InvalidArgument
from berth.kernel import process
from berth.kernel.file import write_text
from berth.runtime import bundle_steps, cgroup, guard, hook, label, launch, plan, trampoline
from berth.runtime.failure import Failure
from berth.runtime.message import pair, receive, receive_errno, send
from berth.runtime.oci import bundle as bundles
from berth.runtime.oci import console, jsontext, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from berth.runtime.oci.bundle import Bundle, Wish
    from berth.runtime.oci.journal import Journal
    from berth.runtime.oci.state import Container
    from berth.runtime.oci.usage import Options

_CLOEXEC = 0o2000000
_HOOKED = ("poststart", "poststop")


class Launched:
    """A container that was made. `pid` is our child; `console` the terminal's master, or None."""

    def __init__(self, container: Container, pid: int, console: int | None) -> None:
        self.container = container
        self.pid = pid
        self.console = console


def create(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    _make(root, options, journal, hold=True)
    return 0


def run(root: str, options: Options, journal: Journal) -> int:
    """The command. The exit code is the program's."""
    detached = "detach" in options
    if not detached:
        console.hold_signals()
    launched = _make(root, options, journal, hold=False, detached=detached)
    container = launched.container
    try:
        _poststart(container)
    except Failure as failure:
        destroy(container, journal)
        raise Conflict(words(failure)) from None
    if detached:
        return 0
    try:
        return console.attend(launched.pid, launched.console)
    finally:
        if "keep" not in options:
            destroy(container, journal)


def start(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    container = state.load(root, options.arguments[0])
    status = container.status()
    if status in ("stopped", "creating"):
        raise Conflict("cannot start a container that has stopped" if status == "stopped" else "the container is not ready yet")
    if status == "running":
        raise Conflict("cannot start an already running container")
    if status == "paused":
        raise Conflict("cannot start a container in the paused state")
    try:
        _go_on(container)
        _poststart(container)
    except Failure as failure:
        if pid := container.pid:
            os.kill(pid, 9)
        raise Conflict(words(failure)) from None
    return 0


def _go_on(container: Container) -> None:
    directory = os.open(container.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"/proc/self/fd/{directory}/{state.SOCKET}"
    sock = Socket(AF_UNIX, SOCK_SEQPACKET | _CLOEXEC)
    try:
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise Conflict("cannot start an already running container") from None
        os.unlink(path)
        send(sock, {"start": True})
        answer = receive(sock)
        if answer is None:
            raise Failure("init", 0, "it was killed before it could start")
        value, _ = answer
        if "failed" in value:
            raise Failure(*value["failed"])
        if number := receive_errno(sock):
            raise Failure("execve", number, value["exec"])
    finally:
        sock.close()
        os.close(directory)


def delete(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    forced = "force" in options
    try:
        container = state.load(root, options.arguments[0])
    except BerthError:
        if forced:
            return 0
        raise
    status = container.status()
    if status not in ("stopped", "created") and not forced:
        raise Conflict(f"cannot delete container {container.id} that is not stopped: {status}")
    destroy(container, journal)
    return 0


def destroy(container: Container, journal: Journal) -> None:
    """End and remove a container, and run its poststop hooks."""
    launch.end_rest(container.run)
    launch.cleanup(container.run)
    _hooks_after(container, "poststop", journal)
    container.discard()


def words(failure: Failure) -> str:
    """A failure as runc tells it."""
    text = plan.failure_message(failure.step, failure.errno, failure.path)
    return text.rpartition("OCI runtime create failed: ")[2].removesuffix(": unknown")


def _make(root: str, options: Options, journal: Journal, *, hold: bool, detached: bool = True) -> Launched:
    bundle = bundles.read(os.path.abspath(options.text("bundle", ".")))
    socket = options.text("console-socket")
    console.check(bundle.spec.process.terminal, socket, detached)
    protect(bundle.spec.process)
    wish = _wish(root, options.arguments[0], options)
    container = state.make(root, wish.id, _values(bundle, wish.id))
    try:
        made = _launch(container, bundle, wish, hold)
        if made.console is not None and socket:
            console.hand_over(made.console, socket)
        if "pid-file" in options:
            write_pid(options.text("pid-file"), made.pid)
        return made
    except Failure as failure:
        destroy(container, journal)
        raise Conflict(words(failure)) from None
    except BaseException:
        destroy(container, journal)
        raise


def protect(process: Any) -> None:
    """Before anything is done: where the trampoline cannot be used, this command runs from a read-only mount of itself."""
    if not trampoline.available() or label.of(process):
        guard.execute_read_only()


def _wish(root: str, id: str, options: Options) -> Wish:
    wish = bundles.Wish(root, id)
    wish.keyring = "no-new-keyring" not in options
    wish.pivot = "no-pivot" not in options
    wish.preserve = preserved(options)
    return wish


def preserved(options: Options) -> int:
    """How many descriptors go along: those asked for, and those of socket activation."""
    count = options.number("preserve-fds") or 0
    listening = os.environ.get("LISTEN_FDS", "")
    count += int(listening) if listening.isdigit() else 0
    for fd in range(3, 3 + count):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            raise InvalidArgument(f"descriptor {fd} is to be passed on, but it is not open") from None
    return count


def _values(bundle: Bundle, id: str) -> dict[str, Any]:
    return {
        "ociVersion": bundles.VERSION,
        "bundle": bundle.directory,
        "rootfs": bundle.rootfs,
        "annotations": bundle.spec.annotations,
        "hooks": {stage: bundle.hooks[stage] for stage in _HOOKED if bundle.hooks[stage]},
        "run": {"cgroup": {"path": "", "roots": {}, "v2": None, "enabled": []}},
    }


def _launch(container: Container, bundle: Bundle, wish: Wish, hold: bool) -> Launched:
    bundle_steps.install()
    if trampoline.available():
        wish.program = -1 if label.of(bundle.spec.process) else trampoline.prepare(3 + wish.preserve)
    os.makedirs(wish.work, 0o700, exist_ok=True)
    ends: list[Socket] = []
    if hold:
        ends.append(_bind(container))
        wish.hold = ends[-1].fileno()
    if bundle.hooks["prestart"] or bundle.hooks["createRuntime"]:
        ends.append(_serve_hooks(bundle, wish))
        wish.runtime_hooks = ends[-1].fileno()
    seccomp = bundle.spec.linux.seccomp
    if seccomp is not None and seccomp.listener_path:
        ends.append(_listener(seccomp.listener_path))
        wish.listener = ends[-1].fileno()
    compiled = bundles.compile_launch(bundle, wish)
    if found := cgroup.pids(compiled["cgroup"]):
        path = compiled["cgroup"]["path"]
        raise Conflict(f"container's cgroup {path} is not empty: {len(found)} process(es) found, choose another cgroupsPath")
    container.values["run"] = compiled["state"]
    container.save()
    launch.leave_host_mounts(wish.work)
    started = launch.start_alone(compiled, None if compiled["terminal"] else (0, 1, 2))
    for end in ends:
        end.close()
    os.close(started.pidfd)
    container.values["run"] = started.state
    container.save()
    return Launched(container, started.pid, started.console)


def _bind(container: Container) -> Socket:
    """The socket that init waits on. By way of a descriptor, since a socket's path has room for 107 bytes only."""
    directory = os.open(container.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = Socket(AF_UNIX, SOCK_SEQPACKET | _CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{state.SOCKET}")
    finally:
        os.close(directory)
    sock.listen(4)
    return sock


def _listener(path: str) -> Socket:
    sock = Socket(AF_UNIX, SOCK_STREAM | _CLOEXEC)
    try:
        sock.connect(path)
    except OSError as error:
        raise InvalidArgument(f"seccomp.listenerPath {path}: {(error.strerror or '').lower()}: is the agent running?") from None
    return sock


def _serve_hooks(bundle: Bundle, wish: Wish) -> Socket:
    """A process in the host's namespaces that runs prestart and createRuntime hooks once init asks; ends with init and us."""
    ours, theirs = pair()
    us = os.getpid()
    if os.fork() == 0:
        process.share_fate(us)
        ours.close()
        _run_hooks(theirs, bundle, wish)
    theirs.close()
    return ours


def _run_hooks(sock: Socket, bundle: Bundle, wish: Wish) -> NoReturn:
    try:
        answer = receive(sock)
        if answer is not None:
            text = hook.with_pid(bundles.state_text(bundle, wish.id, "creating"), answer[0]["pid"])
            try:
                hook.run("prestart", bundle.hooks["prestart"], text)
                hook.run("createRuntime", bundle.hooks["createRuntime"], text)
                send(sock, {"done": True})
            except Failure as failure:
                send(sock, {"failed": [failure.step, failure.errno, failure.path]})
    finally:
        os._exit(0)


def _poststart(container: Container) -> None:
    if hooks := container.values["hooks"].get("poststart"):
        hook.run("poststart", hooks, _hook_state(container))


def _hooks_after(container: Container, stage: str, journal: Journal) -> None:
    """Each of them, whatever became of the one before: nobody could undo the end of a container."""
    text = _hook_state(container)
    for entry in container.values["hooks"].get(stage, ()):
        try:
            hook.run(stage, [entry], text)
        except Failure as failure:
            journal.warning(failure.path)


def _hook_state(container: Container) -> str:
    """The state for hooks of a container that exists."""
    return jsontext.encode(
        {key: value for key, value in container.document().items() if key not in ("rootfs", "owner", "created")}
    )


def write_pid(path: str, pid: int) -> None:
    """A pid file, whole or not at all."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}" if folder else f".{name}"
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
    write_text(temporary, str(pid))
    os.rename(temporary, path)
