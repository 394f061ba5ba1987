"""Coroutine tests, and the stores they work on."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stores import Stores, open_stores


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    if os.geteuid() != 0:
        pytest.skip("layers keep owners and make device nodes: root is needed")
    with open_stores(tmp_path / "root") as made:
        yield made
