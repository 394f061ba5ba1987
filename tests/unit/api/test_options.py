"""The options of berthd that are more than a string."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from berth.api.options import parse_options
from berth.engine.config import Ulimit
from berth.errors import InvalidArgument


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


def test_a_file_comes_before_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(
        """{"data-root": "/data", "hosts": ["tcp://127.0.0.1:1", "unix:///a"], "registry-mirrors": ["https://m", "r.example=https://n"],
        "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 20, "Soft": 10}}, "no-new-privileges": true, "tls": false,
        "pool-size": 3, "log-level": "debug", "ipv6": true, "default-address-pools": [{"base": "10.9.0.0/16", "size": 24}]}"""
    )
    config, level = parse_options(["--config-file", str(file), "--pool-size", "0", "-H", "unix:///b"])
    assert (config.root, config.pool_size, config.no_new_privileges, level) == ("/data", 0, True, "debug")
    assert config.hosts == ("tcp://127.0.0.1:1", "unix:///a", "unix:///b")
    assert config.registry_mirrors == ("https://m", "r.example=https://n")
    assert config.default_ulimits == (Ulimit("nofile", 10, 20),)
    assert config.ipv6 and config.address_pools == (("10.9.0.0/16", 24),)


@pytest.mark.parametrize("pool", ["10.0.0.0/8", "base=10.0.0.1/8,size=24", "base=10.0.0.0/16,size=8", "base=fd00::/64,size=x"])
def test_address_pools_that_make_no_sense_are_refused(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options([f"--default-address-pool={pool}"])
    assert "invalid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must hold an object"),
        ("{", "cannot be read"),
        ('{"storage-driver": "zfs"}', "there is no option 'storage-driver'"),
        ('{"config-file": "x"}', "there is no option 'config-file'"),
        ('{"default-ulimits": {"nofile": {"Soft": 1}}}', "the value of 'default-ulimits' cannot be used"),
        ('{"hosts": null}', "the value of 'hosts' cannot be used"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=re.escape(words)):
        parse_options(["--config-file", str(file)])
    with pytest.raises(InvalidArgument, match="there is no such file"):
        parse_options(["--config-file", f"{tmp_path}/no"])


@pytest.mark.parametrize("mirror", ["ftp://x", "a/b=https://x", "https://x/path", "=https://x", "host="])
def test_mirrors_that_make_no_sense_are_refused(mirror: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options([f"--registry-mirror={mirror}"])
    assert "invalid registry mirror" in capsys.readouterr().err


def test_the_size_of_containers_has_dockerds_name_too(tmp_path: Path) -> None:
    assert parse_options(["--root", "/data"])[0].storage_size == 0
    assert parse_options(["--root", "/data", "--storage-opt", "size=10g"])[0].storage_size == 10 << 30
    file = tmp_path / "daemon.json"
    file.write_text('{"data-root": "/data", "storage-opts": ["overlay2.size=1.5g"]}')
    assert parse_options(["--config-file", str(file)])[0].storage_size == 3 << 29
    for option, words in (("overlay2.inodes=5", "unknown option overlay2.inodes"), ("size=much", "invalid size: 'much'")):
        with pytest.raises(InvalidArgument, match=f"--storage-opt {option}: {words}"):
            parse_options(["--storage-opt", option])
