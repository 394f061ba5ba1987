"""One run of a container, and its execs, as the engine sees them: NativeTask and NativeExec talk to the shim.

Signals go by pidfd straight from the engine; what needs the streams goes through the shim; limits and readings go to the
control group. When the shim is killed, the task ends what it left and counts init as killed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal as signals
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from berth import failpoint, trace
from berth.contract.runtime import AttachStream, ExecRequest, Exit, LaunchRequest, Stats
from berth.errors import BerthError, Conflict, DeadlineExceeded, Internal, InvalidArgument, NotFound
from berth.kernel.pidfd import wait_status
from berth.model.oci import Resources
from berth.runtime import cgroup, channel, record, remains
from berth.runtime.link import DescriptorsLost, Disconnected, Link
from berth.runtime.oom_watch import OomWatch

if TYPE_CHECKING:
    from berth.runtime.channel import Message

_QUIT_SECONDS = 5.0
# As many ended execs as the shim remembers.
_EXECS_REMEMBERED = 128


class Planner(Protocol):
    """Turns requests into plans for the lean half, limits into control group files, and those into readings."""

    def launch_plan(self, request: LaunchRequest) -> Message:
        """The plan of a container. InvalidArgument when it cannot be."""
        ...

    def with_network(self, plan: Message, request: LaunchRequest) -> Message:
        """The plan of a request, from that of the same request without a network."""
        ...

    def exec_plan(self, request: ExecRequest) -> Message:
        """The plan of a further process."""
        ...

    def update(self, group: cgroup.Group, resources: Resources) -> None:
        """Change limits. OSError names the file that the kernel refused to change."""
        ...

    def stats(self, group: cgroup.Group) -> Stats:
        """A reading. OSError when the group is gone."""
        ...


def stream_message(stream: AttachStream) -> Message:
    """A stream as it travels to the shim; the descriptor goes beside it."""
    return {
        "stdin": stream.stdin,
        "stdout": stream.stdout,
        "stderr": stream.stderr,
        "framed": stream.framed,
        "pending": b64encode(stream.pending).decode(),
        "keys": b64encode(stream.detach_keys).decode(),
    }


class _End:
    """The end of a process: many wait for it, at any time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.exit: Exit | None = None

    def come(self, exit: Exit) -> None:
        if self.exit is None:
            self.exit = exit
            self._event.set()

    async def wait(self) -> Exit:
        await self._event.wait()
        assert self.exit is not None
        return self.exit


def _signal(pidfd: int, number: int, gone: str) -> None:
    try:
        if pidfd < 0:
            raise NotFound(gone)
        signals.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise NotFound(gone) from None
    except OSError as error:
        raise InvalidArgument(f"signal {number} cannot be sent: {error.strerror}") from error


class NativeExec:
    """A further process in a container."""

    def __init__(self, id: str, task: NativeTask, about: str) -> None:
        self.id = id
        self.about = about
        self._task = task
        self._end = _End()
        self._pid = 0
        self._pidfd = -1

    @property
    def pid(self) -> int:
        """The process id on the host."""
        return self._pid

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._end.exit

    async def wait(self) -> Exit:
        """The end of the process."""
        return await self._end.wait()

    async def resize(self, height: int, width: int) -> None:
        """The size of its terminal."""
        await self._task.request("resize", {"height": height, "width": width, "exec": self.id})

    async def kill(self, signal: int) -> None:
        """A signal to the process."""
        if self._end.exit is not None:
            raise NotFound(f"exec {self.id} has ended already")
        _signal(self._pidfd, signal, f"exec {self.id} has ended already")

    async def end(self) -> None:
        """Hang up, then kill."""
        await self._task.request("end-exec", {"exec": self.id})

    def began(self, pid: int, pidfd: int) -> None:
        """It runs."""
        self._pid = pid
        if self._end.exit is not None:
            channel.close_all([pidfd])
        else:
            self._pidfd = pidfd

    def ended(self, exit: Exit) -> None:
        """It has ended."""
        self._end.come(exit)
        self.let_go()

    def let_go(self) -> None:
        """Give up the descriptor."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class NativeTask:
    """One run of a container. `forget` is called when it has been deleted."""

    def __init__(
        self, id: str, run: str, name: str, directory: str, planner: Planner, oom: OomWatch, forget: Callable[[str], None]
    ) -> None:
        self._id = id
        self._run = run
        self._name = name
        self._directory = directory
        self._planner = planner
        self._oom = oom
        self._end_oom: Callable[[], None] = _nothing
        self._forget = forget
        self._link: Link | None = None
        self._pid = 0
        self._pidfd = -1
        self._started_at = 0.0
        self._began = 0.0
        self._group: cgroup.Group = {}
        self._end = _End()
        self._execs: dict[str, NativeExec] = {}
        self._on_detach: Callable[[str], None] | None = None
        self._losing: asyncio.Task[None] | None = None
        # Its shim takes everything away by itself; has done so, the control group included; has been heard of for the last time.
        self._leaves = False
        self._left = False
        self._swept = False
        self._parted = asyncio.Event()
        self._deletion: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The container's id."""
        return self._id

    @property
    def pid(self) -> int:
        """The process id of init on the host."""
        return self._pid

    @property
    def started_at(self) -> float:
        """Seconds since the epoch."""
        return self._started_at

    def running_for(self) -> float:
        """Seconds since the start, by the host's uptime."""
        return record.uptime() - self._began

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._end.exit

    async def wait(self) -> Exit:
        """The end of init, with all of its output in the log."""
        return await self._end.wait()

    async def kill(self, signal: int) -> None:
        """A signal to init. A frozen container is thawed after SIGKILL, or it would not die."""
        gone = f"Container {self._id} is not running"
        if self._end.exit is not None:
            raise NotFound(gone)
        _signal(self._pidfd, signal, gone)
        if signal == signals.SIGKILL:
            await asyncio.to_thread(self._thaw)

    def check(self, op: str) -> None:
        """Our own shims do all that there is."""

    async def attach(self, stream: AttachStream) -> None:
        """Add a client; the shim closes it in the end."""
        try:
            await self.request("attach", {"stream": stream_message(stream)}, [stream.fd])
        finally:
            channel.close_all([stream.fd])

    async def resize(self, height: int, width: int) -> None:
        """The size of the terminal."""
        await self.request("resize", {"height": height, "width": width})

    async def hold_ports(self, sockets: Sequence[int], released: Sequence[tuple[str, str, int]]) -> None:
        """Keep sockets for the run, and let go of others."""
        try:
            await self.request("hold", {"release": [list(port) for port in released]}, sockets)
        finally:
            channel.close_all(sockets)

    async def rotate_log(self) -> None:
        """Begin a new log file."""
        await self.request("rotate", {})

    async def exec(self, request: ExecRequest, streams: Sequence[AttachStream] = ()) -> NativeExec:
        """Run a further process."""
        fds = [stream.fd for stream in streams]
        try:
            if request.id in self._execs:
                raise Conflict(f"exec {request.id} has been started already")
            plan = self._planner.exec_plan(request)
            values = {
                "exec": request.id,
                "plan": plan,
                "terminal": request.terminal,
                "height": request.height,
                "width": request.width,
                "streams": [stream_message(stream) for stream in streams],
                "about": request.about,
                "ends": request.ends_with_client,
            }
            # Known before it runs: its end may be heard of in the same breath as the answer.
            exec = self._execs[request.id] = NativeExec(request.id, self, request.about)
            try:
                result, passed = await self._begin_exec(values, fds)
            except BaseException:
                del self._execs[request.id]
                raise
        finally:
            channel.close_all(fds)
        exec.began(result["pid"], passed[0])
        return exec

    async def _begin_exec(self, values: Message, fds: Sequence[int]) -> tuple[Message, list[int]]:
        try:
            return await self.request("exec", values, fds)
        except DescriptorsLost as lost:
            if lost.result is None:
                raise
            # It runs. Its output and its end come from the shim; only it cannot be signalled.
            return lost.result, [-1]

    def find_exec(self, id: str) -> NativeExec | None:
        """An exec that runs or has lately ended, also one that an earlier engine started."""
        return self._execs.get(id)

    def exec_ids(self) -> list[str]:
        """The ids that `find_exec` knows."""
        return list(self._execs)

    def on_detach(self, listener: Callable[[str], None]) -> None:
        """Whom to tell when a client has sent its detach keys."""
        self._on_detach = listener

    def on_oom(self, listener: Callable[[], None]) -> None:
        """Whom to tell when the container runs out of memory."""
        if self._end.exit is None:
            self._end_oom()
            self._end_oom = self._oom.watch(self._group, listener)

    async def pause(self) -> None:
        """Freeze all processes."""
        await self._await_shim()
        await self._in_group("be frozen", lambda: cgroup.freeze(self._group, True))

    async def _await_shim(self) -> None:
        """It answers once it is done with what it does: an exec that is frozen before it is whole would keep it waiting, and
        every later engine with it. Whoever freezes lets nobody begin another."""
        _, fds = await self.request("state", {})
        channel.close_all(fds)

    async def resume(self) -> None:
        """Thaw them."""
        await self._in_group("be thawed", lambda: cgroup.freeze(self._group, False))

    async def update(self, resources: Resources) -> None:
        """Change limits."""
        await self._in_group("get the new limits", lambda: self._planner.update(self._group, resources))

    async def stats(self) -> Stats:
        """A reading of the control group; empty once the container has ended."""
        if self._end.exit is not None:
            return Stats()
        try:
            return self._planner.stats(self._group)
        except OSError:
            # It has ended this moment.
            return Stats()

    async def pids(self) -> list[int]:
        """All processes in the container, by their ids on the host."""
        if self._end.exit is not None:
            return []
        return cgroup.pids(self._group) if remains.has_group(self._group) else remains.pids_beside(self._pid)

    async def delete(self) -> None:
        """After the end: the shim goes, and what it left. Whoever comes while this is done waits, too."""
        if self._end.exit is None:
            raise Conflict(f"container {self._id} is running: stop it before its task is deleted")
        if self._deletion is None or (self._deletion.done() and self._deletion.exception() is not None):
            self._deletion = asyncio.create_task(self._delete(), name=f"delete {self._id[:12]}")
        await asyncio.shield(self._deletion)

    async def _delete(self) -> None:
        failpoint.hit("task.delete.before-shim")
        if self._link is not None:
            if not await self._see_shim_off(self._link):
                # It was killed, or hangs: the run files say which process it is.
                await asyncio.to_thread(self._end_shim)
            self.let_go()
        failpoint.hit("task.delete.after-shim")
        if not self._swept and remains.has_group(self._group):
            await asyncio.to_thread(remains.empty, self._group)
        failpoint.hit("task.delete.after-group")
        record.remove_run_files(self._run, self._id)
        self._forget(self._id)

    async def _see_shim_off(self, link: Link) -> bool:
        """Whether it has taken away what was left of the run."""
        try:
            async with asyncio.timeout(_QUIT_SECONDS):
                if self._leaves:
                    await self._parted.wait()
                    return self._left
                await link.request("quit", {"kill": False})
        except (TimeoutError, BerthError):
            return False
        return True

    def _end_shim(self) -> None:
        state = record.read(record.state_path(self._run, self._id))
        if state is not None:
            remains.end_process(state["shim"], state["shim_start"])
        remains.forget_foreign(self._run, self._id)

    # What the runtime does with it

    async def request(self, op: str, values: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Ask the shim."""
        if self._end.exit is not None or self._link is None:
            raise Conflict(f"Container {self._id} is not running")
        try:
            return await self._link.request(op, values, fds)
        except Disconnected:
            raise Conflict(f"Container {self._id} is not running: it has just ended, or its shim was killed") from None

    def link_over(self, link: Link) -> None:
        """The connection to use."""
        self._link = link

    def adopt(self, summary: Message, fds: Sequence[int]) -> None:
        """Take over what the shim says of itself; `fds` are the pidfds of init and of the execs that run."""
        rest = list(fds)
        trace.add(summary.get("marks", []), self._id)
        self._pid = summary["pid"]
        self._started_at = summary["started_at"]
        self._began = _beginning(summary)
        self._group = summary["cgroup"]
        self._directory = summary["directory"]
        if summary["exit"] is not None:
            self._ended(remains.exit_of(summary["exit"]))
        elif self._end.exit is None and rest:
            self._replace_pidfd(rest.pop(0))
        for id, values in summary["execs"].items():
            exec = self._execs.setdefault(id, NativeExec(id, self, values.get("about", "")))
            if values["exit"] is not None:
                exec.ended(remains.exit_of(values["exit"]))
            elif rest and exec.pid == 0:
                exec.began(values["pid"], rest.pop(0))
        channel.close_all(rest)

    def adopt_ended(self, exit: Exit, document: Message, group: cgroup.Group) -> None:
        """It has ended, and its shim is gone."""
        self._pid = int(document.get("pid", 0))
        self._started_at = float(document.get("started_at", 0.0))
        self._began = _beginning(document)
        self._group = group
        self._ended(exit)

    def heard(self, message: Message) -> None:
        """An event of the shim."""
        if message["event"] == "exit":
            trace.add(message.get("marks", []), self._id)
            trace.mark("heard", self._id)
            # Those of berth 0.1 wait to be told.
            self._leaves = message.get("leaves", False)
            self._ended(remains.exit_of(message["exit"]))
        elif message["event"] == "left":
            self._left, self._swept = True, message["swept"]
            self._parted.set()
        elif message["event"] == "exec-exit" and message["exec"] in self._execs:
            self._execs[message["exec"]].ended(remains.exit_of(message["exit"]))
            over = [id for id, exec in self._execs.items() if exec.exit is not None][:-_EXECS_REMEMBERED]
            for id in over:
                del self._execs[id]
        elif message["event"] == "detach" and self._on_detach is not None:
            self._on_detach(message.get("exec", ""))

    def lost(self) -> None:
        """The shim closed the connection."""
        self._parted.set()
        if self._end.exit is None and self._pid:
            self._losing = asyncio.get_running_loop().create_task(self._bury())

    def let_go(self) -> None:
        """Close the connection; the container goes on."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._replace_pidfd(-1)
        self._end_oom()
        for exec in self._execs.values():
            exec.let_go()

    async def _bury(self) -> None:
        state = record.read(record.state_path(self._run, self._id))
        status = None
        if self._pidfd >= 0:
            pidfd, self._pidfd = self._pidfd, -1
            remains.kill(pidfd)
            if await asyncio.to_thread(remains.await_end, pidfd):
                # The shim may have been killed before it had written down how init has ended.
                status = await asyncio.to_thread(wait_status, pidfd)
            os.close(pidfd)
        exit = await asyncio.to_thread(remains.bury, self._run, self._id, self._directory, self._group, state, status)
        self._ended(exit)

    def _ended(self, exit: Exit) -> None:
        self._replace_pidfd(-1)
        self._end_oom()
        self._end.come(exit)
        if self._link is None or self._link.closed:
            # Nobody is left who would tell of them.
            for exec in self._execs.values():
                exec.ended(Exit(code=137, signal=9, at=exit.at))

    def _replace_pidfd(self, pidfd: int) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = pidfd

    def _thaw(self) -> None:
        try:
            cgroup.freeze(self._group, False)
        except OSError:
            # No freezer, or the group has gone with the container.
            pass

    async def _in_group(self, what: str, action: Callable[[], None]) -> None:
        if self._end.exit is not None:
            raise Conflict(f"Container {self._id} is not running")
        try:
            await asyncio.to_thread(action)
        except TimeoutError as error:
            raise DeadlineExceeded(f"container {self._id} cannot {what}: {error.strerror}") from error
        except OSError as error:
            raise _REFUSALS.get(error.errno or 0, Internal)(
                f"container {self._id} cannot {what}: {error.strerror}: {error.filename}"
            ) from error


# What the kernel means by a refused write into a control group: a value that cannot be, or not now.
_REFUSALS: dict[int, type[BerthError]] = {
    errno.EINVAL: InvalidArgument,
    errno.ERANGE: InvalidArgument,
    errno.ENODEV: InvalidArgument,
    errno.EBUSY: Conflict,
    # The group has just gone with the container.
    errno.ENOENT: Conflict,
}


def _beginning(document: Message) -> float:
    """When it began, by the host's uptime. Shims of berth 0.1 told the time of the day only."""
    if "began" in document:
        return float(document["began"])
    return record.uptime() - max(0.0, time.time() - float(document.get("started_at", 0.0)))


def _nothing() -> None:
    """No watch has been set up."""
