"""The warm pool: launches that have gone as far as they can before it is known what for (see runtime.ahead).

A slot is a shim, a birth that waits and an init in its namespaces, with an id range and a control group of its own. The
group is named after a container, so the slot has that container's id from the beginning: who creates a container may
take it (`claim`), and who starts it under that id finds the slot if it fits (`take`). All slots have the shape of the
launches that the engine was last asked for.

    ready ──claim──> claimed ──(prime)──take──> a container's shim
      └──── another shape ────┴── not started for a while, or does not fit ──> ended

A container that was created is likely to be started at once, so its slot mounts its root and does all else that does not
depend on when (`prime`); the launch that comes then has to be of the same plan, but for the network.

The pool fills up while nothing is launched, one slot after another. Slots hang on connections of this engine: when it is
killed, they end.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import json, structs

from berth import trace
from berth.errors import BerthError
from berth.runtime import ahead, channel, remains
from berth.runtime.link import Link

if TYPE_CHECKING:
    from berth.contract.runtime import LaunchRequest
    from berth.runtime.fork_server import ForkServer

    Plan = dict[str, Any]
    Shape = dict[str, Any]

# How long nothing may have been created, launched, ended or removed before a slot is made.
QUIET_SECONDS = 0.04
# A container that was created and not started for so long has to start without its slot.
_CLAIM_SECONDS = 10.0
_RETRY_SECONDS = 5.0
# What travels to a slot's shim along with its own descriptors is limited by the room that it has.
MOST_DESCRIPTORS = 40


class Ranges(Protocol):
    """Where slots get their host ids from."""

    def take(self) -> int:
        """The first id of a free range."""
        ...

    def give_back(self, base: int) -> None:
        """The range is free again."""
        ...


class Slot:
    """A launch that waits. `shim` is a pidfd; `base` belongs to the pool as long as `owns_base`."""

    def __init__(self, id: str, base: int, group: dict[str, Any], shape: Shape, link: Link, shim: int) -> None:
        self.id = id
        self.base = base
        self.group = group
        self.shape = shape
        self.link = link
        self.shim = shim
        self.owns_base = True
        # What it was primed with: the request without a network, and its plan.
        self.primed: tuple[LaunchRequest, Plan] | None = None
        self.expiry: asyncio.TimerHandle | None = None

    def fits(self, plan: Plan, shape: Shape | None, descriptors: int) -> bool:
        """Whether a launch can go on from here."""
        same = shape == self.shape and plan["base"] == self.base and plan["cgroup"] == self.group
        same = same and (self.primed is None or _lasting(plan) == _lasting(self.primed[1]))
        return same and descriptors <= MOST_DESCRIPTORS and not self.link.closed


class Pool:
    """At most `size` slots that are ready, and as many that are claimed. `run` is the run directory, `name` the name of the
    control groups' parent."""

    def __init__(self, server: ForkServer, run: str, name: str, size: int, ranges: Ranges) -> None:
        self._server = server
        self._run = run
        self._name = name
        self._size = size
        self._ranges = ranges
        self._loop = asyncio.get_running_loop()
        self._template: Plan | None = None
        self._shape: Shape | None = None
        self._other: Shape | None = None
        self._ready: dict[str, Slot] = {}
        self._claimed: dict[str, Slot] = {}
        self._launching = 0
        self._timer: asyncio.TimerHandle | None = None
        self._filling: asyncio.Task[None] | None = None
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready) + len(self._claimed)

    def learn(self, plan: Plan) -> Shape | None:
        """The shape of a plan; when two launches in a row have another one than the slots, the slots get it."""
        slot = self._claimed.get(plan["id"])
        known = slot is not None and slot.primed is not None and slot.primed[1]["sources"] is plan["sources"]
        # Where the plan is that of a primed slot, but for the network, the shape is, too.
        shape = {**slot.shape, "veth": ahead.veth(plan)} if slot is not None and known else ahead.shape(plan)
        if shape is None or shape == self._shape:
            self._other = None
        elif self._shape is not None and shape != self._other:
            self._other = shape
        else:
            self._template, self._shape, self._other = _template(plan), shape, None
            for slot in list(self._ready.values()):
                self._end_later(slot)
            self._wait_for_quiet()
        return shape

    def claim(self) -> str:
        """The id that a new container should get to start from a slot; empty when there is none."""
        if not self._ready or len(self._claimed) >= self._size:
            return ""
        id, slot = self._ready.popitem()
        self._claimed[id] = slot
        slot.expiry = self._loop.call_later(_CLAIM_SECONDS, self._end_later, slot)
        self._wait_for_quiet()
        return id

    def base(self, id: str) -> int:
        """The host ids of the slot of a container, which stay the pool's; 0 without a slot."""
        slot = self._claimed.get(id)
        return slot.base if slot is not None else 0

    def link(self, id: str) -> str:
        """The name of the host's end of the link that the slot of a container has; empty without one."""
        slot = self._claimed.get(id)
        return _link_name(id) if slot is not None and slot.shape["veth"] else ""

    def prime(self, request: LaunchRequest, plan: Plan, document: bytes) -> bool:
        """Have the slot of this container begin with it; whether there is one that fits. `request` is without a network."""
        slot, shape = self._claimed.get(plan["id"]), ahead.shape(plan)
        if slot is None or shape is None or slot.primed is not None or not slot.shape["veth"]:
            return False
        if not slot.fits(plan, {**shape, "veth": slot.shape["veth"]}, 0):
            return False
        memory = channel.memory_file(document)
        try:
            slot.link.ask("prime", None, [memory]).add_done_callback(_discard)
        finally:
            os.close(memory)
        slot.primed = (request, plan)
        return True

    def primed_plan(self, request: LaunchRequest) -> Plan | None:
        """The plan that this container's slot was primed with, if it was with the same request."""
        slot = self._claimed.get(request.id)
        if slot is None or slot.primed is None or without_network(request) != slot.primed[0]:
            return None
        return slot.primed[1]

    def give_range(self, id: str) -> int:
        """The host ids of the slot of a container that is about to be started: the caller's from now on. 0 without a slot."""
        slot = self._claimed.get(id)
        if slot is None:
            return 0
        if slot.expiry is not None:
            slot.expiry.cancel()
        slot.owns_base = False
        return slot.base

    async def take(self, plan: Plan, shape: Shape | None, descriptors: int) -> Slot | None:
        """The slot of this container, if the launch can go on from it; one that does not fit is ended first."""
        slot = self._claimed.pop(plan["id"], None)
        if slot is None:
            await self._ended(plan["id"])
            return None
        if slot.expiry is not None:
            slot.expiry.cancel()
        if slot.fits(plan, shape, descriptors):
            return slot
        await self.end(slot)
        return None

    async def drop(self, id: str) -> None:
        """The container will not be started."""
        self._wait_for_quiet()
        slot = self._claimed.get(id)
        if slot is not None:
            await self.end(slot)
        await self._ended(id)

    async def _ended(self, id: str) -> None:
        """Nothing is left of a slot that has died or has been given up."""
        if id in self._ending:
            await asyncio.wait([self._ending[id]])

    def launching(self, change: int) -> None:
        """One more launch is under way, or one less."""
        self._launching += change
        self._wait_for_quiet()

    async def end(self, slot: Slot) -> None:
        """Until nothing is left of it: its shim would take away the control group of whoever comes after it."""
        self._ready.pop(slot.id, None)
        self._claimed.pop(slot.id, None)
        if slot.expiry is not None:
            slot.expiry.cancel()
        slot.link.close()
        if slot.shim >= 0:
            shim, slot.shim = slot.shim, -1
            await asyncio.to_thread(_end_shim, shim)
            await asyncio.to_thread(remains.remove, self._run, self._name, slot.id)
            if slot.owns_base:
                self._ranges.give_back(slot.base)
        self._wait_for_quiet()

    def release(self, slot: Slot) -> None:
        """It has become a container's."""
        os.close(slot.shim)
        slot.shim = -1

    async def close(self) -> None:
        """End all slots."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])
        for slot in [*self._ready.values(), *self._claimed.values()]:
            self._end_later(slot)
        if self._ending:
            await asyncio.wait(self._ending.values())

    def _end_later(self, slot: Slot) -> None:
        self._ready.pop(slot.id, None)
        self._claimed.pop(slot.id, None)
        task = self._loop.create_task(self.end(slot))
        self._ending[slot.id] = task
        task.add_done_callback(lambda _: self._ending.pop(slot.id))

    def _wait_for_quiet(self, seconds: float = QUIET_SECONDS) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._closed and not self._launching and len(self._ready) < self._size and self._template is not None:
            self._timer = self._loop.call_later(seconds, self._fill)

    def _fill(self) -> None:
        self._timer = None
        if self._filling is None or self._filling.done():
            self._filling = self._loop.create_task(self._make_one())

    async def _make_one(self) -> None:
        pause = QUIET_SECONDS
        base = self._ranges.take()
        id = secrets.token_hex(32)
        slot = None
        try:
            slot = await self._make(id, base)
        except (BerthError, OSError):
            # There is always the way without a slot.
            pause = _RETRY_SECONDS
        finally:
            if slot is None:
                await asyncio.to_thread(remains.remove, self._run, self._name, id)
                self._ranges.give_back(base)
        self._filling = None
        self._wait_for_quiet(pause)

    async def _make(self, id: str, base: int) -> Slot | None:
        assert self._template is not None and self._shape is not None
        shape = self._shape
        extent = f"0 {base} {self._template['maps']['uid'].split()[2]}\n"
        group = {**self._template["cgroup"], "path": f"/{self._name}/{id}"}
        plan = {**self._template, "id": id, "base": base, "cgroup": group, "maps": {"uid": extent, "gid": extent}}
        # That it is one, and the name of the host's end of its link.
        plan["slot"] = _link_name(id)
        head = {"id": id, "run": self._run, "streams": [], "trace": trace.is_on()}
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        slots: list[Slot] = []
        link = Link(near, lambda _event: None, lambda: self._lost(slots))
        answer = link.expect()
        try:
            memory = channel.memory_file(json.encode(head) + b"\n" + json.encode(plan))
            try:
                await self._server.send({"op": "slot"}, [far.fileno(), memory])
            finally:
                far.close()
                os.close(memory)
            _, fds = await answer
        except BaseException:
            link.close()
            raise
        slot = Slot(id, base, group, shape, link, fds[0])
        slots.append(slot)
        if shape != self._shape or self._closed:
            self._end_later(slot)
        else:
            self._ready[id] = slot
        return slot

    def _lost(self, slots: list[Slot]) -> None:
        """Somebody killed a slot that waits."""
        for slot in slots:
            if slot.id in self._ready or slot.id in self._claimed:
                self._end_later(slot)


def _template(plan: Plan) -> Plan:
    """What of a plan a slot needs."""
    early = ahead.split(plan)[0]
    return {**plan, "steps": [list(step) for step in early], "limits": [], "network": None}


def _link_name(id: str) -> str:
    return f"veth{id[:7]}"


def without_network(request: LaunchRequest) -> LaunchRequest:
    """What of a request is the same at the creation of a container and at its start."""
    return structs.replace(request, network=None, reserved=())


def network_of(plan: Plan) -> Plan:
    """What of a plan a primed slot does not know."""
    return {"links": plan["links"], "network_step": dict(plan["steps"])["network"]}


def _lasting(plan: Plan) -> Plan:
    """What of a plan is the same at the creation of a container and at its start."""
    steps = [step for step in plan["steps"] if step[0] != "network"]
    return {**plan, "steps": steps, "links": None, "network": None}


def _discard(answer: asyncio.Future[Any]) -> None:
    """A slot that cannot be primed ends, which its connection tells."""
    if not answer.cancelled():
        answer.exception()


def _end_shim(pidfd: int) -> None:
    """It ends by itself when its connection closes; one that does not is killed."""
    if not remains.await_end(pidfd):
        remains.kill(pidfd)
        remains.await_end(pidfd)
    os.close(pidfd)
