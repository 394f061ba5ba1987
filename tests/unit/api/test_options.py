"""The options of berthd that are more than a string."""

from __future__ import annotations

import pytest

from berth.api.options import parse_options
from berth.engine.config import Ulimit


def test_ulimits_and_the_parent_of_control_groups() -> None:
    options = ["--default-ulimit", "nofile=10:20", "--default-ulimit", "core=-1", "--default-ulimit", "nproc=5"]
    config, _ = parse_options([*options, "--root", "/data", "--cgroup-parent", "/groups/web/"])
    assert config.default_ulimits == (Ulimit("nofile", 10, 20), Ulimit("core", -1, -1), Ulimit("nproc", 5, 5))
    assert config.cgroup == f"groups/web/{config.name}"
    assert parse_options(["--root", "/data"])[0].cgroup == config.name


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--default-ulimit=nofile", "give it as name=soft or name=soft:hard"),
        ("--default-ulimit=nofile=x", "give it as name=soft or name=soft:hard"),
        ("--default-ulimit=nothing=5", "there is no ulimit nothing"),
        ("--default-ulimit=nofile=20:10", "the soft limit must be less than or equal to the hard limit"),
        ("--default-ulimit=nofile=-1:10", "the soft limit must be less than or equal to the hard limit"),
        ("--cgroup-parent=/a/../../b", "without . and .."),
    ],
)
def test_what_makes_no_sense_is_refused(option: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options([option])
    assert words in capsys.readouterr().err
