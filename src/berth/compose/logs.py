"""Log lines of several containers, each with the container's name in front, as they come."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TextIO

from berth.client.engine import Engine
from berth.client.stream import Frame
from berth.errors import BerthError, NotFound

_COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


@dataclass(frozen=True)
class LogOptions:
    """Which part of the logs, and how it is shown. `since` and `until` are seconds of the epoch."""

    follow: bool = False
    tail: str = "all"
    since: str | None = None
    until: str | None = None
    timestamps: bool = False
    prefix: bool = True
    color: bool = False


@dataclass
class LogPrinter:
    """Writes whole lines; may be used by several threads."""

    out: TextIO
    names: tuple[str, ...]
    prefix: bool = True
    color: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def line(self, name: str, text: str) -> None:
        """One line of a container."""
        with self._lock:
            self.out.write(self._front(name) + text + "\n")
            self.out.flush()

    def _front(self, name: str) -> str:
        if not self.prefix:
            return ""
        width = max(map(len, self.names), default=len(name))
        front = f"{name:<{width}}  | "
        if not self.color:
            return front
        number = self.names.index(name) if name in self.names else len(self.names)
        return f"\x1b[{_COLORS[number % len(_COLORS)]}m{front}\x1b[0m"


def _nanoseconds(text: str) -> int | None:
    """Of the epoch, from RFC 3339 with up to nine decimals; None for another text."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
        return int(moment.timestamp()) * 1_000_000_000 + int(f"{fraction:0<9}"[:9])
    except ValueError:
        return None


def _seconds(nanoseconds: int) -> str:
    """As the engine takes them, without what a float would lose."""
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09}"


def short_name(project: str, container: str) -> str:
    """web-1 for demo-web-1; other names stay whole."""
    return container.removeprefix(f"{project}-").removeprefix(f"{project}_") if container != project else container


def print_logs(engine: Engine, container: str, name: str, options: LogOptions, printer: LogPrinter) -> None:
    """Print one container's log; with `follow` until the container ends. A container that goes away ends it too."""
    try:
        tty = bool((engine.containers.inspect_raw(container).get("Config") or {}).get("Tty"))
        frames = engine.containers.logs(
            container,
            tty=tty,
            follow=options.follow,
            tail=options.tail,
            since=options.since,
            until=options.until,
            timestamps=options.timestamps,
        )
        rest: dict[int, bytes] = {}
        for frame in frames:
            _print_frame(frame, rest, name, printer)
        for text in rest.values():
            if text:
                printer.line(name, _decode(text))
    except NotFound:
        return


def _print_frame(frame: Frame, rest: dict[int, bytes], name: str, printer: LogPrinter) -> None:
    stream, data = frame
    *lines, rest[stream] = (rest.get(stream, b"") + data).split(b"\n")
    for line in lines:
        printer.line(name, _decode(line))


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode(errors="replace")


class Follower:
    """Follows containers in threads of their own, again after each start.

    A run's lines are those after the run before, which it is told of (`remember`, `ended`). The state of a container that has
    started would not do: it may have ended already, and of what is over in a moment Docker notes the end before the start, and
    both after the line that was written in it.
    """

    def __init__(self, engine: Engine, project: str, options: LogOptions, printer: LogPrinter) -> None:
        self._engine = engine
        self._project = project
        self._options = options
        self._printer = printer
        self._threads: dict[str, threading.Thread] = {}
        self._ends: dict[str, int] = {}

    def follow(self, container: str, name: str, *, since: int | None = None) -> None:
        """Begin with one container, from a time on (nanoseconds of the epoch), from its first line without."""
        options = self._options if since is None else replace(self._options, since=_seconds(since), tail="all")
        thread = threading.Thread(target=self._run, args=(container, name, options), daemon=True)
        self._threads[container] = thread
        thread.start()

    def remember(self, container: str) -> None:
        """What is in a container's log now is not of a run that starts from now on."""
        try:
            tty = bool((self._engine.containers.inspect_raw(container).get("Config") or {}).get("Tty"))
            last = b"".join(data for _, data in self._engine.containers.logs(container, tty=tty, tail="1", timestamps=True))
        except BerthError:
            return
        moment = _nanoseconds(last.partition(b" ")[0].decode(errors="replace"))
        if moment is not None:
            self._ends[container] = moment + 1

    def ended(self, container: str, nanoseconds: int) -> None:
        """That a run has ended, by the engine's clock."""
        self._ends[container] = nanoseconds

    def follow_start(self, container: str, name: str) -> None:
        """Begin with a container that has just started, from that start on; not when its log is being read already."""
        if not self.following(container):
            self.follow(container, name, since=self._ends.get(container))

    def following(self, container: str) -> bool:
        """Whether its log is still being read."""
        thread = self._threads.get(container)
        return thread is not None and thread.is_alive()

    @property
    def active(self) -> bool:
        """Whether any log is still being read."""
        return any(thread.is_alive() for thread in list(self._threads.values()))

    def join(self, timeout: float | None = 2.0) -> None:
        """Wait until what the containers have written has been printed; without a timeout until they end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in list(self._threads.values()):
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _run(self, container: str, name: str, options: LogOptions) -> None:
        try:
            print_logs(self._engine, container, name, options, self._printer)
        except BerthError as error:
            self._printer.line(name, f"(log lost: {error.message})")
