"""The launcher: a fork server. A fork of a small, ready process takes a millisecond; starting an interpreter takes many.

    engine -> launcher   {"v":1,"op":"launch"[,"maker"]}             + answer socket, request (a memfd), streams, reserved sockets
                         {"v":1,"op":"slot"}                         + answer socket, request: a launch that waits half-way
                         {"v":1,"op":"spawn","module","arguments"}   + answer socket, the worker's descriptors
                         {"v":1,"op":"ping"}                         + answer socket
    the answer comes on the socket that came with the request: from the launch (and that socket stays the engine's
    connection to the shim), for a spawn from the launcher: {"v":1,"id":0,"result":{"pid":n}}

The launcher does not read the request of a launch: what it has in memory, every shim would have.

One request is one fork, so any number of launches go on at the same time. The kernel reaps the children (SIGCHLD is ignored).
It ends when the engine's socket closes; shims and workers go on. Started as `python -I -S -c ... <arguments>`. Lean code.
"""

from __future__ import annotations

import _socket
import gc
import os
import resource
import signal
import sys

from berth import failpoint
from berth.kernel.namespace import CLONE_NEWNS, unshare
from berth.kernel.process import PR_SET_SECUREBITS, prctl
from berth.runtime import channel, guard, shim, under_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from berth.runtime.channel import Message

_LONGEST_LOG = 1 << 20


def main(arguments: list[str]) -> None:
    """Serve until the engine closes the socket. Arguments: its number, run directory, store, launch module, path of workers."""
    guard.execute_read_only()
    failpoint.enable()
    descriptor, run, store, launch_name, *worker_path = arguments
    control = _socket.socket(fileno=int(descriptor))
    os.set_inheritable(control.fileno(), False)
    _redirect(run)
    under_way.hold(run)
    os.chdir("/")
    os.umask(0o022)
    # Published ports are one descriptor each. Containers without a limit of their own inherit it, as they do from dockerd.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    __import__(launch_name)
    launch = sys.modules[launch_name]
    launch.prepare_launcher(store)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    channel.send(control, {"event": "ready"})
    gc.collect()
    gc.freeze()
    # Forks that live for one launch leave no garbage that would matter; shims and workers, which stay, collect.
    gc.disable()
    while True:
        try:
            received = channel.receive(control)
        except channel.Cut:
            # The answer socket is lost with the rest, so whoever asked learns that it came to nothing.
            print("too many open files in the launcher: raise the limit that berthd is started with", file=sys.stderr, flush=True)
            continue
        if received is None:
            return
        _serve(control, launch, worker_path, *received)


def _redirect(run: str) -> None:
    """Standard input and output are nothing; what shims, workers and the launcher complain of goes to a file."""
    null = os.open("/dev/null", os.O_RDWR)
    path = f"{run}/launcher.log"
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    if os.fstat(log).st_size > _LONGEST_LOG:
        os.ftruncate(log, 0)
    for source, target in (null, 0), (null, 1), (log, 2):
        os.dup2(source, target)
    for fd in null, log:
        if fd > 2:
            os.close(fd)


def _serve(control: _socket.socket, launch: ModuleType, worker_path: list[str], message: Message, fds: list[int]) -> None:
    answer = _socket.socket(fileno=fds[0])
    try:
        if message["op"] == "ping":
            channel.send(answer, {"id": 0, "result": {}})
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            if message["op"] in ("launch", "slot"):
                answer.detach()
                shim.run(_maker(launch, message.get("maker", "")), fds, message["op"] == "slot")
            answer.close()
            _work(message, fds[1:], worker_path)
        if message["op"] == "spawn":
            channel.send(answer, {"id": 0, "result": {"pid": pid}})
    except OSError as error:
        _refuse(answer, error)
    finally:
        answer.close()
        channel.close_all(fds[1:])


def _maker(launch: ModuleType, name: str) -> ModuleType:
    """What makes the container: our own launch module, or the one that the request names, loaded in this shim only."""
    if not name:
        return launch
    __import__(name)
    module = sys.modules[name]
    module.adopt_orphans(True)
    return module


def _refuse(answer: _socket.socket, error: OSError) -> None:
    document = {"kind": "launch", "step": "fork", "errno": error.errno or 0, "path": ""}
    try:
        channel.send(answer, {"id": 0, "error": document})
    except OSError:
        # The engine has gone, and with it whoever wanted to know.
        pass


def _work(message: Message, fds: list[int], path: list[str]) -> None:
    """The life of a worker. Never returns."""
    status = 1
    try:
        under_way.let_go()
        gc.enable()
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        unshare(CLONE_NEWNS)
        # The launcher keeps its capabilities when it changes ids; a worker that gives up root has to lose them.
        prctl(PR_SET_SECUREBITS, 0)
        name: str = message["module"]
        with open("/proc/self/comm", "w") as file:
            file.write(name.removeprefix("berth.")[-15:])
        sys.path += [entry for entry in path if entry not in sys.path]
        __import__(name)
        sys.modules[name].main(message["arguments"], fds)
        status = 0
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)
