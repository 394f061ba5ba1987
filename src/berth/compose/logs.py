"""Log lines of several containers, each with the container's name in front, as they come."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
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


def run_began(started: str, finished: str) -> float | None:
    """A time (seconds of the epoch) between a container's run and the one before it; None when there was none before.

    The start itself will not do: engines note it when the process already writes. While it runs, `finished` is the end of the
    run before. When it has ended meanwhile, the start less a little is the best guess.
    """
    began, ended = _epoch(started), _epoch(finished)
    if ended is None or began is None:
        return None
    return ended if ended < began else began - 0.5


def _epoch(text: str) -> float | None:
    """Seconds of the epoch of RFC 3339 with up to nine decimals; None for the zero time of what never happened."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        moment = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return moment + float(f"0.{fraction or 0}") if moment > 0 else None


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
    """Follows containers in threads of their own, again after each start. `ended` is told exit codes by container."""

    def __init__(self, engine: Engine, project: str, options: LogOptions, printer: LogPrinter) -> None:
        self._engine = engine
        self._project = project
        self._options = options
        self._printer = printer
        self._threads: dict[str, threading.Thread] = {}

    def follow(self, container: str, name: str, *, since: float | None = None) -> None:
        """Begin with one container, from a time on (seconds of the epoch), from its first line without."""
        options = self._options if since is None else LogOptions(**{**vars(self._options), "since": f"{since:.9f}"})
        thread = threading.Thread(target=self._run, args=(container, name, options), daemon=True)
        self._threads[container] = thread
        thread.start()

    def follow_start(self, container: str, name: str) -> None:
        """Begin with a container that has just started, from that start on; not when its log is being read already."""
        if self.following(container):
            return
        try:
            state = self._engine.containers.inspect(container).state
        except BerthError:
            return
        since = run_began(state.started_at or "", state.finished_at or "") if state is not None else None
        self.follow(container, name, since=since)

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
