"""How `make bench` judges: ratios, bars, the table."""

from __future__ import annotations

import json

import pytest
from bench.result import Bar, Line, Result


@pytest.mark.parametrize(
    ("bar", "ours", "theirs", "ratio", "met"),
    [
        (Bar(15), 10.0, 150.0, 15.0, True),
        (Bar(15), 10.0, 149.0, 14.9, False),
        (Bar(0.4, times=False), 40.0, 100.0, 0.4, True),
        (Bar(0.4, times=False), 41.0, 100.0, 0.41, False),
        (Bar(8, more=True), 40.0, 5.0, 8.0, True),
        (Bar(8, more=True), 5.0, 40.0, 0.125, False),
    ],
)
def test_bars(bar: Bar, ours: float, theirs: float, ratio: float, met: bool) -> None:
    line = Line("1", "what", "ms", ours, "peer", theirs, bar)
    assert line.ratio == pytest.approx(ratio)
    assert line.met is met


def test_a_peer_that_is_not_installed_leaves_the_bar_open() -> None:
    result = Result(30)
    result.compare("1", "what", {"berth": [0.001, 0.003, 0.002]}, "berth", "dockerd", Bar(15))
    (line,) = result.lines
    assert (line.ours, line.theirs, line.ratio, line.met, line.worst) == (2.0, None, None, None, 3.0)
    assert "-" in result.table()


def test_table_and_document_say_the_same() -> None:
    result = Result(3)
    result.compare("2", "docker run", {"berth": [0.010] * 3, "dockerd": [0.100] * 3}, "berth", "dockerd", Bar(8))
    table = result.table()
    assert "docker run" in table and "10.0 x" in table and ">= 8 x" in table and "yes" in table
    assert "for trying, not for the record" in table
    document = json.loads(json.dumps(result.document()))
    (line,) = document["lines"]
    assert (line["row"], line["ratio"], line["met"], line["bar"]) == ("2", pytest.approx(10), True, ">= 8 x")
    assert document["readings"]["docker run"]["dockerd"] == [0.1] * 3
