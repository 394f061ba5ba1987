"""Learning at once that a container ran out of memory, without asking. For the engine; one watch per running container.

    cgroup v1    an eventfd registered at memory.oom_control: one descriptor per container
    cgroup v2    inotify on memory.events: one descriptor in all

Both also speak up when the group is removed; then there is nothing to read, and nobody is told.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from struct import unpack_from

from berth.kernel.file import write_text
from berth.kernel.libc import check, libc
from berth.runtime import cgroup

_IN_MODIFY, _IN_IGNORED = 0x2, 0x8000
_EVENT = 16


class OomWatch:
    """Watches groups on the running loop. A group without a memory controller is not watched: nothing would be heard."""

    def __init__(self) -> None:
        self._inotify = -1
        self._listeners: dict[int, Callable[[], None]] = {}

    def watch(self, group: cgroup.Group, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` from now on; the answer ends that. Idempotent."""
        try:
            if "memory" in group["roots"]:
                return self._watch_v1(cgroup.directory(group, "memory"), listener)
            if group["v2"]:
                return self._watch_v2(cgroup.directory(group, "memory") + "/memory.events", group, listener)
        except OSError:
            # The container has ended this moment, or the host counts no memory: the end record tells.
            pass
        return lambda: None

    def close(self) -> None:
        """End all watches on cgroup v2; those on v1 end by themselves."""
        if self._inotify >= 0:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1
            self._listeners.clear()

    def _watch_v1(self, directory: str, listener: Callable[[], None]) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(directory + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write_text(directory + "/cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(event)
            raise
        open_ = [True]

        def end() -> None:
            if open_[0]:
                open_[0] = False
                loop.remove_reader(event)
                os.close(event)

        def heard() -> None:
            os.eventfd_read(event)
            # The kernel speaks before it kills, so what memory.oom_control counts says nothing yet; and again when the
            # directory has gone.
            if os.path.exists(directory):
                listener()
            else:
                end()

        loop.add_reader(event, heard)
        return end

    def _watch_v2(self, path: str, group: cgroup.Group, listener: Callable[[], None]) -> Callable[[], None]:
        self._open()
        seen = [cgroup.oom_kills(group)]
        number = check(libc.inotify_add_watch(self._inotify, path.encode(), _IN_MODIFY), path)

        def heard() -> None:
            count = cgroup.oom_kills(group)
            if count > seen[0]:
                seen[0] = count
                listener()

        def end() -> None:
            if self._listeners.pop(number, None) is not None:
                # EINVAL when the group has gone, and the watch with it.
                libc.inotify_rm_watch(self._inotify, number)

        self._listeners[number] = heard
        return end

    def _open(self) -> None:
        if self._inotify < 0:
            self._inotify = check(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify")
            asyncio.get_running_loop().add_reader(self._inotify, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._inotify, 65536)
        except BlockingIOError:
            return
        changed = set()
        position = 0
        while position < len(data):
            number, mask, _cookie, length = unpack_from("iIII", data, position)
            position += _EVENT + length
            if mask & _IN_IGNORED:
                self._listeners.pop(number, None)
            else:
                changed.add(number)
        for number in changed:
            if heard := self._listeners.get(number):
                heard()
