"""The native runtime: berth's own launcher and shims behind the Runtime contract.

    start()    the launcher process, through which everything is forked
    launch()   request -> plan -> launcher -> shim, or a slot of the pool; the shim's answer makes a NativeTask
    load()     a shim that lives is connected to, also one that does not answer yet; of one that has gone the exit record
               tells, and if it was killed its container is ended and counts as killed

Descriptors that a request hands over are closed here once the shim has its copies, also when the launch fails.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from msgspec import json, to_builtins

from berth import failpoint, trace
from berth.contract.runtime import Abilities, AttachStream, LaunchFailed, LaunchRequest
from berth.errors import AlreadyExists, BerthError, Internal
from berth.runtime import cgroup_host, channel, record, remains, under_way
from berth.runtime.distant import DistantTask, is_distant
from berth.runtime.foreign_plan import BUNDLE
from berth.runtime.fork_server import ForkServer
from berth.runtime.link import DescriptorsLost, Disconnected, Link, discard, error_of
from berth.runtime.oom_watch import OomWatch
from berth.runtime.planner import NativePlanner
from berth.runtime.pool import Pool, Ranges, Slot, network_of, without_network
from berth.runtime.silent import SilentTask
from berth.runtime.task import NativeTask, Planner, stream_message

if TYPE_CHECKING:
    from berth.runtime.channel import Message
    from berth.runtime.link import Answer

# Says nothing of who should be there.
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
log = logging.getLogger("berth.runtime")
# Of a launch that nobody waits for any more: a shim that does not answer for so long hangs, and is ended.
_ABANDONED_SECONDS = 60.0
# An engine that starts asks all shims at once, and goes on without those that do not answer (see silent).
_STATE_SECONDS = 5.0
_QUIT_SECONDS = 10.0
# An engine that starts waits for launches of the one before; they have an alarm of their own, which is later.
_UNDER_WAY_SECONDS = 15.0
# What makes containers in place of the launch module where another runtime's binary is asked for.
_FOREIGN = "berth.runtime.foreign"
# Steps of a launch that fail for what is in the image, or is asked for: no second try mends them.
_OF_THE_CONTAINER = ("user", "chdir", "execve")


async def await_launches(run: str) -> None:
    """At the start of an engine, before it looks what there is: launches of the one before are over."""
    if not await asyncio.to_thread(under_way.wait, run, _UNDER_WAY_SECONDS):
        log.warning("a launch of an earlier engine is still under way: its container may be found only by the next start")


class NativeRuntime:
    """Starts containers and finds those that run."""

    def __init__(self, root: str, run: str, name: str, planner: Planner, server: ForkServer, abilities: Abilities) -> None:
        self.abilities = abilities
        self._oom = OomWatch()
        self._root = root
        self._run = run
        self._name = name
        self._planner = planner
        self._server = server
        self._tasks: dict[str, NativeTask] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        self._pool: Pool | None = None

    @classmethod
    async def start(
        cls, *, root: str, run: str, name: str, planner: Planner | None = None, launch_module: str = "berth.runtime.launch"
    ) -> NativeRuntime:
        """Start the launcher. `root` is the data root, `run` the run directory, `name` the path of the control group that
        holds those of the containers, without a slash at its ends."""
        os.makedirs(run, 0o711, exist_ok=True)
        os.makedirs(record.shims(run), 0o700, exist_ok=True)
        os.chmod(record.shims(run), 0o700)
        # Empty on the host: runc's exec goes to the root filesystem's path before it enters the container.
        os.makedirs(f"{run}/{BUNDLE}/rootfs", 0o711, exist_ok=True)
        layout, abilities = cgroup_host.take(name)
        server = ForkServer(run, root, launch_module)
        await server.start()
        return cls(root, run, name, planner or NativePlanner(root, run, layout), server, abilities)

    async def launch(self, request: LaunchRequest, streams: Sequence[AttachStream] = ()) -> NativeTask:
        """Start a container; when this returns, execve has succeeded."""
        fds = [*(stream.fd for stream in streams), *request.reserved]
        if self._pool is not None:
            self._pool.launching(+1)
        try:
            await self._make_room(request.id)
            plan = self._plan(request)
            trace.mark("plan", request.id)
            return await self._from_slot(request, plan, streams, fds) or await self._from_launcher(request, plan, streams, fds)
        finally:
            channel.close_all(fds)
            if self._pool is not None:
                self._pool.launching(-1)

    async def _from_slot(
        self, request: LaunchRequest, plan: Message, streams: Sequence[AttachStream], fds: Sequence[int]
    ) -> NativeTask | None:
        if self._pool is None or request.runtime:
            return None
        shape = self._pool.learn(plan)
        slot = await self._pool.take(plan, shape, len(fds))
        if slot is None:
            return None
        document = self._document(request, plan if slot.primed is None else network_of(plan), streams)
        try:
            task = await self._launch(self._task(request.id, request.directory), document, fds, slot)
        except Disconnected:
            # It was killed while it waited, or half-way.
            await self._pool.end(slot)
            return None
        except LaunchFailed as failure:
            if failure.step in _OF_THE_CONTAINER:
                self._pool.release(slot)
                raise
            # Its init was killed, or what was prepared has got lost: a launch from the beginning works, or says why not.
            await self._pool.end(slot)
            return None
        except BaseException:
            self._pool.release(slot)
            raise
        self._pool.release(slot)
        return task

    async def _from_launcher(
        self, request: LaunchRequest, plan: Message, streams: Sequence[AttachStream], fds: Sequence[int]
    ) -> NativeTask:
        document = self._document(request, plan, streams)
        for attempt in range(3):
            task = self._task(request.id, request.directory)
            try:
                return await self._launch(task, document, fds, maker=_FOREIGN if request.runtime else "")
            except Disconnected:
                # Killed half-way, or lost together with the launcher before it was forked.
                await asyncio.to_thread(remains.remove, self._run, self._name, request.id)
            if await self._launcher_answers() and attempt:
                break
        reason = f"its shim was killed or took too long ({self._server.last_words()})"
        raise Internal(f"container {request.id} cannot be started: {reason}")

    def keep_slots(self, count: int, ranges: Ranges, like: LaunchRequest) -> None:
        """Begin to keep as many slots ready, for launches `like` this one until others come."""
        self._pool = Pool(self._server, self._run, self._name, count, ranges)
        self._pool.learn(self._planner.launch_plan(like))

    def claim_slot(self) -> str:
        """The id of a slot for a container that is being made, or nothing."""
        return self._pool.claim() if self._pool is not None else ""

    def slot_base(self, id: str) -> int:
        """The host ids of this container's slot, which stay the slot's; 0 without one."""
        return self._pool.base(id) if self._pool is not None else 0

    def slot_link(self, id: str) -> str:
        """The name of the host's end of the link that this container's slot has made; empty without one."""
        return self._pool.link(id) if self._pool is not None else ""

    def prime_slot(self, request: LaunchRequest) -> bool:
        """This container may be started soon: have its slot begin, if it has one that fits."""
        if self._pool is None or not self._pool.base(request.id) or request.runtime:
            return False
        request = without_network(request)
        plan = self._planner.launch_plan(request)
        return self._pool.prime(request, plan, self._document(request, plan))

    def _plan(self, request: LaunchRequest) -> Message:
        primed = self._pool.primed_plan(request) if self._pool is not None else None
        return self._planner.launch_plan(request) if primed is None else self._planner.with_network(primed, request)

    def slot_range(self, id: str) -> int:
        """The host ids of this container's slot, from now on the caller's; 0 without one."""
        return self._pool.give_range(id) if self._pool is not None else 0

    async def drop_slot(self, id: str) -> None:
        """The container will not be started."""
        if self._pool is not None:
            await self._pool.drop(id)

    async def load(self, id: str) -> NativeTask | None:
        """The task of a container that runs or has ended; None when there is nothing of it."""
        async with self._loading.setdefault(id, asyncio.Lock()):
            known = self._tasks.get(id)
            if known is not None:
                return known
            task = self._distant(id) or await self._connect(id) or await self._ended(id)
            if task is not None:
                self._tasks[id] = task
        return task

    async def tasks(self) -> AsyncIterator[str]:
        """The ids that have a shim, a control group or run files of this engine."""
        for id in sorted(await asyncio.to_thread(remains.known_ids, self._run, self._name)):
            yield id

    async def remove_leftovers(self, id: str) -> None:
        """End and remove whatever there is of a container."""
        known = self._tasks.pop(id, None)
        if known is not None:
            known.let_go()
        await self._quit_shim(id)
        await asyncio.to_thread(remains.remove, self._run, self._name, id)

    async def drop_slots(self) -> None:
        """End all slots; there will be no more."""
        if self._pool is not None:
            await self._pool.close()

    async def spawn(self, module: str, arguments: Sequence[str], fds: Sequence[int]) -> int:
        """Fork a worker from the launcher; its process id."""
        message = await self._ask_launcher({"op": "spawn", "module": module, "arguments": list(arguments)}, fds)
        if message is None:
            raise Internal(f"the launcher ended before it could start {module}: try again")
        if "error" in message:
            raise error_of(message["error"])
        return int(message["result"]["pid"])

    async def _ask_launcher(self, request: Message, fds: Sequence[int] = ()) -> Message | None:
        """Its answer, or None when it died instead."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        try:
            try:
                await self._server.send(request, [far.fileno(), *fds])
            finally:
                far.close()
            received = await _receive(near)
        finally:
            near.close()
        if received is None:
            return None
        channel.close_all(received[1])
        return received[0]

    async def _launcher_answers(self) -> bool:
        """Whether it lives. False also tells that nothing more can be sent to the one that died."""
        return await self._ask_launcher({"op": "ping"}) is not None

    async def close(self) -> None:
        """Let go of launcher and shims; containers go on."""
        await self.drop_slots()
        if self._abandoned:
            await asyncio.wait(self._abandoned)
        for task in self._tasks.values():
            task.let_go()
        self._tasks.clear()
        self._oom.close()
        await self._server.close()

    async def teardown(self) -> None:
        """After `close`, when no container is left: remove what this engine has outside its root."""
        await asyncio.to_thread(remains.remove_engine, self._run, self._name)

    async def _make_room(self, id: str) -> None:
        """An earlier run of the same container that has ended makes way."""
        known = self._tasks.get(id)
        if known is None:
            return
        if known.exit is None:
            raise AlreadyExists(f"container {id} is running already")
        await known.delete()

    def _document(self, request: LaunchRequest, plan: Message, streams: Sequence[AttachStream] = ()) -> bytes:
        """Two lines: about the shim, and the plan (see runtime.birth)."""
        head = {
            "id": request.id,
            "run": self._run,
            "directory": request.directory,
            "io": to_builtins(request.io),
            "streams": [stream_message(stream) for stream in streams],
            "resolver": request.network.resolver if request.network else None,
            "trace": trace.is_on(),
        }
        return json.encode(head) + b"\n" + json.encode(plan)

    def _task(self, id: str, directory: str) -> NativeTask:
        return NativeTask(id, self._run, self._name, directory, self._planner, self._oom, self._deleted)

    def _deleted(self, id: str) -> None:
        self._tasks.pop(id, None)
        self._loading.pop(id, None)
        if self._pool is not None:
            self._pool.launching(0)

    async def _launch(
        self, task: NativeTask, document: bytes, fds: Sequence[int], slot: Slot | None = None, maker: str = ""
    ) -> NativeTask:
        link = None
        try:
            memory = channel.memory_file(document)
            try:
                failpoint.hit("launch.request.before-send")
                trace.mark("sent", task.id)
                if slot is not None:
                    link = slot.link
                    link.hand_over(task.heard, task.lost)
                    answer = link.ask("launch", None, [memory, *fds])
                else:
                    link, answer = await self._ask_for_shim(task, maker, [memory, *fds])
            finally:
                os.close(memory)
            summary, passed = await asyncio.shield(answer)
        except asyncio.CancelledError:
            if link is not None:
                # Nobody waits for it any more, but it may be about to run.
                answer.add_done_callback(discard)
                self._abandon(task.id, link)
            raise
        except DescriptorsLost:
            # It runs, and cannot be watched.
            if link is not None:
                self._abandon(task.id, link)
            raise
        except BaseException:
            if link is not None:
                link.close()
            raise
        failpoint.hit("launch.request.after-answer")
        trace.mark("answered", task.id)
        _take_over(task, link, summary, passed)
        self._tasks[task.id] = task
        return task

    async def _ask_for_shim(
        self, task: NativeTask, maker: str, fds: Sequence[int]
    ) -> tuple[Link, asyncio.Future[tuple[Message, list[int]]]]:
        """The connection to a new shim, and its answer to come."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link = Link(near, task.heard, task.lost)
        answer = link.expect()
        try:
            await self._server.send({"op": "launch", "maker": maker}, [far.fileno(), *fds])
        except asyncio.CancelledError:
            self._abandon(task.id, link)
            raise
        except BaseException:
            link.close()
            raise
        finally:
            far.close()
        return link, answer

    def _abandon(self, id: str, link: Link) -> None:
        async def end() -> None:
            try:
                async with asyncio.timeout(_ABANDONED_SECONDS):
                    await link.request("quit", {"kill": True})
            except (TimeoutError, BerthError):
                # It failed by itself, or hangs.
                pass
            link.close()
            await asyncio.to_thread(remains.remove, self._run, self._name, id)

        work = asyncio.get_running_loop().create_task(end())
        self._abandoned.add(work)
        work.add_done_callback(self._abandoned.discard)

    async def _connect(self, id: str) -> NativeTask | None:
        """The task of a shim that can be connected to."""
        sock = self._dial(id)
        if sock is None:
            return None
        task = self._task(id, f"{self._root}/containers/{id}")
        link = Link(sock, task.heard, task.lost)
        answer = link.ask("state")
        try:
            async with asyncio.timeout(_STATE_SECONDS):
                summary, fds = await asyncio.shield(answer)
        except DescriptorsLost:
            link.close()
            raise
        except TimeoutError:
            return self._silent(id, link, answer)
        except BerthError:
            # It has just left: what it wrote decides.
            link.close()
            return None
        _take_over(task, link, summary, fds)
        return task

    def _silent(self, id: str, link: Link, answer: asyncio.Future[Answer]) -> NativeTask | None:
        """The task of a shim that does not answer; None when it has not written down what it is about."""
        state = record.read(record.state_path(self._run, id))
        if state is None:
            answer.add_done_callback(discard)
            link.close()
            return None
        task = SilentTask(id, self._run, self._name, state["directory"], self._planner, self._oom, self._deleted)
        task.watch(state, link, answer)
        return task

    def _distant(self, id: str) -> NativeTask | None:
        """The task of a shim that only a newer engine can talk to."""
        state = record.read(record.state_path(self._run, id))
        if state is None or not is_distant(state):
            return None
        task = DistantTask(id, self._run, self._name, state["directory"], self._planner, self._oom, self._deleted)
        task.watch(state)
        return task

    def _dial(self, id: str) -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            record.at_socket(self._run, id, sock.connect)
        except OSError as error:
            sock.close()
            if error.errno in NO_ROOM:
                raise
            return None
        return sock

    async def _ended(self, id: str) -> NativeTask | None:
        state = record.read(record.state_path(self._run, id))
        directory = state["directory"] if state else f"{self._root}/containers/{id}"
        found = record.read_exit(self._run, id, directory)
        if state is None and found is None:
            return None
        group = state["cgroup"] if state else remains.group_of(self._name, id)
        exit = await asyncio.to_thread(remains.bury, self._run, id, directory, group, state)
        task = self._task(id, directory)
        task.adopt_ended(exit, state or found or {}, group)
        return task

    async def _quit_shim(self, id: str) -> None:
        sock = self._dial(id)
        if sock is None:
            return
        link = Link(sock, lambda _message: None, lambda: None)
        try:
            async with asyncio.timeout(_QUIT_SECONDS):
                await link.request("quit", {"kill": True})
        except (TimeoutError, BerthError):
            # `remains.remove` kills it.
            pass
        finally:
            link.close()


def _take_over(task: NativeTask, link: Link, summary: Message, fds: list[int]) -> None:
    task.link_over(link)
    task.adopt(summary, fds)
    if link.closed:
        # Its shim was killed right after the answer: that was heard of when there was no task yet.
        task.lost()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _settle, future)
    try:
        await future
    finally:
        loop.remove_reader(sock)
    try:
        return channel.receive(sock)
    except (OSError, channel.ChannelError) as error:
        raise Internal(f"the launcher's answer cannot be read: {error}") from error
