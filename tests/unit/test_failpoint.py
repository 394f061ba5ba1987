"""Failpoints: off by default, their modes, and names that can be relied upon."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth import failpoint
from support.failpoints import Failpoints, occurrences


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Failpoints]:
    """Failpoints that are on in this very process."""
    found = Failpoints(str(tmp_path))
    monkeypatch.setenv(failpoint.VARIABLE, found.directory)
    assert failpoint.enable() and failpoint.enable()
    yield found
    os.close(failpoint._PLACE.pop())


def test_names_are_unique_and_say_where_they_are() -> None:
    names = occurrences()
    assert len(names) > 100
    assert sorted(set(names)) == sorted(names)
    for name in names:
        assert re.fullmatch(r"[a-z]+\.[a-z]+\.(before|after)(-[a-z]+)+", name), name


def test_without_the_variable_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoint.VARIABLE, raising=False)
    assert not failpoint.enable()
    failpoint.hit("a.b.before-c")
    assert os.listdir(tmp_path) == []


def test_a_hit_is_told_and_an_error_raised(points: Failpoints) -> None:
    failpoint.hit("a.b.before-c")
    points.arm("a.b.before-c", f"error {errno.ENOSPC}")
    with pytest.raises(OSError, match=r"No space left on device \(failpoint a\.b\.before-c\)"):
        failpoint.hit("a.b.before-c")
    failpoint.hit("a.b.after-c")
    assert points.hits() == [("a.b.before-c", os.getpid())] * 2 + [("a.b.after-c", os.getpid())]


def test_only_the_third_time(points: Failpoints) -> None:
    points.arm("a.b.before-c", "error 5 @3")
    failpoint.hit("a.b.before-c")
    failpoint.hit("a.b.before-c")
    with pytest.raises(OSError, match="Input/output error"):
        failpoint.hit("a.b.before-c")
    failpoint.hit("a.b.before-c")


def test_a_held_one_goes_on_when_it_is_released(points: Failpoints) -> None:
    points.arm("a.b.before-c", "hold")
    held = threading.Thread(target=failpoint.hit, args=("a.b.before-c",))
    held.start()
    points.await_hit("a.b.before-c", 5)
    assert held.is_alive()
    points.release("a.b.before-c")
    held.join(5)
    assert not held.is_alive()


def test_kill(points: Failpoints) -> None:
    points.arm("a.b.before-c", "kill")
    code = "from berth import failpoint; failpoint.enable(); failpoint.hit('a.b.before-c'); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (-9, b"")
