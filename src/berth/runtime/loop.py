"""The event loop of a shim: epoll and a few timers, single-threaded. Lean code."""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANG_UP = select.EPOLLHUP | select.EPOLLERR
_FAILURES = 5


class Loop:
    """Watches descriptors. A handler gets the event mask; it may watch, change and forget any descriptor, its own included."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._fresh: set[int] = set()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._failures: dict[int, int] = {}
        self.running = True

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call `handler` when one of the events comes; hang-up is always one of them."""
        self._epoll.register(fd, mask)
        self._handlers[fd] = handler
        self._masks[fd] = mask
        self._fresh.add(fd)

    def change(self, fd: int, mask: int) -> None:
        """Other events for a descriptor that is watched."""
        if self._masks[fd] != mask:
            self._epoll.modify(fd, mask)
            self._masks[fd] = mask

    def watches(self, fd: int) -> bool:
        """Whether the descriptor is watched."""
        return fd in self._handlers

    def forget(self, fd: int) -> None:
        """Stop watching, before the descriptor is closed. Idempotent."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            del self._masks[fd]
            self._failures.pop(fd, None)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` once, in so many seconds."""
        self._count += 1
        self._timers.append((time.monotonic() + seconds, self._count, action))
        self._timers.sort()

    def run(self) -> None:
        """Serve until `running` is false."""
        while self.running:
            self.turn()

    def turn(self) -> None:
        """Wait for events and serve them."""
        timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
        events = self._epoll.poll(timeout, 64)
        self._fresh.clear()
        for fd, mask in events:
            handler = self._handlers.get(fd)
            # A descriptor that was closed and opened again during this turn has an event of its former owner.
            if handler is not None and fd not in self._fresh:
                self._call(fd, mask, handler)
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._call_timer(self._timers.pop(0)[2])

    def _call(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        try:
            handler(mask)
        except Exception:
            sys.excepthook(*sys.exc_info())
            # Events are level-triggered: a handler that always fails would spin.
            self._failures[fd] = self._failures.get(fd, 0) + 1
            if self._failures[fd] >= _FAILURES:
                self.forget(fd)

    def _call_timer(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            sys.excepthook(*sys.exc_info())
