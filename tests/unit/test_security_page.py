"""docs/security.md: every row of the list is there, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs/security.md").read_text()
SHORT = {
    "default": "attack/test_default_container.py",
    "runtime": "attack/test_runtime_isolation.py",
    "escape": "attack/test_archive_escape.py",
    "names": "attack/test_archive_names.py",
    "race": "attack/test_archive_race.py",
    "build": "attack/test_build_escape.py",
    "net": "attack/test_network_exposure.py",
    "requests": "attack/test_container_requests.py",
    "races": "attack/test_races.py",
    "reach": "attack/test_reach.py",
    "framing": "attack/test_http_framing.py",
    "confined": "attack/test_expansion_confined.py",
}
ROWS = 72


def test_every_row_has_its_line() -> None:
    numbers = [number for line in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for number in line.split(", ")]
    assert sorted(map(int, numbers)) == list(range(1, ROWS + 1))
    assert "not yet" not in PAGE


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"([\w/.]+)::(test_\w+)", PAGE)
    assert len(named) > 80
    for place, name in named:
        path = TESTS / SHORT.get(place, place)
        assert re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE), f"{path.name} has no {name}"


def test_every_test_of_a_row_is_named() -> None:
    """A test whose name says that it is about a row is in the row's line, or another test of its file is."""
    for path in sorted((TESTS / "attack").glob("test_*.py")):
        for row in set(re.findall(r"^(?:async )?def test_rows?_(\d+)_", path.read_text(), re.MULTILINE)):
            line = next(line for line in PAGE.splitlines() if re.match(rf"\| (\d+, )*{row}(, \d+)* \|", line))
            shorts = [f"{short}::" for short, of in SHORT.items() if of.endswith(path.name)]
            assert any(name in line for name in (path.name, *shorts)), (row, path.name)
