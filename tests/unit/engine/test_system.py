"""What the engine says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.contract.runtime import Abilities
from berth.engine import origin
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.engine.system import SystemService
from berth.storage.database import Database
from berth.wire.system import SystemInfo

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What Docker leaves out too unless there is something to say.
_MAY_BE_MISSING = {"default_address_pools", "discovered_devices",
                   "nri", "containerd"}  # fmt: skip


@pytest.fixture
def system(tmp_path: Path) -> Iterator[SystemService]:
    database = Database(str(tmp_path / "berth.db"))
    yield SystemService(EngineConfig(root=str(tmp_path), labels={"a": "b"}), database, Events(), Abilities())
    database.close()


def test_version_has_all_that_clients_show(system: SystemService) -> None:
    found = system.version("1.55", "1.40")
    assert found.components is not None and found.git_commit and found.go_version and found.build_time and found.arch
    details = found.components[0].details or {}
    assert details["GitCommit"] == found.git_commit and details["GoVersion"].startswith("python3.")
    assert details["BuildTime"].endswith("Z") and (details["MinAPIVersion"], details["Experimental"]) == ("1.40", "false")


def test_info_leaves_nothing_out(system: SystemService) -> None:
    info = system.info({"running": 2, "paused": 1, "exited": 4}, 5)
    assert (info.containers, info.containers_running, info.containers_paused, info.containers_stopped) == (7, 2, 1, 4)
    assert {name for name in SystemInfo.__struct_fields__ if getattr(info, name) is None} == _MAY_BE_MISSING
    assert info.labels == ["a=b"] and info.driver_status is not None and info.driver_status[0][1]


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert origin.head_of(tmp_path) == ""
    (tmp_path / "HEAD").write_text("ref: refs/heads/main\n")
    assert origin.head_of(tmp_path) == ""
    (tmp_path / "packed-refs").write_text(f"# pack-refs\n{_COMMIT} refs/heads/main\n")
    assert origin.head_of(tmp_path) == _COMMIT
    (tmp_path / "refs/heads").mkdir(parents=True)
    (tmp_path / "refs/heads/main").write_text("f" * 40 + "\n")
    assert origin.head_of(tmp_path) == "f" * 40
    (tmp_path / "HEAD").write_text(_COMMIT + "\n")
    assert origin.head_of(tmp_path) == _COMMIT
