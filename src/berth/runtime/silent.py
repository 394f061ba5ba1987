"""A container whose shim does not answer when an engine starts: it is stopped, or starved by a machine that does something else.

The engine does not wait for it, nor is the container ended: the run file says what is needed for signals, limits, readings
and the log, and the end of its init is seen. What needs the shim (exec, attach, resize) is refused until the answer comes, which
turns this into a task like any other. A shim that is silent still, seconds after its init has ended, is killed to know the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from berth.errors import BerthError, Unavailable
from berth.kernel.process import start_time
from berth.runtime import remains
from berth.runtime.link import Link, discard, readable
from berth.runtime.task import NativeTask

if TYPE_CHECKING:
    from berth.runtime.channel import Message
    from berth.runtime.link import Answer

log = logging.getLogger("berth.runtime")

# What a shim has after its init's end, to wake up and tell of it.
_END_SECONDS = 5.0


class SilentTask(NativeTask):
    """What can be done with it. `watch` comes first."""

    def watch(self, state: Message, link: Link, answer: asyncio.Future[Answer]) -> None:
        """Begin to wait for the answer. `state` is the run file, `answer` that to the request for the shim's own state."""
        self._shim, self._shim_start = state["shim"], state["shim_start"]
        self._silent = True
        log.error(
            "container %s: its shim (process %d) does not answer: the container runs on and can be stopped; exec and attach work "
            "when the shim answers again (is it stopped? kill -CONT %d)",
            self.id[:12],
            self._shim,
            self._shim,
        )
        link.hand_over(self.heard, self.lost)
        self.link_over(link)
        pidfd = os.pidfd_open(state["pid"]) if start_time(state["pid"]) == state["pid_start"] else -1
        self.adopt({**state, "exit": None, "execs": {}}, [pidfd] if pidfd >= 0 else [])
        watched = os.dup(pidfd) if pidfd >= 0 else -1
        self._watching = asyncio.get_running_loop().create_task(self._await_word(answer, watched), name=f"word of {self.id[:12]}")

    def check(self, op: str) -> None:
        """Says why not."""
        if self._silent:
            raise self._refusal(op)

    async def request(self, op: str, values: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Nothing can be asked before it has answered."""
        self.check(op)
        return await super().request(op, values, fds)

    def _refusal(self, op: str) -> Unavailable:
        return Unavailable(
            f"cannot {op}: the shim of container {self.id} (process {self._shim}) does not answer: "
            f"continue it if it is stopped (kill -CONT {self._shim}), or remove the container by force"
        )

    def let_go(self) -> None:
        """Nobody waits any more; the container goes on."""
        if self._watching is not asyncio.current_task():
            self._watching.cancel()
        super().let_go()

    async def _await_word(self, answer: asyncio.Future[Answer], pidfd: int) -> None:
        try:
            await self._await_either(answer, pidfd)
            if not answer.done():
                await self._await_end(answer)
        finally:
            if pidfd >= 0:
                os.close(pidfd)
            answer.add_done_callback(discard if self._silent else _nothing)

    async def _await_either(self, answer: asyncio.Future[Answer], pidfd: int) -> None:
        """Until the shim answers, which may take days, or init ends."""
        if pidfd >= 0:
            end = asyncio.ensure_future(readable(pidfd))
            either: set[asyncio.Future[Any]] = {answer, end}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                end.cancel()
        if answer.done():
            self._answered(answer)

    async def _await_end(self, answer: asyncio.Future[Answer]) -> None:
        done, _ = await asyncio.wait({answer}, timeout=_END_SECONDS)
        if done:
            self._answered(answer)
            return
        log.error("container %s has ended, and its shim (process %d) does not tell how: it is killed", self.id[:12], self._shim)
        # Its connection closes by that: `lost` finds out what is left to know.
        await asyncio.to_thread(remains.end_process, self._shim, self._shim_start)

    def _answered(self, answer: asyncio.Future[Answer]) -> None:
        try:
            summary, fds = answer.result()
        except BerthError:
            # It has gone: `lost` has heard of that.
            return
        self._silent = False
        log.warning("container %s: its shim answers again", self.id[:12])
        self.adopt(summary, fds)


def _nothing(_answer: asyncio.Future[Answer]) -> None:
    """What came has been taken."""
