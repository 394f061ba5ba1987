"""A shim that is awake: what owns init, its streams, its execs and the connections of engines. Lean code.

    engine -> shim   {"v":1,"id":n,"op":...}      shim -> engine   {"v":1,"id":n,"result":{...}} or {"v":1,"id":n,"error":{...}}
    attach   {stream} +1 fd                                            {}
    exec     {exec,plan,terminal,streams[,about]} +fds                 {pid} + pidfd
    resize   {height,width[,exec]}                                     {}
    state    {}                                                        {pid,started_at,exit|null,execs,...} + pidfds of what runs
    quit     {kill}                                                    {}
    events   {"v":1,"event":"exit"|"exec-exit"|"detach"|"left",...} to every connection

The first connection is the one that the launch was asked for on; later engines connect to <run>/shims/<id>.sock. When the
container has ended the shim says so first, since somebody waits for it, and then takes away what is left: control group, mounts,
its socket. "left" tells that nothing is there any more but the run files, which an engine removes that has noted the end.
"""

from __future__ import annotations

import _socket
import errno
import gc
import os
import sys
import time
from binascii import a2b_base64

from berth import failpoint, trace
from berth.kernel.file import write_text
from berth.runtime import channel, exec_session, record
from berth.runtime.connection import NO_DESCRIPTORS, Connection
from berth.runtime.logfile import LogFile
from berth.runtime.loop import READ, Loop
from berth.runtime.resolver_link import ResolverLink
from berth.runtime.stdio import Stdio, streams_of
from berth.runtime.stream import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from berth.runtime.channel import Message
else:
    import _signal

# How long the end of a process waits for outputs that another process still holds open.
GRACE = 2.0
# A shim's own oom_score_adj, where it may be lowered.
PROTECTED = "-999"
# How long a shim whose container has ended stays for clients that have not taken their output yet.
_LINGER = 600.0
# What an exec has to end by itself once its client has gone.
_HANG_UP_SECONDS = 2.0
_EXECS_REMEMBERED = 128
_ACCEPT_AGAIN = 0.5
_SCTP = 132


class Refused(Exception):
    """A request that makes no sense at present: `kind` is an error kind's name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Exec:
    """A further process."""

    def __init__(self, pid: int, pidfd: int, session: Session, about: str) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.session = session
        self.about = about
        self.exit: Message | None = None


class Keeper:
    """One container's shim. `launch` is the module that makes containers (runtime.launch, or a test's).

    `born` is what `runtime.birth` tells of the container, `held` its descriptors by name, `engine` the connection that the
    launch was asked for on (None: that engine has gone), `streams` what is attached from the beginning. `child` is birth, at the
    other end of `near`, if it has not been reaped (else 0).
    """

    def __init__(
        self,
        launch: ModuleType,
        born: Message,
        held: dict[str, int],
        engine: _socket.socket | None,
        streams: list[tuple[Message, int]],
        reserved: list[int],
        near: _socket.socket,
        child: int,
    ) -> None:
        if born["trace"]:
            trace.enable()
            trace.mark("awake")
        gc.enable()
        self._launch = launch
        self._id: str = born["id"]
        self._run: str = born["run"]
        self._directory: str = born["directory"]
        self._pid: int = born["pid"]
        self._pidfd = held["pidfd"]
        self._mounts = held["mounts"]
        self._started_at: float = born["started_at"]
        self._began: float = born["began"]
        self._state: Message = born["state"]
        self._cgroup: Message = born["cgroup"]
        self._lowered: bool = born["lowered"]
        self._reserved = reserved
        self._loop = Loop()
        self._connections: list[Connection] = []
        self._execs: dict[str, Exec] = {}
        self._strays: set[int] = set()
        self._exit: Message | None = None
        self._leaving = 0.0
        self._room = False
        self._log = _open_log(born["log"])
        self._session = streams_of(
            self._loop, held, log=self._log, stdin_once=born["stdin_once"], on_detach=lambda: self._event("detach")
        )
        for message, fd in streams:
            self._attach(self._session, message, fd)
        self._listener = _socket.socket(fileno=held["listener"])
        self._loop.watch(self._pidfd, READ, self._init_ended)
        self._birth = child
        if child:
            self._loop.watch(near.fileno(), READ, lambda _mask: self._birth_ended(near))
        if "command" in self._state:
            launch.adopt_orphans(False)
        self._watch_strays()
        self._listen()
        if engine is not None:
            self._connect(engine)
        self._resolver: ResolverLink | None = None
        if born["resolver"]:
            sockets = [fd for name, fd in held.items() if name.startswith("resolver")]
            self._resolver = ResolverLink(self._loop, born["resolver"], self._id, sockets, held.get("link", -1))

    def serve(self) -> None:
        """Until the container has ended and everything has been said and sent."""
        self._loop.run()

    def _birth_ended(self, near: _socket.socket) -> None:
        self._loop.forget(near.fileno())
        near.close()
        os.waitpid(self._birth, 0)
        self._birth = 0

    # Connections

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except OSError:
            # Too many open files: whoever knocks waits, and the processor does not.
            self._loop.forget(self._listener.fileno())
            self._loop.after(_ACCEPT_AGAIN, self._listen)
            return
        sock = _socket.socket(fileno=fd)
        if channel.peer_is_root(sock):
            self._connect(sock)
        else:
            sock.close()

    def _listen(self) -> None:
        if not self._leaving:
            self._loop.watch(self._listener.fileno(), READ, lambda _mask: self._accept())

    def _connect(self, sock: _socket.socket) -> Connection:
        connection = Connection(self._loop, sock, self._serve_request, self._disconnected)
        self._connections.append(connection)
        return connection

    def _disconnected(self, connection: Connection) -> None:
        self._connections.remove(connection)

    def _event(self, name: str, **values: object) -> None:
        for connection in list(self._connections):
            connection.send({"event": name, **values})

    def _serve_request(self, connection: Connection, message: Message, fds: list[int]) -> None:
        answer: Message = {"id": message.get("id")}
        passed: list[int] = []
        try:
            if message.get("op") not in _OPERATIONS:
                raise Refused("Unavailable", f"the shim of {self._id[:12]} does not know how to {message.get('op')}: it is older")
            answer["result"], passed = _OPERATIONS[message["op"]](self, message, fds)
        except self._launch.Failure as failure:
            answer["error"] = failure_of(failure)
        except Refused as refusal:
            answer["error"] = {"kind": refusal.kind, "message": str(refusal)}
        except Exception as error:  # whatever is wrong with one request, its sender waits for an answer
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                channel.close_all(fds)
                connection.send({**answer, "error": NO_DESCRIPTORS})
                return
            sys.excepthook(*sys.exc_info())
            text = f"the shim of {self._id[:12]} cannot {message.get('op')}: {error!r}"
            answer["error"] = {"kind": "Internal", "message": text}
        channel.close_all(fds)
        connection.send(answer, passed)

    def _summary(self) -> Message:
        execs = {id: {"pid": exec.pid, "exit": exec.exit, "about": exec.about} for id, exec in self._execs.items()}
        lost = self._log.lost if self._log else 0
        born: Message = {"pid": self._pid, "started_at": self._started_at, "began": self._began}
        born |= {"cgroup": self._cgroup, "directory": self._directory}
        return {**born, "exit": self._exit, "execs": execs, "log_bytes_lost": lost}

    # Operations: each returns its result and descriptors to send along. Descriptors that it takes are removed from `fds`.

    def _op_state(self, _message: Message, _fds: list[int]) -> tuple[Message, list[int]]:
        running = [exec.pidfd for exec in self._execs.values() if exec.exit is None]
        return self._summary(), [self._pidfd, *running] if self._exit is None else []

    def _op_attach(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        self._attach(self._session, message["stream"], fds.pop(0))
        return {}, []

    def _attach(self, session: Session, stream: Message, fd: int) -> None:
        session.attach(
            fd,
            stdin=stream["stdin"],
            stdout=stream["stdout"],
            stderr=stream["stderr"],
            framed=stream["framed"],
            pending=a2b_base64(stream["pending"]),
            keys=a2b_base64(stream["keys"]),
        )

    def _op_exec(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        id: str = message["exec"]
        if self._exit is not None or not self._loop.watches(self._pidfd):
            raise Refused("Conflict", f"Container {self._id} is not running")
        if id in self._execs:
            raise Refused("AlreadyExists", f"exec {id} runs already")
        stdio = Stdio(message["terminal"], any(stream["stdin"] for stream in message["streams"]))
        try:
            # What is run must not inherit the shim's own protection from the out-of-memory killer.
            if self._lowered:
                set_oom_score("self", "0")
            entered = self._launch.enter(self._state, message["plan"], stdio.child)
        except BaseException:
            stdio.close()
            self._watch_strays()
            self._end_strays()
            raise
        finally:
            stdio.close_child()
            if self._lowered:
                set_oom_score("self", PROTECTED)
        held = stdio.held(entered.console)
        session = streams_of(self._loop, held, stdin_once=True, on_detach=lambda: self._event("detach", exec=id))
        exec = self._execs[id] = Exec(entered.pid, entered.pidfd, session, message.get("about", ""))
        if message.get("ends"):
            session.on_gone = lambda: self._end_exec(exec)
        self._watch_strays()
        for stream in message["streams"]:
            self._attach(session, stream, fds.pop(0))
        self._loop.watch(exec.pidfd, READ, lambda _mask: self._exec_ended(id, exec))
        return {"pid": exec.pid}, [exec.pidfd]

    def _op_end_exec(self, message: Message, _fds: list[int]) -> tuple[Message, list[int]]:
        exec = self._execs.get(message["exec"])
        if exec is None or exec.exit is not None:
            raise Refused("NotFound", f"No such exec instance: {message['exec']}")
        self._end_exec(exec)
        return {}, []

    def _end_exec(self, exec: Exec) -> None:
        """All that the exec has started, unless it has made a session of its own."""
        pidfds = exec_session.members(exec.pid)
        exec_session.hang_up(pidfds)

        def kill() -> None:
            # Its number may be another's by now, unless it is still not reaped.
            late = exec_session.members(exec.pid) if self._loop.watches(exec.pidfd) else []
            exec_session.kill([*pidfds, *late])
            channel.close_all([*pidfds, *late])

        self._loop.after(_HANG_UP_SECONDS, kill)

    def _watch_strays(self) -> None:
        """Another runtime's binary leaves what it starts to us as orphans; others may come in the same moment.

        Unless they are reaped, the container's pid namespace does not end.
        """
        if "command" not in self._state:
            return
        known = {self._pid, self._birth, *(exec.pid for exec in self._execs.values()), *self._strays}
        for pid, pidfd in self._launch.strays(known):
            self._strays.add(pid)
            self._loop.watch(pidfd, READ, self._reaper(pid, pidfd))

    def _reaper(self, pid: int, pidfd: int) -> Callable[[int], None]:
        def reap(_mask: int) -> None:
            self._loop.forget(pidfd)
            os.close(pidfd)
            os.waitpid(pid, 0)
            self._strays.discard(pid)

        return reap

    def _end_strays(self) -> None:
        """An entrant of ours that was killed may have cloned a process that nobody knows."""
        if "command" in self._state:
            return
        known = {self._pid, self._birth, *(exec.pid for exec in self._execs.values() if exec.exit is None)}
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            strays = [int(pid) for pid in file.read().split() if int(pid) not in known]
        for pid in strays:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

    def _op_resize(self, message: Message, _fds: list[int]) -> tuple[Message, list[int]]:
        session = self._session
        if message.get("exec"):
            exec = self._execs.get(message["exec"])
            if exec is None or exec.exit is not None:
                raise Refused("NotFound", f"No such exec instance: {message['exec']}")
            session = exec.session
        if not session.resize(message["height"], message["width"]):
            raise Refused("InvalidArgument", "the process has no terminal, so there is nothing to resize")
        return {}, []

    def _op_hold(self, message: Message, fds: list[int]) -> tuple[Message, list[int]]:
        released = {tuple(port) for port in message["release"]}
        kept = [fd for fd in self._reserved if _bound_to(fd) not in released]
        channel.close_all([fd for fd in self._reserved if fd not in kept])
        self._reserved = kept + fds
        fds.clear()
        return {}, []

    def _op_rotate(self, _message: Message, _fds: list[int]) -> tuple[Message, list[int]]:
        if self._log is not None:
            self._log.rotate()
        return {}, []

    def _op_quit(self, message: Message, _fds: list[int]) -> tuple[Message, list[int]]:
        if self._exit is None:
            if not message.get("kill"):
                raise Refused("Conflict", f"container {self._id} is running: stop it before its shim is ended")
            if self._loop.watches(self._pidfd):
                _signal.pidfd_send_signal(self._pidfd, 9)
                self._init_ended(0)
        self._leave()
        record.remove_run_files(self._run, self._id)
        return {}, []

    # Ends

    def _init_ended(self, _mask: int) -> None:
        self._loop.forget(self._pidfd)
        # Standard input, which is nothing: with that, what follows has a descriptor even when all are taken.
        if not self._room:
            os.close(0)
            self._room = True
        # Nobody else can learn how it ended once it is reaped: first this is written down.
        status = _status_of_zombie(self._pid)
        ended_at = time.time()
        failpoint.hit("shim.end.before-record")
        trace.take()
        trace.mark("ended")
        exit = {**record.ended(status, ended_at), "oom_killed": False, "ran_for": record.uptime() - self._began}
        self._record(exit)
        failpoint.hit("shim.end.after-record")
        trace.mark("recorded")
        os.waitpid(self._pid, 0)
        failpoint.hit("shim.end.after-reaped")
        if self._resolver is not None:
            self._resolver.close()
        try:
            exit["oom_killed"] = bool(self._launch.end_rest(self._state))
        except OSError:
            sys.excepthook(*sys.exc_info())
        if exit["oom_killed"]:
            self._record(exit)
        failpoint.hit("shim.end.after-rest")
        trace.mark("rest-ended")
        self._session.exited(GRACE, lambda: self._report(exit))

    def _record(self, exit: Message) -> None:
        try:
            document = {"v": 1, **exit, "pid": self._pid, "started_at": self._started_at}
            record.write_exit(self._run, self._id, self._directory, document)
        except OSError:
            sys.excepthook(*sys.exc_info())

    def _report(self, exit: Message) -> None:
        self._session.close_outputs()
        if self._log is not None:
            self._log.close()
        # Whoever hears of the end may want the ports.
        channel.close_all(self._reserved)
        self._reserved = []
        os.close(self._pidfd)
        self._exit = exit
        failpoint.hit("shim.end.after-output")
        self._event("exit", exit=exit, leaves=True, marks=trace.take())
        failpoint.hit("shim.end.after-event")
        self._leave()

    def _exec_ended(self, id: str, exec: Exec) -> None:
        self._loop.forget(exec.pidfd)
        try:
            status = os.waitpid(exec.pid, 0)[1]
        except ChildProcessError:
            status = 0xFF00
        exit = record.ended(status, time.time())
        exec.session.exited(GRACE, lambda: self._report_exec(id, exec, exit))

    def _report_exec(self, id: str, exec: Exec, exit: Message) -> None:
        exec.exit = exit
        os.close(exec.pidfd)
        self._event("exec-exit", exec=id, exit=exit)
        ended = [key for key, value in self._execs.items() if value.exit is not None]
        for key in ended[: max(0, len(ended) - _EXECS_REMEMBERED)]:
            del self._execs[key]

    # Leaving

    def _leave(self) -> None:
        """Give up everything that has a name or an address, then go when the clients have their output."""
        if self._leaving:
            return
        self._leaving = time.monotonic() + _LINGER
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        record.remove(record.socket_path(self._run, self._id))
        failpoint.hit("shim.leave.after-socket")
        swept = False
        try:
            swept = self._launch.cleanup(self._state)
        except OSError:
            sys.excepthook(*sys.exc_info())
        failpoint.hit("shim.leave.after-cgroup")
        os.close(self._mounts)
        failpoint.hit("shim.leave.after-mounts")
        self._event("left", swept=swept)
        self._loop.after(0.0, lambda: self._wait_for_clients(0.01))

    def _wait_for_clients(self, pause: float) -> None:
        busy = self._exit is None or self._session.busy
        busy = busy or any(exec.session.busy or exec.exit is None for exec in self._execs.values())
        if not busy or time.monotonic() > self._leaving:
            self._loop.running = False
            return
        self._loop.after(pause, lambda: self._wait_for_clients(min(pause * 2, 1.0)))


_OPERATIONS: dict[str, Any] = {
    "attach": Keeper._op_attach,
    "end-exec": Keeper._op_end_exec,
    "exec": Keeper._op_exec,
    "hold": Keeper._op_hold,
    "resize": Keeper._op_resize,
    "rotate": Keeper._op_rotate,
    "state": Keeper._op_state,
    "quit": Keeper._op_quit,
}


def _status_of_zombie(pid: int) -> int:
    """The wait status of a child that has ended (it is waited for), without reaping it."""
    result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert result is not None
    return result.si_status << 8 if result.si_code == os.CLD_EXITED else result.si_status


def failure_of(failure: Any) -> Message:
    """A launch.Failure as it travels to the engine."""
    return {"kind": "launch", "step": failure.step, "errno": failure.errno, "path": failure.path}


def set_oom_score(process: str, score: str) -> bool:
    """The chance of a process ("self", or a pid) to be killed when memory is short; whether that was permitted."""
    try:
        write_text(f"/proc/{process}/oom_score_adj", score)
    except OSError:
        return False
    return True


def _bound_to(fd: int) -> tuple[str, str, int]:
    """Protocol, address and port of a socket that holds a port; nothing for one that only shows that the container is there."""
    sock = _socket.socket(fileno=os.dup(fd))
    try:
        if sock.family == _socket.AF_UNIX:
            return "", "", 0
        address, port = sock.getsockname()[:2]
        protocol = "udp" if sock.type == _socket.SOCK_DGRAM else "sctp" if sock.proto == _SCTP else "tcp"
    finally:
        sock.close()
    return protocol, address, port


def _open_log(plan: Message) -> LogFile | None:
    """The log. The file exists: that it can be opened was tried before the container was made."""
    if plan["driver"] == "none" or not plan["path"]:
        return None
    return LogFile(plan["path"], plan["max_size"], plan["max_files"], plan["attributes"], plan["compress"])
