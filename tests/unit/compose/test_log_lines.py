"""Log lines with their names, and where a run's log begins."""

from __future__ import annotations

import io

import pytest

from berth.compose.logs import LogPrinter, run_began, short_name

ZERO = "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("started", "finished", "since"),
    [
        ("2026-01-01T00:00:10.5Z", ZERO, None),
        ("2026-01-01T00:00:10.5Z", "2026-01-01T00:00:09.25Z", 1767225609.25),
        ("2026-01-01T00:00:10.123456789Z", "2026-01-01T00:00:11Z", 1767225609.623456789),
        (ZERO, ZERO, None),
    ],
)
def test_where_a_run_begins(started: str, finished: str, since: float | None) -> None:
    assert run_began(started, finished) == pytest.approx(since) if since is not None else run_began(started, finished) is None


def test_names_are_as_wide_as_the_widest() -> None:
    out = io.StringIO()
    printer = LogPrinter(out, ("a-1", "longer-1"))
    printer.line("a-1", "x")
    printer.line("longer-1", "y")
    assert out.getvalue() == "a-1       | x\nlonger-1  | y\n"


def test_short_names() -> None:
    assert [short_name("demo", name) for name in ("demo-web-1", "demo_web_1", "own")] == ["web-1", "web_1", "own"]
