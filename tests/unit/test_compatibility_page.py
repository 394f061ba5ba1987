"""docs/compatibility.md is as scripts/compatibility.py makes it of the tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/compatibility.py"


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("compatibility", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "the tests have changed: make docs"
