"""Fixtures for all tests. The engine is one per session; every test that uses it is checked for what it leaves behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from support import leak
from support.engine import EngineProcess, engine_with

# A machine that is busy with other things makes examples slow, not wrong. They are the same in every run, but for a search on
# purpose: BERTH_FUZZ=1000 takes that many of its own for each property.
FUZZ = int(os.environ.get("BERTH_FUZZ", "0"))
settings.register_profile("berth", deadline=None, derandomize=not FUZZ, max_examples=FUZZ or 100)
settings.load_profile("berth")

# A run in the background of a shell has SIGINT ignored, and so would have every program under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


class _FailuresAtOnce:
    """Tells of a failure when it happens: a guest can end before the summary that pytest has them in."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{report.nodeid} failed ({report.when}):\n{report.longreprtext}")


def pytest_configure(config: pytest.Config) -> None:
    """Once, before the tests are collected."""
    if os.environ.get("BERTH_GUEST"):
        config.pluginmanager.register(_FailuresAtOnce(config))


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[EngineProcess]:
    """The engine of all tests that do not end it."""
    with engine_with() as engine:
        yield engine


@pytest.fixture
def own() -> Iterator[EngineProcess]:
    """An engine that the test may stop, kill and damage."""
    with engine_with() as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: EngineProcess) -> Iterator[EngineProcess]:
    """The session's engine; after the test its containers are removed, and nothing may be left."""
    # The default bridge comes with the first container, the resolver with the first network: compare with a warm engine.
    if not getattr(shared_engine, "warm", False):
        shared_engine.ok("run", "--rm", "busybox", "true")
        shared_engine.ok("network", "create", "warm")
        shared_engine.ok("run", "--rm", "--network", "warm", "busybox", "true")
        shared_engine.ok("network", "rm", "warm")
        shared_engine.warm = True  # type: ignore[attr-defined]
    with leak.nothing_left(shared_engine.snapshot):
        yield shared_engine
        left = shared_engine.ok("ps", "-aq").split()
        if left:
            shared_engine.ok("rm", "-fv", *left)
