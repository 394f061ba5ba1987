"""What init does before its mounts have come."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from berth.runtime import ahead, init
from berth.runtime.message import pair


@pytest.fixture
def state() -> Iterator[init.Init]:
    ours, theirs = pair()
    yield init.Init(ours, None, [])
    ours.close()
    theirs.close()


def refuse(_state: init.Init, **_arguments: Any) -> None:
    raise OSError(errno.ENODEV, "no such device", "eth0")


def test_a_stage_takes_its_own_step_only(state: init.Init, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[dict[str, Any]] = []
    monkeypatch.setitem(init.STEPS, "identity", lambda _state, **arguments: done.append(arguments))
    steps: list[init.Step] = [("identity", {"user": True}), ("root", {})]
    assert ahead.run("network", steps, state) is None and not done
    assert ahead.run("identity", steps, state) is None
    assert done == [{"user": True}] and steps == [("root", {})]


def test_a_failure_is_kept_for_later(state: init.Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(init.STEPS, "network", refuse)
    assert ahead.run("network", [("network", {}), ("root", {})], state) == ["network", errno.ENODEV, "eth0"]


def test_filesystems_are_made_once_for_each_place(state: init.Init, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(kind: str, name: str, options: list[Any], attributes: int) -> int:
        if kind == "sysfs":
            raise OSError(errno.EPERM, "not permitted")
        made.append(f"{kind} {name} {options} {attributes}")
        return 100 + len(made)

    monkeypatch.setattr(ahead, "make_filesystem", make)
    one = {"kind": "proc", "name": "proc", "options": [], "attributes": 14}
    steps: list[init.Step] = [
        ("root", {"source": 0}),
        ("mount", {"target": "/proc", **one}),
        ("mount", {"target": "/proc", **one}),
        ("mount", {"target": "/sys", **one, "kind": "sysfs"}),
        ("mount", {"target": "/dev/shm", **one, "kind": "tmpfs"}),
    ]
    assert ahead.run("network", steps, state) is None
    # One that fails is left to its own step, with all that follow.
    assert state.made == {"/proc": 101} and made == ["proc proc [] 14"]
    assert len(steps) == 5
