"""Log lines with their names, and where a run's log begins."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import cast

from berth.client.engine import Engine
from berth.compose.logs import Follower, LogOptions, LogPrinter, short_name


class Containers:
    """Of an engine: what is asked of a container's log, whose last line is given."""

    def __init__(self, last: bytes = b"") -> None:
        self._last = last
        self.asked: list[tuple[str | None, str]] = []

    def inspect_raw(self, _name: str) -> dict[str, object]:
        return {}

    def logs(
        self, _name: str, *, tail: str, since: str | None = None, follow: bool = False, **_: object
    ) -> list[tuple[int, bytes]]:
        if not follow:
            return [(1, self._last)] if self._last else []
        self.asked.append((since, tail))
        return []


def followed(containers: Containers, options: LogOptions) -> Follower:
    engine = cast(Engine, SimpleNamespace(containers=containers))
    return Follower(engine, "demo", options, LogPrinter(io.StringIO(), ()))


def start(follower: Follower) -> None:
    follower.follow_start("id", "a-1")
    follower.join(10)


def test_a_first_run_is_shown_from_its_first_line() -> None:
    containers = Containers()
    follower = followed(containers, LogOptions(follow=True))
    follower.remember("id")
    start(follower)
    assert containers.asked == [(None, "all")]


def test_a_later_run_is_shown_from_the_line_after_the_last_one_before() -> None:
    containers = Containers(b"2026-01-01T00:00:09.999999999Z text")
    follower = followed(containers, LogOptions(follow=True, tail="1"))
    follower.remember("id")
    start(follower)
    follower.ended("id", 1767225611_012_345_678)
    start(follower)
    assert containers.asked == [("1767225610.000000000", "all"), ("1767225611.012345678", "all")]


def test_names_are_as_wide_as_the_widest() -> None:
    out = io.StringIO()
    printer = LogPrinter(out, ("a-1", "longer-1"))
    printer.line("a-1", "x")
    printer.line("longer-1", "y")
    assert out.getvalue() == "a-1       | x\nlonger-1  | y\n"


def test_short_names() -> None:
    assert [short_name("demo", name) for name in ("demo-web-1", "demo_web_1", "own")] == ["web-1", "web_1", "own"]
