"""Tables, rows and bars."""

from __future__ import annotations

import pytest

from berth.cli.progress import bar, fitted
from berth.cli.row import Row, json_text
from berth.cli.table import aligned, print_rows

ROW = {"ID": "x", "Names": "a<b", "Label": lambda name: {"com.example.my-key": "v"}.get(name, "")}
COLUMNS = [("ID", "CONTAINER ID"), ("Names", "NAMES")]


def test_columns_are_ten_wide_at_least() -> None:
    assert aligned([["TAG", "LAST"], ["latest", "x"]]) == ["TAG       LAST", "latest    x"]
    assert aligned([["A" * 9, "B"]]) == ["A" * 9 + "   B"]


def test_rows_as_json_are_sorted_and_escaped_and_without_methods() -> None:
    assert json_text(Row({"b": "<&>", "a": None, "Label": str})) == '{"a":null,"b":"\\u003c\\u0026\\u003e"}'
    assert json_text({"b": "<", "a": 1}) == '{"b":"<","a":1}'


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("json", '{"ID":"x","Names":"a\\u003cb"}\n'),
        ("{{json .}}", '{"ID":"x","Names":"a\\u003cb"}\n'),
        ('{{.Label "com.example.my-key"}}|{{.Label "no"}}|', "v||\n"),
        ('table {{.ID}}\\t{{.Label "com.example.my-key"}}', "CONTAINER ID   my key\nx              v\n"),
        (None, "CONTAINER ID   NAMES\nx              a<b\n"),
    ],
)
def test_formats(form: str | None, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([ROW], COLUMNS, form=form)
    assert capsys.readouterr().out == expected


def test_bars() -> None:
    assert bar(0, 0) == "" and bar(5, 0) == "5B"
    assert bar(50, 100, 10) == "[=====>    ]  50B/100B"
    assert bar(200, 100, 10) == "[==========]  100B/100B"


@pytest.mark.parametrize("columns", [20, 39, 60, 79, 200])
def test_lines_fit_into_the_terminal(columns: int) -> None:
    for label in ("a1b2c3: Downloading", "Bootstrapping debian:trixie from trixie", "x" * 300):
        line = fitted(label, 1_234_567, 987_654_321, columns)
        assert 0 < len(line) <= columns
    assert fitted("a: Pulling", 5_000_000, 10_000_000, 39).endswith("5MB/10MB")
