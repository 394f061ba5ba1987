"""Names of runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.engine import runtimes
from berth.engine.config import EngineConfig
from berth.errors import InvalidArgument


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a crun and nothing else."""
    (tmp_path / "crun").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runtimes, "_SEARCHED", ())
    return tmp_path


def test_known_binaries_and_added_ones(path: Path) -> None:
    config = EngineConfig(runtimes={"mine": "/opt/mine"})
    assert runtimes.available(config) == {"crun": f"{path}/crun", "mine": "/opt/mine"}
    assert runtimes.binary(config, "crun") == f"{path}/crun"
    assert runtimes.binary(config, "mine") == "/opt/mine"


@pytest.mark.parametrize("name", ["", "berth", "io.containerd.runc.v2", "runc"])
def test_dockers_names_are_our_own_where_there_is_no_runc(path: Path, name: str) -> None:
    assert runtimes.binary(EngineConfig(), name) == ""


def test_an_unknown_name_in_dockers_words(path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"^unknown or invalid runtime name: runsc$"):
        runtimes.binary(EngineConfig(), "runsc")
    with pytest.raises(InvalidArgument, match=r'^specified default runtime "other" does not exist'):
        runtimes.check_default(EngineConfig(default_runtime="other"))


@pytest.mark.parametrize("option", ["name", "=/path", "name=", "name=relative", "berth=/bin/true"])
def test_additions_that_make_no_sense(option: str) -> None:
    with pytest.raises(InvalidArgument):
        runtimes.parse_additions([option])


def test_additions() -> None:
    assert runtimes.parse_additions(["a=/b", "runc=/opt/runc"]) == {"a": "/b", "runc": "/opt/runc"}
