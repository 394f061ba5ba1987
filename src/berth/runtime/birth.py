"""The birth of a container: a short-lived fork of its shim that does everything which the shim need not keep in memory.

It reads the request, opens the log and the shim's socket, makes the pipes and, as the setter-up of `runtime.launch`, the
container, whose init becomes the shim's child. Then it writes the run file, answers the engine, and tells the shim:

    birth -> shim   HEAD: ok, joiner's pid, how many of the descriptors are watched, whether to stay awake, how many at the
                    end came with the request of a slot
                    then marshalled: what `runtime.keeper` needs, or what failed; descriptors in the order of "names"
                    ANSWERED, when the engine has its answer: nothing that the shim says now can overtake it

The request is a memfd: one line of JSON about the shim, a second one with the plan.

A slot of the warm pool is a birth that has made all but the container: it answers, waits, and goes on when a request comes
on the same connection, {"op":"launch"} with the memfd, streams and reserved sockets. Before that there may be
{"op":"prime"} with the memfd of a container that has been created: then the second line of the launch has only what is
new in its plan. It ends when the engine, its shim or its init does. Lean code.
"""

from __future__ import annotations

import _socket
import errno
import json
import os
import select
import sys
import time
from _struct import calcsize, pack
from marshal import dumps

from berth import failpoint, trace
from berth.kernel.process import die_with_parent, start_time
from berth.runtime import channel, record
from berth.runtime.keeper import PROTECTED, set_oom_score
from berth.runtime.logfile import LogFile
from berth.runtime.resolver_link import connect
from berth.runtime.stdio import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from types import ModuleType
    from typing import Any

    from berth.runtime.channel import Message
else:
    import _signal

HEAD = "iiiii"
HEAD_SIZE = calcsize(HEAD)
ANSWERED = b"+"
MOST_DESCRIPTORS = 64
# A launch that takes longer has hung: it is ended by its own alarm, and the engine cleans up.
SECONDS = 60


def read_request(fd: int) -> tuple[Message, Message]:
    """The two parts of a request: about the shim, and the plan."""
    head, plan = os.pread(fd, os.fstat(fd).st_size, 0).split(b"\n", 1)
    return json.loads(head), json.loads(plan)


def read_head(fd: int) -> Message:
    """The part about the shim."""
    head: Message = json.loads(os.pread(fd, os.fstat(fd).st_size, 0).split(b"\n", 1)[0])
    return head


def refuse(fd: int, answer: int, failed: list[Any]) -> None:
    """Answer a launch that failed."""
    step, number, path = failed
    sock = _socket.socket(fileno=fd)
    try:
        channel.send(sock, {"id": answer, "error": {"kind": "launch", "step": step, "errno": number, "path": path}})
    except OSError:
        # The engine has gone, and with it whoever wanted to know.
        pass
    sock.close()


def run(launch: ModuleType, fds: list[int], shim: _socket.socket, slot: bool) -> None:
    """Make the container of the request in `fds[1]`, or a slot that is like it. Never returns."""
    status = 1
    try:
        _signal.alarm(SECONDS)
        os.setsid()
        # A launch whose shim was killed must not go on beside the one that the engine tries next.
        die_with_parent()
        if not left_alone(shim):
            _make(launch, fds, shim, slot)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _make(launch: ModuleType, fds: list[int], shim: _socket.socket, slot: bool) -> None:
    head, plan = read_request(fds[1])
    if head.get("trace"):
        trace.enable()
        trace.mark("birth")
    birth = Birth(launch, head, shim)
    if slot:
        birth.wait(plan, fds)
    else:
        birth.run(plan, fds)


def left_alone(shim: _socket.socket) -> bool:
    """Whether the shim at the other end has gone."""
    try:
        return not shim.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


class Birth:
    """One launch. `step` is what would be to blame for an OSError."""

    def __init__(self, launch: ModuleType, head: Message, shim: _socket.socket) -> None:
        self._launch = launch
        self._head = head
        self._shim = shim
        self._id: str = head["id"]
        self._run: str = head["run"]
        # The id that the answer carries, and what the shim does not have yet.
        self._asked = 0
        self._listener = -1
        self._passed: list[int] = []

    def wait(self, plan: Message, fds: list[int]) -> None:
        """Make a slot, and a container of it when the engine asks for one."""
        work, failed = self._launch.prepare_slot(plan)
        if failed is not None:
            self._fail(failed, plan["cgroup"], work)
            return
        sock = _socket.socket(fileno=os.dup(fds[0]))
        request = self._request(sock, work) if self._offer(sock) else None
        primed = None
        if request is not None and request[0]["op"] == "prime":
            primed = self._prime(sock, work, *request)
            request = self._request(sock, work) if primed is not None else None
        if request is None:
            self._fail(None, plan["cgroup"], work)
            return
        _signal.alarm(SECONDS)
        os.close(fds[1])
        trace.mark("woken")
        message, self._passed = request
        self._asked = message["id"]
        self._head, rest = read_request(self._passed[0])
        self.run(rest if primed is None else {**primed, **rest}, fds, work)

    def _prime(self, sock: _socket.socket, work: Any, message: Message, fds: list[int]) -> Message | None:
        """What can be done for a container before its start; its plan, or None when that fails: the start will say why."""
        self._head, plan = read_request(fds[0])
        channel.close_all(fds)
        if self._launch.prime(work, plan, self._make_files) is not None:
            return None
        try:
            channel.send(sock, {"id": message["id"], "result": {}})
        except OSError:
            return None
        trace.mark("primed")
        return plan

    def _offer(self, sock: _socket.socket) -> bool:
        """Tell the engine that the slot is ready; False when there is no engine any more."""
        shim = os.pidfd_open(os.getppid())
        try:
            channel.send(sock, {"id": 0, "result": {}}, [shim])
        except OSError:
            return False
        finally:
            os.close(shim)
        _signal.alarm(0)
        return True

    def _request(self, sock: _socket.socket, work: Any) -> tuple[Message, list[int]] | None:
        """The engine's request; None when there will be none."""
        poll = select.poll()
        for end in sock, work.sock, self._shim:
            poll.register(end, select.POLLIN)
        if [fd for fd, _ in poll.poll()] != [sock.fileno()]:
            return None
        try:
            return channel.receive(sock)
        except (OSError, channel.ChannelError):
            return None

    def run(self, plan: Message, fds: list[int], slot: Any = None) -> None:
        """All of it, or what a slot has left to do."""
        try:
            stdio = Stdio(self._head["io"]["terminal"], self._head["io"]["open_stdin"])
        except OSError as error:
            self._fail(["shim", error.errno or 0, str(error.strerror)], plan["cgroup"] if slot else None, slot)
            return
        if slot:
            work, failed = slot, self._launch.fill(slot, plan, stdio.child, self._make_files)
        else:
            work, failed = self._launch.make(plan, stdio.child, self._make_files)
        if failed is None:
            try:
                self._tell(plan, work, stdio, fds)
                if slot:
                    self._launch.settle()
                return
            except OSError as error:
                failed = ["shim", error.errno or 0, str(error.filename or error.strerror)]
        self._fail(failed, plan["cgroup"], work)

    def _make_files(self) -> None:
        """What the shim needs of files: an earlier exit record goes, the log can be written, the socket is there."""
        head = self._head
        # Once more: mounting as another user has made the kernel forget it.
        die_with_parent()
        failpoint.hit("launch.birth.before-files")
        try:
            for path in record.exit_paths(self._run, self._id, head["directory"]):
                record.remove(path)
            log = head["io"]["log"]
            if log["driver"] != "none" and log["path"]:
                LogFile(log["path"]).close()
            self._listener = record.listen(self._run, self._id).detach()
        except OSError as error:
            raise self._launch.Failure("shim", error.errno or 0, str(error.filename or error.strerror)) from None
        failpoint.hit("launch.birth.after-files")
        trace.mark("files")

    def _tell(self, plan: Message, work: Any, stdio: Stdio, fds: list[int]) -> None:
        head = self._head
        shim = os.getppid()
        born: Message = {
            "id": self._id,
            "run": self._run,
            "directory": head["directory"],
            "pid": work.pid,
            "started_at": time.time(),
            "began": record.uptime(),
            "state": {**plan["state"], "pid": work.pid, "start_time": start_time(work.pid)},
            "cgroup": plan["cgroup"],
            "resolver": head["resolver"] if work.resolver else None,
        }
        failpoint.hit("launch.birth.before-run-file")
        if left_alone(self._shim):
            raise OSError(errno.ECHILD, "the shim was killed")
        self._write_run_file(born, shim)
        failpoint.hit("launch.birth.after-run-file")
        trace.mark("run-file")
        watched = {"pidfd": work.pidfd, "listener": self._listener}
        rest = {f"resolver{number}": fd for number, fd in enumerate(work.resolver)}
        rest["mounts"] = work.mounts
        held = stdio.held(work.console[0] if work.console else None)
        if "stdin" in held:
            rest["stdin"] = held.pop("stdin")
        watched |= held
        link = connect(born["resolver"], self._id, work.resolver) if born["resolver"] else None
        if link is not None:
            watched["link"] = link.fileno()
        # Who adopted its init from another runtime's binary must stop to adopt orphans, which is for an awake shim to do.
        awake = bool(head["streams"]) or (link is None and bool(born["resolver"])) or "command" in plan
        born |= {
            "names": [*watched, *rest],
            "log": head["io"]["log"],
            "stdin_once": head["io"]["stdin_once"],
            "streams": len(head["streams"]),
            "lowered": set_oom_score(str(shim), PROTECTED),
            "trace": trace.is_on(),
        }
        self._send((1, work.joiner, len(watched), awake), born, [*watched.values(), *rest.values()])
        failpoint.hit("launch.birth.after-shim-told")
        self._answer(fds[0], born, work.pidfd)
        failpoint.hit("launch.birth.after-answer")
        self._shim.send(ANSWERED)

    def _write_run_file(self, born: Message, shim: int) -> None:
        document = {
            "v": 1,
            "shim": shim,
            "shim_start": start_time(shim),
            "pid_start": start_time(born["pid"]),
            **{key: born[key] for key in ("id", "pid", "started_at", "began", "cgroup", "state", "directory", "resolver")},
        }
        record.write(record.state_path(self._run, self._id), document)

    def _send(self, head: tuple[int, int, int, int], document: Message, own: list[int]) -> None:
        data, fds = pack(HEAD, *head, len(self._passed)) + dumps(document), [*own, *self._passed]
        self._shim.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack(f"{len(fds)}i", *fds))] if fds else [])

    def _answer(self, fd: int, born: Message, pidfd: int) -> None:
        result = {key: born[key] for key in ("pid", "started_at", "began", "cgroup", "directory")}
        summary = {**result, "exit": None, "execs": {}, "log_bytes_lost": 0}
        sock = _socket.socket(fileno=fd)
        trace.mark("shim-told")
        try:
            channel.send(sock, {"id": self._asked, "result": {**summary, "marks": trace.take()}}, [pidfd])
        except OSError:
            # The engine has gone; the next one finds the container.
            pass

    def _fail(self, failed: list[Any] | None, group: Message | None, work: Any) -> None:
        """Have the shim take everything back and answer; a slot that nobody has asked for anything has nothing to answer."""
        pid, joiner = (work.pid, work.joiner) if work is not None else (0, 0)
        streams = len(self._head["streams"])
        document = {"failed": failed, "answer": self._asked, "cgroup": group, "pid": pid, "joiner": joiner, "streams": streams}
        try:
            self._send((0, 0, 0, 0), document, [])
            record.remove(record.socket_path(self._run, self._id))
        except OSError:
            # The shim was killed. The engine removes what is left; what already runs is ended here.
            if work is not None and work.pidfd >= 0:
                _signal.pidfd_send_signal(work.pidfd, 9)
