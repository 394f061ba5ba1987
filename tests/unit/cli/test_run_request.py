"""From the flags of `run` to the body of POST /containers/create."""

from __future__ import annotations

from typing import Any

import click
import pytest

from berth.cli.run.flags import FLAGS, add_flags
from berth.cli.run.mount import absolute_bind, parse_mount
from berth.cli.run.port import parse_expose, parse_publish
from berth.cli.run.request import create_body, parse_device, parse_restart, parse_ulimit
from berth.errors import InvalidArgument


def options(*arguments: str) -> dict[str, Any]:
    """What click makes of a command line."""
    command = add_flags(click.Command("run", callback=lambda **values: values))
    found: dict[str, Any] = command.main(list(arguments), standalone_mode=False)
    return found


def body(*arguments: str) -> dict[str, Any]:
    return create_body(options(*arguments), "image", ["cmd"])


def test_the_plain_body() -> None:
    made = body()
    assert (made["Image"], made["Cmd"], made["Tty"], made["AttachStdout"]) == ("image", ["cmd"], False, True)
    assert made["HostConfig"]["NetworkMode"] == "default"
    assert made["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}


def test_limits() -> None:
    host = body("-m", "64m", "--cpus", "1.5", "--memory-swap", "-1", "--pids-limit", "9", "--device-read-bps", "/dev/a:1mb")[
        "HostConfig"
    ]
    assert (host["Memory"], host["NanoCpus"], host["MemorySwap"], host["PidsLimit"]) == (64 << 20, 1_500_000_000, -1, 9)
    assert host["BlkioDeviceReadBps"] == [{"Path": "/dev/a", "Rate": 1 << 20}]


def test_volumes_binds_and_mounts() -> None:
    made = body(
        "-v", "/anonymous", "-v", "data:/data:ro", "--mount", "type=tmpfs,target=/t,tmpfs-size=1m", "--tmpfs", "/run:size=1k"
    )
    assert made["Volumes"] == {"/anonymous": {}}
    assert made["HostConfig"]["Binds"] == ["data:/data:ro"]
    assert made["HostConfig"]["Mounts"] == [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20}}]
    assert made["HostConfig"]["Tmpfs"] == {"/run": "size=1k"}


def test_networks() -> None:
    made = body("--network", "name=a,alias=x,ip=10.0.0.2", "--network", "b", "--network-alias", "y")
    assert made["HostConfig"]["NetworkMode"] == "a"
    endpoints = made["NetworkingConfig"]["EndpointsConfig"]
    assert endpoints["a"] == {"Aliases": ["x", "y"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}
    assert endpoints["b"] == {}


def test_environment_takes_values_from_the_caller(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HAVE", "it")
    monkeypatch.delenv("LACK", raising=False)
    (tmp_path / "env").write_text("# comment\nA=1\n\nHAVE\n")
    assert body("--env-file", str(tmp_path / "env"), "-e", "B=2", "-e", "LACK")["Env"] == ["A=1", "HAVE=it", "B=2"]


def test_health_flags() -> None:
    assert body("--health-cmd", "true", "--health-interval", "1m30s")["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"],
        "Interval": 90 * 10**9,
    }
    assert body("--no-healthcheck")["Healthcheck"] == {"Test": ["NONE"]}
    with pytest.raises(InvalidArgument, match="conflicts"):
        body("--no-healthcheck", "--health-cmd", "true")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", {"80/tcp": [("", "")]}),
        ("8080:80", {"80/tcp": [("", "8080")]}),
        ("127.0.0.1:8080:80/udp", {"80/udp": [("127.0.0.1", "8080")]}),
        ("127.0.0.1::80", {"80/tcp": [("127.0.0.1", "")]}),
        ("[::1]:80:80", {"80/tcp": [("::1", "80")]}),
        ("8000-8001:80-81", {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]}),
        ("8000-8010:80", {"80/tcp": [("", "8000-8010")]}),
        ("target=80,published=8080,protocol=udp", {"80/udp": [("", "8080")]}),
        ("0:80", {"80/tcp": [("", "0")]}),
    ],
)
def test_publish(text: str, expected: dict[str, list[tuple[str, str]]]) -> None:
    found = {key: [(b.host_ip, b.host_port) for b in value or []] for key, value in parse_publish(text).items()}
    assert found == expected


@pytest.mark.parametrize("text", ["x", "0", "70000", "1:2-3", "80/icmp", "[::1:80"])
def test_wrong_ports_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_publish(text)


def test_small_parsers() -> None:
    assert parse_expose("80-81/udp") == ["80/udp", "81/udp"]
    assert parse_ulimit("nofile=1:2").hard == 2
    assert parse_device("/dev/a:/dev/b:r").path_in_container == "/dev/b"
    assert parse_device("/dev/a:rw").cgroup_permissions == "rw"
    assert parse_restart("on-failure:3").maximum_retry_count == 3
    with pytest.raises(InvalidArgument, match="invalid restart policy"):
        parse_restart("sometimes")
    assert absolute_bind("name:/x") == "name:/x"
    assert absolute_bind("./a:/x").startswith("/")
    with pytest.raises(InvalidArgument, match="target is required"):
        parse_mount("type=bind,source=/a")


def test_every_flag_has_a_help_text_and_a_name_of_its_own() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))
    assert all(flag.help for flag in FLAGS)
