"""The pipes between a shim and one process: both ends, until the process has its own. Lean code."""

from __future__ import annotations

import os

from berth.runtime import channel
from berth.runtime.stream import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from berth.runtime.logfile import LogFile
    from berth.runtime.loop import Loop


class Stdio:
    """Standard input (a pipe if `with_input`, else /dev/null), output and error; nothing for a process with a terminal."""

    def __init__(self, terminal: bool, with_input: bool) -> None:
        self._terminal = terminal
        self._with_input = with_input
        self._child: list[int] = []
        self._own: list[int] = []
        self.child: tuple[int, int, int] | None = None
        if terminal:
            return
        try:
            self._open()
        except OSError:
            self.close_child()
            channel.close_all(self._own)
            raise

    def _open(self) -> None:
        if self._with_input:
            near, far = os.pipe2(os.O_CLOEXEC)
            self._child.append(near)
            self._own.append(far)
        else:
            self._child.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for _ in range(2):
            near, far = os.pipe2(os.O_CLOEXEC)
            self._own.append(near)
            self._child.append(far)
        self.child = (self._child[0], self._child[1], self._child[2])

    def close_child(self) -> None:
        """The process has its ends, or there will be none. Idempotent."""
        channel.close_all(self._child)
        self._child = []
        self.child = None

    def close(self) -> None:
        """There is no process: close everything."""
        self.close_child()
        channel.close_all(self._own)
        self._own = []

    def session(
        self,
        loop: Loop,
        console: int | None,
        *,
        log: LogFile | None = None,
        stdin_once: bool = False,
        on_detach: Callable[[], None],
    ) -> Session:
        """The process has started: its streams. They own the descriptors, `console` included."""
        own, self._own = self._own, []
        if console is not None:
            stdin = os.dup(console) if self._with_input else None
            return Session(loop, [(1, console)], stdin, log=log, terminal=console, stdin_once=stdin_once, on_detach=on_detach)
        stdin = own.pop(0) if self._with_input else None
        return Session(loop, [(1, own[0]), (2, own[1])], stdin, log=log, stdin_once=stdin_once, on_detach=on_detach)
