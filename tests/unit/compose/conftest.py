"""Fixtures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def _sibling(name: str) -> Any:
    # Tests are imported by path, without packages: what they share is loaded once, under a name of its own.
    full = f"compose_test_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """A directory to load projects from."""
    return _sibling("loading").Files(tmp_path)
