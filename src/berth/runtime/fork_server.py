"""The engine's handle on its launcher process: starts it, restarts it when it dies, sends it requests."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from berth.errors import Internal, Unavailable
from berth.runtime import channel

if TYPE_CHECKING:
    from berth.runtime.channel import Message

# `python -I -S` sees neither a virtual environment nor its own directory.
_BOOTSTRAP = "import sys; sys.path.insert(0, sys.argv[1]); from berth.runtime.launcher import main; main(sys.argv[2:])"
_START_SECONDS = 30.0
_LONGEST_PAUSE = 10.0
_DESCRIPTOR = 3


def package_root() -> str:
    """The directory that the package `berth` is in."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _environment() -> dict[str, str]:
    """What the dynamic linker would look up at the first call is looked up at the start, not in each of many forks."""
    return {**os.environ, "LD_BIND_NOW": "1"}


class ForkServer:
    """One launcher at a time. `generation` counts the processes that there have been."""

    def __init__(self, run: str, store: str, launch: str) -> None:
        self._run = run
        self._store = store
        self._launch = launch
        self._package = package_root()
        self._sock: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._ready = asyncio.Event()
        self._sending = asyncio.Lock()
        self._restarting: asyncio.Task[None] | None = None
        self._closing = False
        self._serving = False
        self.generation = 0

    @property
    def pid(self) -> int:
        """The launcher's process id, 0 while there is none."""
        return self._pid

    async def start(self) -> None:
        """Start it and wait until it is ready. Internal when it ends instead, with what it said."""
        self._spawn()
        await self._until_ready()

    async def send(self, message: Message, fds: Sequence[int]) -> int:
        """Send a request (to a new launcher if the old one has just died); the generation that got it. The caller keeps `fds`."""
        async with self._sending:
            while True:
                try:
                    await asyncio.wait_for(self._ready.wait(), _START_SECONDS)
                except TimeoutError:
                    raise Unavailable(f"the launcher cannot be started again: {self.last_words()}") from None
                if self._closing:
                    raise Internal("the runtime has been closed: nothing can be started any more")
                if self._sock is None:
                    # It has died since it was ready.
                    self._ready.clear()
                    continue
                try:
                    channel.send(self._sock, message, fds)
                    return self.generation
                except BlockingIOError:
                    await self._writable(self._sock)
                except (BrokenPipeError, ConnectionError):
                    # Its end is noticed by the pidfd too; do not wait for that on a socket that is dead.
                    self._ready.clear()

    async def close(self) -> None:
        """Let it end: it does when its socket closes. Shims and workers go on."""
        self._closing = True
        self._ready.set()
        if self._restarting is not None:
            self._restarting.cancel()
        pid, pidfd = self._pid, self._pidfd
        self._forget()
        if pid:
            await asyncio.to_thread(_wait_or_kill, pid, pidfd)

    def _spawn(self) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Only the entries that exist: a worker imports from the engine's own path.
        path = [entry for entry in sys.path if entry and os.path.isdir(entry)]
        arguments = [str(_DESCRIPTOR), self._run, self._store, self._launch, *path]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
        # Duplicating a descriptor onto itself would leave it close-on-exec.
        source = os.dup(far.fileno()) if far.fileno() == _DESCRIPTOR else -1
        actions.append((os.POSIX_SPAWN_DUP2, source if source >= 0 else far.fileno(), _DESCRIPTOR))
        try:
            command = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, self._package, *arguments]
            self._pid = os.posix_spawn(sys.executable, command, _environment(), file_actions=actions, setsid=True)
        except OSError as error:
            near.close()
            raise Internal(f"the launcher cannot be started with {sys.executable}: {error.strerror}") from error
        finally:
            far.close()
            channel.close_all([null, source] if source >= 0 else [null])
        self._pidfd = os.pidfd_open(self._pid)
        near.setblocking(False)
        self._sock = near
        self.generation += 1
        loop = asyncio.get_running_loop()
        loop.add_reader(near, self._heard)
        loop.add_reader(self._pidfd, self._died)

    def _heard(self) -> None:
        if self._sock is None:
            return
        try:
            received = channel.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, channel.ChannelError):
            received = None
        if received is None:
            # `_died` does the rest.
            asyncio.get_running_loop().remove_reader(self._sock)
            return
        channel.close_all(received[1])
        self._serving = True
        self._ready.set()

    def _died(self) -> None:
        os.waitpid(self._pid, 0)
        self._forget()
        self._ready.clear()
        # One that was never ready is reported to whoever waits for it.
        if self._serving and not self._closing:
            self._serving = False
            self._restarting = asyncio.get_running_loop().create_task(self._restart())

    def _forget(self) -> None:
        loop = asyncio.get_running_loop()
        if self._sock is not None:
            loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None
        if self._pidfd >= 0:
            loop.remove_reader(self._pidfd)
            if not self._closing:
                os.close(self._pidfd)
            self._pidfd = -1
        self._pid = 0

    async def _restart(self) -> None:
        pause = 0.0
        while not self._closing:
            await asyncio.sleep(pause)
            pause = min(max(0.5, pause * 2), _LONGEST_PAUSE)
            try:
                await self.start()
                return
            except Internal:
                continue

    async def _until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while not self._ready.is_set():
            if not self._pid or asyncio.get_running_loop().time() > deadline:
                raise Internal(f"the launcher does not start: {self.last_words()}")
            try:
                await asyncio.wait_for(self._ready.wait(), 0.05)
            except TimeoutError:
                pass

    def last_words(self) -> str:
        """The last line that a launcher, shim or worker complained with."""
        try:
            with open(f"{self._run}/launcher.log", encoding="utf-8", errors="replace") as file:
                lines = file.read().strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"no message in {self._run}/launcher.log"

    async def _writable(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _settle, future)
        try:
            await asyncio.wait_for(future, 1.0)
        except TimeoutError:
            pass
        finally:
            loop.remove_writer(sock)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wait_or_kill(pid: int, pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        if not poll.poll(3000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
