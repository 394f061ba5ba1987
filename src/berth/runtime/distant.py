"""A container whose shim was started by a newer berth and speaks a protocol that this one does not know (after a downgrade).

It runs on and is left in peace. What needs no shim works: signals, limits, readings, its log, its end, which the shim writes
down. What needs it (exec, attach, resize) is refused with what to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from berth.contract.runtime import Exit
from berth.errors import Unavailable
from berth.kernel.process import start_time
from berth.runtime import channel, record, remains
from berth.runtime.link import readable
from berth.runtime.task import NativeTask

if TYPE_CHECKING:
    from berth.runtime.channel import Message

log = logging.getLogger("berth.runtime")

# The shim writes the record when init has ended; then it has a moment, for a busy machine a long one.
_RECORD_SECONDS = 10.0
_PAUSE = 0.02


def is_distant(state: Message | None) -> bool:
    """Whether a run file is one of a shim that lives and cannot be talked to."""
    if state is None or channel.known(state.get("v")):
        return False
    return bool(start_time(state["shim"]) == state["shim_start"])


class DistantTask(NativeTask):
    """What can be done with it. `watch` comes first."""

    def watch(self, state: Message) -> None:
        """Begin to wait for its end."""
        self._speaks = f"its shim speaks version {state.get('v')}, this engine {channel.VERSION}"
        log.error(
            "container %s was started by a newer berth (%s): it runs on and can be stopped; for exec and attach upgrade berth "
            "again, or restart the container",
            self.id[:12],
            self._speaks,
        )
        pidfd = -1
        if start_time(state["pid"]) == state["pid_start"]:
            pidfd = os.pidfd_open(state["pid"])
        summary = {key: state.get(key) for key in ("pid", "started_at", "cgroup", "directory")}
        began = {"began": state["began"]} if "began" in state else {}
        self.adopt({**summary, **began, "exit": None, "execs": {}}, [pidfd] if pidfd >= 0 else [])
        self._state = state
        self._watching = asyncio.get_running_loop().create_task(self._await_end(pidfd), name=f"end of {self.id[:12]}")

    async def request(self, op: str, values: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Nothing can be asked."""
        raise self._refusal(op)

    async def _await_shim(self) -> None:
        """No exec of this engine's can be on its way in."""

    def check(self, op: str) -> None:
        """Says why not."""
        raise self._refusal(op)

    def _refusal(self, op: str) -> Unavailable:
        return Unavailable(
            f"cannot {op}: container {self.id} was started by a newer berth ({self._speaks}): "
            "upgrade berth again, or restart the container"
        )

    async def delete(self) -> None:
        """The shim leaves by itself, since no engine is connected; not before its name is free can another take it."""
        await asyncio.to_thread(self._see_off)
        await super().delete()

    def _see_off(self) -> None:
        shim, started = self._state["shim"], self._state["shim_start"]
        pidfd = remains.send_signal(shim, started, 0)
        if pidfd >= 0:
            remains.await_end(pidfd)
            os.close(pidfd)
            remains.end_process(shim, started)

    def let_go(self) -> None:
        """Nobody waits any more; the container goes on."""
        if self._watching is not asyncio.current_task():
            self._watching.cancel()
        super().let_go()

    async def _await_end(self, pidfd: int) -> None:
        if pidfd >= 0:
            await readable(pidfd)
        deadline = asyncio.get_running_loop().time() + _RECORD_SECONDS
        while (found := record.read_exit(self._run, self.id, self._directory)) is None:
            if asyncio.get_running_loop().time() > deadline:
                self._ended(await asyncio.to_thread(self._bury_now))
                return
            await asyncio.sleep(_PAUSE)
        self._ended(remains.exit_of(found))

    def _bury_now(self) -> Exit:
        return remains.bury(self._run, self.id, self._directory, self._group, self._state)
