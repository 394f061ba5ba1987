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

    def held(self, console: int | None) -> dict[str, int]:
        """The process has started: what its shim holds of it by name, no longer of this object. `console` is its terminal."""
        own, self._own = self._own, []
        if console is not None:
            return {"console": console, **({"stdin": os.dup(console)} if self._with_input else {})}
        return dict(zip(("stdin", "stdout", "stderr") if self._with_input else ("stdout", "stderr"), own, strict=True))


def streams_of(
    loop: Loop, held: dict[str, int], *, log: LogFile | None = None, stdin_once: bool = False, on_detach: Callable[[], None]
) -> Session:
    """The streams of a process whose descriptors are held; they own these from then on."""
    console = held.get("console")
    outputs = [(1, held["stdout"]), (2, held["stderr"])] if console is None else [(1, console)]
    stdin = held.get("stdin")
    return Session(loop, outputs, stdin, log=log, terminal=console, stdin_once=stdin_once, on_detach=on_detach)
