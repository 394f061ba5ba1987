"""What the doctor says of an engine and of what its containers are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from berth.doctor.check import Running
from berth.doctor.registry import CHECKS, examine
from berth.errors import Forbidden, Unavailable
from berth.wire.container import ContainerInspectResponse
from berth.wire.doctor import Finding
from support.fake_host import scene


def _container(name: str, host: dict[str, Any] | None = None, **rest: Any) -> ContainerInspectResponse:
    limits = {"Memory": 1 << 29, "PidsLimit": 512}
    document = {"Name": f"/{name}", "State": {"Running": True, "Pid": 42}, "HostConfig": limits | (host or {}), **rest}
    return msgspec.convert(document, ContainerInspectResponse)


def _ports(**bindings: list[tuple[str, str]]) -> dict[str, Any]:
    found = {port.replace("_", "/"): [{"HostIp": a, "HostPort": p} for a, p in where] for port, where in bindings.items()}
    return {"NetworkSettings": {"Ports": found}}


def _mounts(*mounts: tuple[str, bool]) -> dict[str, Any]:
    return {"Mounts": [{"Type": "bind", "Source": s, "Destination": "/inside", "RW": rw} for s, rw in mounts]}


def _find(name: str, top: Path, *containers: ContainerInspectResponse, files: dict[str, str] | None = None) -> list[Finding]:
    check = next(check for check in CHECKS if check.name == name)
    return examine(check, scene(top, files, engine=Running(info={}, containers=containers)))


def _severities(found: list[Finding]) -> list[str]:
    return [finding.severity for finding in found]


def test_a_default_container_exposes_nothing(tmp_path: Path) -> None:
    files = {"/proc/42/uid_map": "         0 1879048192      65536"}
    for check in CHECKS:
        if check.section == "exposed":
            assert {*_severities(_find(check.name, tmp_path, _container("web"), files=files))} <= {"ok"}, check.name


@pytest.mark.parametrize(
    ("port", "address", "severity"),
    [
        ("80_tcp", "0.0.0.0", "note"),
        ("80_tcp", "::", "note"),
        ("5432_tcp", "0.0.0.0", "warning"),
        ("6379_tcp", "::", "warning"),
        ("5432_tcp", "192.0.2.1", "note"),
        ("5432_tcp", "127.0.0.1", "ok"),
        ("5432_tcp", "::1", "ok"),
    ],
)
def test_published_ports(port: str, address: str, severity: str, tmp_path: Path) -> None:
    (found,) = _find("exposed.ports", tmp_path, _container("db", **_ports(**{port: [(address, "8080")]})))
    assert found.severity == severity
    assert ("[" in found.summary.split("at ")[-1]) == (":" in address) or severity == "ok"
    if severity != "ok":
        assert f"-p 127.0.0.1:8080:{port.split('_', maxsplit=1)[0]}" in found.change


def test_a_stopped_container_exposes_nothing(tmp_path: Path) -> None:
    stopped = _container("old", {"Privileged": True}, State={"Running": False})
    assert _severities(_find("exposed.privileged", tmp_path, stopped)) == ["ok"]


@pytest.mark.parametrize(
    ("check", "host", "severity", "words"),
    [
        ("exposed.privileged", {"Privileged": True}, "problem", "box is privileged"),
        ("exposed.namespaces", {"PidMode": "host"}, "warning", "host's pid"),
        ("exposed.namespaces", {"NetworkMode": "host"}, "note", "host's network"),
        ("exposed.namespaces", {"IpcMode": "host", "UTSMode": "host"}, "note", "host's ipc, uts"),
        ("exposed.user-namespaces", {"UsernsMode": "host"}, "warning", "box"),
        ("exposed.user-namespaces", {"CapAdd": ["SYS_TIME"]}, "warning", "box"),
        ("exposed.capabilities", {"CapAdd": ["CAP_SYS_ADMIN"]}, "note", "SYS_ADMIN (mounts"),
        ("exposed.capabilities", {"CapAdd": ["SYS_MODULE"]}, "problem", "SYS_MODULE"),
        ("exposed.confinement", {"SecurityOpt": ["seccomp=unconfined"]}, "warning", "seccomp=unconfined"),
        ("exposed.confinement", {"SecurityOpt": ["systempaths=unconfined"]}, "warning", "systempaths=unconfined"),
        ("exposed.confinement", {"Devices": [{"PathOnHost": "/dev/sda"}]}, "note", "/dev/sda"),
        ("exposed.limits", {"Memory": 0}, "note", "any amount of memory: box"),
        ("exposed.limits", {"PidsLimit": -1}, "note", "any amount of processes: box"),
    ],
)
def test_what_a_container_was_given(check: str, host: dict[str, Any], severity: str, words: str, tmp_path: Path) -> None:
    found = [f for f in _find(check, tmp_path, _container("box", host)) if f.severity != "ok"]
    assert [(f.severity, words in f.summary) for f in found] == [(severity, True)], found
    assert found[0].change or check == "exposed.confinement"


def test_walls_that_the_kernel_does_not_have_cannot_be_taken_away(tmp_path: Path) -> None:
    options = ["apparmor=unconfined", "label=disable", "label:disable", "no-new-privileges", "seccomp=/profile.json"]
    box = _container("box", {"SecurityOpt": options})
    assert _find("exposed.confinement", tmp_path, box) == []
    there = {"/sys/module/apparmor/parameters/enabled": "Y", "/sys/fs/selinux/enforce": "0"}
    (found,) = _find("exposed.confinement", tmp_path, box, files=there)
    assert found.facts["options"] == ["apparmor=unconfined", "label=disable", "label:disable"]


def test_the_id_map_of_the_process_decides_whose_root_it_is(tmp_path: Path) -> None:
    joined = _container("box", {"CapAdd": ["SYS_ADMIN"]})
    files = {"/proc/42/uid_map": "         0          0 4294967295"}
    assert _severities(_find("exposed.user-namespaces", tmp_path, joined, files=files)) == ["warning"]
    assert _severities(_find("exposed.capabilities", tmp_path, joined, files=files)) == ["problem"]


@pytest.mark.parametrize(
    ("source", "writable", "severity"),
    [
        ("/var/run/docker.sock", True, "problem"),
        ("/run/berth/berth.sock", False, "problem"),
        ("/run", True, "problem"),
        ("/", True, "problem"),
        ("/", False, "warning"),
        ("/etc", True, "warning"),
        ("/usr/share/zoneinfo", True, "warning"),
    ],
)
def test_parts_of_the_host_in_a_container(source: str, writable: bool, severity: str, tmp_path: Path) -> None:
    found = _find("exposed.mounts", tmp_path, _container("box", **_mounts((source, writable))))
    assert _severities(found) == [severity] and found[0].change


@pytest.mark.parametrize(("source", "writable"), [("/srv/data", True), ("/etc/hosts", False), ("/home/ann/src", True)])
def test_mounts_that_are_nobodys_business(source: str, writable: bool, tmp_path: Path) -> None:
    assert _find("exposed.mounts", tmp_path, _container("box", **_mounts((source, writable)))) == []


def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    check = next(check for check in CHECKS if check.name == "engine.running")
    quiet = scene(tmp_path)
    object.__setattr__(quiet, "refusal", Unavailable("nobody there"))
    (found,) = examine(check, quiet)
    assert found.severity == "note" and "berth engine start" in found.change
    object.__setattr__(quiet, "named", True)
    (found,) = examine(check, quiet)
    assert found.severity == "problem" and "nobody there" in found.why
    object.__setattr__(quiet, "refusal", Forbidden("no right"))
    (found,) = examine(check, quiet)
    assert found.severity == "note" and found.change == "sudo berth doctor"


@pytest.mark.parametrize(("mode", "severity"), [(0o600, "ok"), (0o660, "ok"), (0o666, "problem")])
def test_who_may_use_the_socket(mode: int, severity: str, tmp_path: Path) -> None:
    machine = scene(tmp_path, {"/run/berth/berth.sock": ""})
    (tmp_path / "run/berth/berth.sock").chmod(mode)
    (found,) = examine(next(c for c in CHECKS if c.name == "engine.socket"), machine)
    assert found.severity == severity and found.facts["mode"] == f"{mode:04o}"


def test_registries_without_tls(tmp_path: Path) -> None:
    config = {"RegistryConfig": {"IndexConfigs": {"docker.io": {"Secure": True}, "reg.test:5000": {"Secure": False}}}}
    machine = scene(tmp_path, engine=Running(info=config))
    (found,) = examine(next(c for c in CHECKS if c.name == "engine.settings"), machine)
    assert found.severity == "warning" and "reg.test:5000" in found.summary


def test_memory_is_that_of_the_engines_own_processes(tmp_path: Path) -> None:
    smaps = "00400000-7ffc rollup\nPss:    1024 kB\nPss_Dirty:  10 kB"
    files = {f"/proc/{pid}/smaps_rollup": smaps for pid in (10, 11, 12, 13)}
    files |= {
        "/proc/10/cmdline": "python3\0/usr/bin/berthd\0",
        "/proc/11/cmdline": "python3\0-c\0launcher\0/run/berth\0/var/lib/berth\0",
        "/proc/12/cmdline": "sleep\0100\0",
        "/proc/13/cmdline": "python3\0-c\0launcher\0/run/berth-0011aabb\0",
    }
    machine = scene(tmp_path, files, engine=Running(info={}, pid=10))
    (found,) = examine(next(c for c in CHECKS if c.name == "engine.memory"), machine)
    assert found.facts == {"processes": 2, "pss_bytes": 2 << 20}
