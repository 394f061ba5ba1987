"""The warm pool: containers that go on where a slot has got to, and what becomes of slots that die."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.client.containers import CreateBody
from berth.wire.container import HostConfig
from support import leak
from support.control_group import group_of, pure_v2
from support.engine import EngineProcess

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess("--trace", str(tmp_path / "trace"))
    with leak.nothing_left(engine.snapshot):
        engine.start()
        engine.add_busybox()
        engine.await_slots()
        yield engine
        engine.shut_down()


def traced(engine: EngineProcess, tmp_path: Path, id: str) -> dict[str, object]:
    """What the trace says of the last launch of a container."""
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    return [line for line in lines if line.get("launch") == id][-1]


def created(engine: EngineProcess, *options: str, command: tuple[str, ...] = ("sleep", "1000")) -> str:
    return engine.ok("create", *options, "busybox", *command)


def ids(engine: EngineProcess) -> set[str]:
    return {entry for entry in engine.slots() if len(entry) == 64}


def shim_of(engine: EngineProcess, slot: str) -> tuple[int, int, int]:
    """Pids of a slot's shim, birth and init."""
    procs = next(Path("/sys/fs/cgroup").glob(f"**/{engine.config.name}/{slot}/cgroup.procs")).read_text().split()
    init = int(procs[0])
    shim = int(Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])
    (birth,) = {int(pid) for pid in Path(f"/proc/{shim}/task/{shim}/children").read_text().split()} - {init}
    return shim, birth, init


def test_a_container_goes_on_from_a_slot(engine: EngineProcess, tmp_path: Path) -> None:
    slots = ids(engine)
    id = created(engine, "-p", "0:80", "-v", "/data", "-m", "64m", "--hostname", "warm", "-e", "A=b")
    assert id in slots
    engine.ok("start", id)
    line = traced(engine, tmp_path, id)
    assert line["slot"] is True and line["ahead"] and 0 < int(str(line["launch_us"])) <= int(str(line["total_us"]))
    pid = int(engine.ok("inspect", "-f", "{{.State.Pid}}", id))
    assert f"/{engine.config.name}/{id}" in Path(f"/proc/{pid}/cgroup").read_text()
    assert Path(f"/proc/{pid}/uid_map").read_text().split()[::2] == ["0", "65536"]
    said = engine.ok("exec", id, "sh", "-c", "hostname; echo $A; cat /proc/1/comm; ls /dev /sys/firmware; touch /data/x")
    assert said.split("\n")[:3] == ["warm", "b", "sleep"]
    assert engine.docker("exec", id, "sh", "-c", "echo x > /proc/sysrq-trigger").returncode != 0
    mounts = engine.ok("exec", id, "cat", "/proc/self/mountinfo")
    assert "/sys/fs/cgroup" in mounts and str(engine.root) not in mounts.replace(f"{engine.root}/volumes", "").replace(
        f"{engine.root}/containers/{id}/", ""
    )
    engine.ok("rm", "-f", id)


def test_what_a_slot_does_not_fit_starts_without(engine: EngineProcess, tmp_path: Path) -> None:
    for option in ("--shm-size=1m", "--device=/dev/zero:/dev/nothing", "--security-opt=seccomp=unconfined", "--user=70000"):
        id = created(engine, option)
        engine.ok("start", id)
        assert traced(engine, tmp_path, id)["slot"] is False, option
        engine.ok("rm", "-f", id)
        engine.await_slots()
    for option in ("--privileged", "--network=host", "--userns=host", "--pid=host"):
        slots = ids(engine)
        id = created(engine, option)
        assert id not in slots, option
        engine.ok("rm", id)


def test_slots_take_the_shape_of_what_is_launched(engine: EngineProcess, tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        id = created(engine, "--shm-size=1m")
        engine.ok("start", id)
        found.append(traced(engine, tmp_path, id)["slot"])
        assert engine.ok("exec", id, "df", "-k", "/dev/shm").split()[8] == "1024"
        engine.ok("rm", "-f", id)
        engine.await_slots()
    assert found == [False, False, True]


def test_a_container_that_is_not_started_gives_its_slot_back(engine: EngineProcess) -> None:
    id = created(engine)
    engine.ok("rm", id)
    engine.await_slots()
    assert id not in ids(engine)
    assert engine.docker("create", "--name", "../x", "busybox").returncode != 0
    engine.await_slots()


@pytest.mark.parametrize("which", [0, 1, 2], ids=["shim", "birth", "init"])
def test_a_killed_slot_is_replaced_and_not_missed(engine: EngineProcess, tmp_path: Path, which: int) -> None:
    """One that waits, and one that a container has already been made for."""
    id = created(engine)
    engine.await_slots()
    waiting = (ids(engine) - {id}).pop()
    for slot in waiting, id:
        os.kill(shim_of(engine, slot)[which], signal.SIGKILL)
    engine.ok("start", id)
    assert engine.ok("exec", id, "echo", "hi") == "hi"
    engine.ok("rm", "-f", id)
    engine.await_slots()
    assert waiting not in ids(engine)


def test_slots_end_with_their_engine(engine: EngineProcess) -> None:
    id = created(engine)
    engine.await_slots()
    slots = ids(engine) | {id}
    engine.kill()
    deadline = time.monotonic() + 20
    while left := slots & {name.rpartition("/")[2] for name in leak.control_groups(engine.config.name)}:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    engine.start()
    engine.ok("start", id)
    assert engine.ok("exec", id, "echo", "hi") == "hi"
    engine.ok("rm", "-f", id)
    engine.await_slots()


def test_slots_outlive_the_launcher(engine: EngineProcess, tmp_path: Path) -> None:
    assert engine.process is not None
    slots = ids(engine)
    launchers = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children").read_text().split()
    os.kill(int(launchers[0]), signal.SIGKILL)
    id = created(engine)
    engine.ok("start", id)
    assert id in slots and traced(engine, tmp_path, id)["slot"] is True
    engine.ok("rm", "-f", id)
    engine.await_slots()


def memory_limit(engine: EngineProcess, id: str) -> int:
    name = "memory.max" if pure_v2() else "memory.limit_in_bytes"
    return int(Path(group_of(int(engine.ok("inspect", "-f", "{{.State.Pid}}", id)), "memory"), name).read_text())


def ahead_of_start(line: dict[str, object]) -> list[str]:
    """The phases of a launch that were over when the request came."""
    marks = line.get("ahead", [])
    assert isinstance(marks, list)
    return [name for name, _ in marks]


def test_a_slot_begins_with_a_container_that_was_created(engine: EngineProcess, tmp_path: Path) -> None:
    id = created(engine, "-m", "64m", "--hostname", "warm", "--tmpfs", "/scratch", "--add-host", "other:192.0.2.9")
    time.sleep(0.3)
    engine.ok("start", id)
    line = traced(engine, tmp_path, id)
    assert line["slot"] is True and {"primed", "init:pivot", "init:bound"} <= set(ahead_of_start(line))
    script = "hostname; grep -c 192.0.2.9 /etc/hosts; grep CapBnd /proc/1/status; df /scratch | tail -1"
    said = engine.ok("exec", id, "sh", "-c", script)
    assert said.split("\n")[:3] == ["warm", "1", "CapBnd:\t00000000a80425fb"] and "tmpfs" in said
    address = engine.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", id)
    assert address in engine.ok("exec", id, "ip", "address", "show", "eth0")
    assert engine.ok("exec", id, "ip", "route").startswith("default via")
    assert memory_limit(engine, id) == 64 << 20
    engine.ok("rm", "-f", id)
    engine.await_slots()


@pytest.mark.parametrize("change", ["update", "cp", "connect"])
def test_what_changes_between_creation_and_start_counts(engine: EngineProcess, tmp_path: Path, change: str) -> None:
    (tmp_path / "file").write_text("hello")
    id = created(engine, "-m", "64m")
    time.sleep(0.3)
    if change == "update":
        engine.ok("update", "-m", "32m", "--memory-swap", "32m", id)
    elif change == "cp":
        engine.ok("cp", str(tmp_path / "file"), f"{id}:/file")
    else:
        engine.ok("network", "create", "second")
        engine.ok("network", "connect", "second", id)
    engine.ok("start", id)
    assert traced(engine, tmp_path, id)["slot"] is False
    if change == "update":
        assert memory_limit(engine, id) == 32 << 20
    elif change == "cp":
        assert engine.ok("exec", id, "cat", "/file") == "hello"
    else:
        assert "eth1" in engine.ok("exec", id, "ip", "link")
    engine.ok("rm", "-f", id)
    if change == "connect":
        engine.ok("network", "rm", "second")
    engine.await_slots()


def test_what_is_wrong_with_a_container_is_told_by_its_start(engine: EngineProcess, tmp_path: Path) -> None:
    id = engine.ok("create", "--user", "nobody-here", "busybox", "true")
    time.sleep(0.3)
    failed = engine.docker("start", id)
    assert failed.returncode == 1 and "unable to find user nobody-here" in failed.stderr
    id = engine.ok("create", "--tmpfs", "/bin/sh", "busybox", "true")
    time.sleep(0.3)
    failed = engine.docker("start", id)
    assert failed.returncode == 1 and "/bin/sh" in failed.stderr
    for entry in engine.ok("ps", "-aq").split():
        engine.ok("rm", entry)
    engine.await_slots()


def test_many_at_once_with_and_without_slots(engine: EngineProcess) -> None:
    with engine.client as client:
        body = CreateBody(image="busybox", cmd=["true"], host_config=HostConfig())
        names = [client.containers.create(body).id or "" for _ in range(6)]
        for name in names:
            client.containers.start(name)
        assert [client.containers.wait(name).status_code for name in names] == [0] * 6
        for name in names:
            client.containers.remove(name)
    engine.await_slots()


def test_without_a_pool() -> None:
    engine = EngineProcess("--pool-size", "0")
    try:
        engine.start()
        engine.add_busybox()
        assert engine.ok("run", "--rm", "busybox", "echo", "hi") == "hi"
        assert not ids(engine)
    finally:
        engine.shut_down()
