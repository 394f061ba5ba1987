"""An epoll loop of a page: the resolver is one of many small processes, and asyncio would be half of its memory."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Reactor:
    """Calls a function per descriptor that is ready. A handler may watch and forget descriptors, its own included."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.running = True

    def watch(self, fd: int, handler: Callable[[], None], *, write: bool = False) -> None:
        """Call `handler` when the descriptor can be read (or written). Replaces what was asked before."""
        self.watch_for(fd, handler, read=not write, write=write)

    def watch_for(self, fd: int, handler: Callable[[], None], *, read: bool, write: bool) -> None:
        """The same for both; forgotten when it is neither, since the kernel would tell of a hang-up again and again."""
        mask = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0)
        if not mask:
            self.forget(fd)
            return
        if fd in self._handlers:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Do not watch it any more; before it is closed. Idempotent."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def run(self, tick: Callable[[float], float | None]) -> None:
        """Until `running` is false. `tick(now)` runs after each round, and says in how many seconds it wants to run again."""
        wait: float | None = None
        while self.running:
            for fd, _ in self._epoll.poll(wait):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            wait = tick(time.monotonic())
