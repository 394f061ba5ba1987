"""What is stored of a container (the `document` column of table containers), and the container as the engine holds it.

A record has all that survives the engine. A Container adds what belongs to this process: the lock, the task, waiters,
attach clients that came before the start, execs. Whoever changes a container holds its lock.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct, field

from berth.contract.network import ContainerFacts, PortRows
from berth.contract.runtime import AttachStream, LaunchRequest, Task
from berth.engine.containers.cause import Cause
from berth.engine.containers.lifecycle import HAS_TASK, Status, check_transition
from berth.errors import NotFound
from berth.model.oci import IdMapping
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.health import Health
from berth.wire.network import EndpointSettings

if TYPE_CHECKING:
    from berth.engine.containers.execution import Execution


class MountRecord(Struct, kw_only=True, omit_defaults=True):
    """One mount that the container was created with.

    `source` is a host path, or a volume's data directory; `name` the volume's. `mode` is what the user wrote (ro, z ...).
    `create_source`: a missing bind source is made at start (-v does, --mount does not). `options` are those of a tmpfs.
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    read_only: bool = False
    propagation: str = ""
    recursive: bool = True
    read_only_recursive: bool = True
    create_source: bool = False
    anonymous: bool = False
    subpath: str = ""
    options: list[str] = field(default_factory=list)

    def covers(self, path: str) -> bool:
        """Whether an absolute path of the container is in it."""
        return path == self.destination or path.startswith(self.destination.rstrip("/") + "/")


class StateRecord(Struct, kw_only=True, omit_defaults=True):
    """Times in seconds since the epoch, 0 for never; `ran_for` is how long the last run took, whatever the clock was set to
    meanwhile. `id_map` belongs to the running task: empty in the host's user
    namespace. `manual_stop` tells unless-stopped and recovery that the user wanted it to be down.
    `cause` is why the last run ended, or what was asked for to end this one. `renewing`: it is being ended for its health, to be
    started again whatever its restart policy says. `health` is what the next engine goes on from, if the run that it is of
    (`health_of`, a start) is still the one. `linked` are the variables that tell the task of linked containers."""

    status: Status = Status.CREATED
    started_at: float = 0.0
    finished_at: float = 0.0
    ran_for: float = 0.0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    pid: int = 0
    restart_count: int = 0
    manual_stop: bool = False
    cause: Cause | None = None
    renewing: bool = False
    health: Health | None = None
    health_of: float = 0.0
    id_map: list[IdMapping] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)


class ContainerRecord(Struct, kw_only=True, omit_defaults=True):
    """The document. `name` is without the slash; `image_name` as the user wrote it. `no_new_privileges` is what the engine had as
    its default when the container was created. `extensions` are model.extension's that the request asked for. `storage_size` is
    what its writable layer may take up, 0 for any size. `ports_before` is there while ports of the running container change: what
    networks had published for it."""

    id: str
    name: str
    created: float
    image_id: str
    image_name: str
    config: ContainerConfig
    host_config: HostConfig
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)
    path: str = ""
    args: list[str] = field(default_factory=list)
    mounts: list[MountRecord] = field(default_factory=list)
    no_new_privileges: bool = False
    extensions: dict[str, str] = field(default_factory=dict)
    storage_size: int = 0
    ports_before: PortRows | None = None
    state: StateRecord = field(default_factory=StateRecord)


class Ended(Struct, frozen=True, kw_only=True):
    """What a waiter is told: the exit code, and the error of a start or of the wait itself that failed."""

    code: int
    error: str = ""


class Container:
    """A container in memory."""

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.task: Task | None = None
        self.pending: list[AttachStream] = []
        self.watcher: asyncio.Task[None] | None = None
        self.restarter: asyncio.Task[None] | None = None
        self.prober: asyncio.Task[None] | None = None
        self.health: Health | None = None
        self.probe_failures = 0
        self.backoff = 0.0
        self.next_start = 0.0
        self.execs: dict[str, Execution] = {}
        # What its slot has been told of it, and the settings that this came from.
        self.primed: tuple[HostConfig, LaunchRequest] | None = None
        self.deleting = False
        self.held = False
        self.gone = False
        self._exit_waiters: list[asyncio.Future[Ended]] = []
        self._removal_waiters: list[asyncio.Future[Ended]] = []

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.record.id

    @property
    def name(self) -> str:
        """Without the slash."""
        return self.record.name

    @property
    def state(self) -> StateRecord:
        """The stored state."""
        return self.record.state

    @property
    def status(self) -> Status:
        """Where it is in its life."""
        return self.record.state.status

    @property
    def auto_remove(self) -> bool:
        """Whether it goes when it ends (--rm)."""
        return bool(self.record.host_config.auto_remove)

    @property
    def tty(self) -> bool:
        """Whether it has a terminal: its output is one raw stream then."""
        return bool(self.record.config.tty)

    @property
    def uid_base(self) -> int:
        """The host id of the container's root; 0 in the host's user namespace."""
        return next((m.host_id for m in self.state.id_map if m.container_id == 0), 0)

    def move(self, status: Status) -> None:
        """Change the status by the table of transitions."""
        check_transition(self.state.status, status)
        self.state.status = status

    def live_task(self) -> Task | None:
        """The task while there is one that has not ended."""
        return self.task if self.status in HAS_TASK else None

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """The lock of a container that is there: NotFound when it was removed while this was waiting."""
        async with self.lock:
            if self.gone:
                raise NotFound(f"No such container: {self.id}")
            yield

    def facts(self) -> ContainerFacts:
        """What networks need to know."""
        record = self.record
        return ContainerFacts(
            id=record.id, name=record.name, config=record.config, host_config=record.host_config, endpoints=record.endpoints
        )

    def next_exit(self) -> asyncio.Future[Ended]:
        """Resolved at the next exit."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        # Those that gave up (a client that went away) are in nobody's way any more.
        self._exit_waiters = [waiter for waiter in self._exit_waiters if not waiter.done()]
        self._exit_waiters.append(future)
        return future

    def removal(self) -> asyncio.Future[Ended]:
        """Resolved when the container is gone."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        if self.gone:
            future.set_result(Ended(code=self.state.exit_code))
        else:
            self._removal_waiters = [waiter for waiter in self._removal_waiters if not waiter.done()]
            self._removal_waiters.append(future)
        return future

    def tell_exit(self) -> None:
        """Wake those that wait for the exit."""
        self._exit_waiters = _wake(self._exit_waiters, Ended(code=self.state.exit_code))

    def tell_removed(self, error: str = "") -> None:
        """Wake everybody: there will be no further exit either. With an error the removal has failed."""
        self.gone = not error
        self._removal_waiters = _wake(self._removal_waiters, Ended(code=self.state.exit_code, error=error))
        if not error:
            self._exit_waiters = _wake(self._exit_waiters, Ended(code=self.state.exit_code))

    def keep_for_start(self, stream: AttachStream) -> None:
        """An attach client that came before the start. Those that have hung up meanwhile are let go."""
        self.pending = [s for s in self.pending if not _hung_up(s)]
        self.pending.append(stream)

    def take_pending(self) -> list[AttachStream]:
        """The clients to hand to the task; the caller owns their descriptors."""
        taken, self.pending = self.pending, []
        return taken

    def close_pending(self) -> None:
        """Close the connections of clients that will never see a start."""
        for stream in self.take_pending():
            os.close(stream.fd)

    def running_for(self) -> float:
        """Seconds since the start of the present run, whatever was done to the clock meanwhile."""
        return self.task.running_for() if self.task is not None else max(0.0, time.time() - self.state.started_at)


def _hung_up(stream: AttachStream) -> bool:
    poll = select.poll()
    poll.register(stream.fd, select.POLLHUP | select.POLLERR)
    if not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0)):
        return False
    os.close(stream.fd)
    return True


def _wake(waiters: list[asyncio.Future[Ended]], ended: Ended) -> list[asyncio.Future[Ended]]:
    for future in waiters:
        if not future.done():
            future.set_result(ended)
    return []
