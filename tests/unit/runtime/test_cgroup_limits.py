"""Limits as control group files, and readings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from berth.errors import InvalidArgument
from berth.kernel import bpf
from berth.model.oci import BlockIO, Cpu, DeviceRule, HugepageLimit, Memory, Pids, Resources, ThrottleDevice
from berth.runtime import cgroup, cgroup_layout, cgroup_limits, cgroup_stats

V1 = ("cpu", "cpuset", "memory", "pids", "blkio")
V2 = ("cpu", "cpuset", "memory", "pids", "io")


def values(resources: Resources, *, v2: bool) -> dict[str, str]:
    writes = cgroup_limits.writes(resources, () if v2 else V1, V2 if v2 else ())
    return {name: value for _, name, value, _ in writes}


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (0, 100), (1, 1), (10**9, 10000)])
def test_shares_to_weight(shares: int, weight: int) -> None:
    assert cgroup_limits.shares_to_weight(shares) == weight


@pytest.mark.parametrize(("weight", "io"), [(10, 1), (500, 4950), (1000, 10000)])
def test_blkio_weight(weight: int, io: int) -> None:
    assert cgroup_limits.blkio_to_io_weight(weight) == io


@pytest.mark.parametrize(
    ("memory", "one", "two"),
    [
        (
            Memory(limit=100, swap=200),
            {"memory.limit_in_bytes": "100", "memory.memsw.limit_in_bytes": "200"},
            {"memory.max": "100", "memory.swap.max": "100"},
        ),
        (
            Memory(limit=100, swap=100),
            {"memory.limit_in_bytes": "100", "memory.memsw.limit_in_bytes": "100"},
            {"memory.max": "100", "memory.swap.max": "0"},
        ),
        (
            Memory(limit=100, swap=-1),
            {"memory.limit_in_bytes": "100", "memory.memsw.limit_in_bytes": "-1"},
            {"memory.max": "100", "memory.swap.max": "max"},
        ),
        (Memory(limit=-1), {"memory.limit_in_bytes": "-1"}, {"memory.max": "max"}),
        (Memory(reservation=5), {"memory.soft_limit_in_bytes": "5"}, {"memory.low": "5"}),
        (Memory(limit=0), {}, {}),
    ],
)
def test_memory_and_swap(memory: Memory, one: dict[str, str], two: dict[str, str]) -> None:
    assert values(Resources(memory=memory), v2=False) == one
    assert values(Resources(memory=memory), v2=True) == two


def test_cpu() -> None:
    cpu = Resources(cpu=Cpu(shares=1024, quota=50000, period=100000, cpus="0-1"))
    assert values(cpu, v2=False) == {
        "cpu.shares": "1024",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "cpuset.cpus": "0-1",
    }
    assert values(cpu, v2=True) == {"cpu.weight": "39", "cpu.max": "50000 100000", "cpuset.cpus": "0-1"}
    assert values(Resources(cpu=Cpu(quota=-1)), v2=True) == {"cpu.max": "max 100000"}


def test_burst_idle_and_huge_pages() -> None:
    cpu = Resources(cpu=Cpu(burst=1000, idle=1))
    assert values(cpu, v2=False) == {"cpu.cfs_burst_us": "1000", "cpu.idle": "1"}
    assert values(cpu, v2=True) == {"cpu.max.burst": "1000", "cpu.idle": "1"}
    pages = Resources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=4194304)])
    assert cgroup_limits.writes(pages, ["hugetlb"], []) == [("hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304", False)]
    assert cgroup_limits.writes(pages, V1, ["hugetlb"]) == [("hugetlb", "hugetlb.2MB.max", "4194304", False)]
    with pytest.raises(InvalidArgument, match="no hugetlb control group"):
        cgroup_limits.writes(pages, V1, V2)


def test_real_time_is_for_cgroup_v1() -> None:
    with pytest.raises(InvalidArgument, match="cgroup2 has no limit for real-time scheduling"):
        values(Resources(cpu=Cpu(realtime_runtime=5)), v2=True)


def test_files_of_cgroup2_by_name() -> None:
    assert values(Resources(unified={"memory.high": "5", "cgroup.max.depth": "2"}), v2=True) == {
        "memory.high": "5",
        "cgroup.max.depth": "2",
    }
    for name in "memory.high", "../x", "memory/../x.y":
        with pytest.raises(InvalidArgument, match="cgroup2 does not have the controller"):
            values(Resources(unified={name: "5"}), v2=name != "memory.high")


def test_pids_and_block_io() -> None:
    assert values(Resources(pids=Pids(limit=-1)), v2=True) == {"pids.max": "max"}
    assert values(Resources(pids=Pids(limit=0)), v2=True) == {}
    block = Resources(block_io=BlockIO(throttle_read_bps_device=[ThrottleDevice(major=8, minor=0, rate=5)]))
    assert values(block, v2=False) == {"blkio.throttle.read_bps_device": "8:0 5"}
    assert values(block, v2=True) == {"io.max": "8:0 rbps=5"}


def test_device_rules() -> None:
    rules = cgroup_limits.device_rules(
        [DeviceRule(allow=False, access="rwm"), DeviceRule(allow=True, type="c", major=10, minor=200)]
    )
    writes = [(name, value) for _, name, value, _ in cgroup_limits.device_writes(rules)]
    assert writes[0] == ("devices.deny", "a")
    assert writes[-1] == ("devices.allow", "c 10:200 rwm")
    assert ("devices.allow", "c 136:* rwm") in writes
    assert cgroup_limits.device_rules([DeviceRule(allow=True, access="rwm")]) == []


def decide(rules: list[tuple[bool, str, int | None, int | None, str]], kind: int, access: int, major: int, minor: int) -> int:
    """Run a device program in a small interpreter of the instructions that it uses."""
    code = bpf.device_program(rules)
    registers = [0] * 11
    context = {0: kind | access << 16, 4: major, 8: minor}
    position = 0
    while True:
        raw = code[position * 8 : position * 8 + 8]
        op, dst, src = raw[0], raw[1] & 15, raw[1] >> 4
        offset, value = int.from_bytes(raw[2:4], "little", signed=True), int.from_bytes(raw[4:8], "little", signed=True)
        position += 1
        if op == 0x61:
            registers[dst] = context[offset]
        elif op == 0xBF:
            registers[dst] = registers[src]
        elif op == 0xB7:
            registers[dst] = value
        elif op == 0x57:
            registers[dst] &= value
        elif op == 0x77:
            registers[dst] >>= value
        elif op == 0x55:
            position += offset if registers[dst] != value else 0
        elif op == 0x95:
            return registers[0]


def test_device_program_decides_as_the_rules_say() -> None:
    rules = cgroup_limits.device_rules(
        [
            DeviceRule(allow=False, access="rwm"),
            DeviceRule(allow=True, type="c", major=10, minor=200, access="rw"),
            DeviceRule(allow=True, type="b", major=8, access="r"),
            DeviceRule(allow=False, type="b", major=8, minor=1, access="r"),
        ]
    )
    char, block, make, read, write = 2, 1, 1, 2, 4
    assert decide(rules, char, read | write, 1, 3) == 1
    assert decide(rules, char, read, 1, 11) == 0
    assert decide(rules, char, make, 1, 11) == 1
    assert decide(rules, char, read, 10, 200) == 1
    assert decide(rules, block, read, 10, 200) == 0
    assert decide(rules, block, read, 8, 0) == 1
    assert decide(rules, block, read | write, 8, 0) == 0
    assert decide(rules, block, read, 8, 1) == 0


def test_io_readings() -> None:
    text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"
    found = cgroup_stats.parse_io(text)
    assert (8, 0, "write", 2) in found["io_service_bytes_recursive"]
    assert (8, 0, "read", 3) in found["io_serviced_recursive"]
    assert cgroup_stats.parse_blkio("8:0 Read 4096\nTotal 4096\n") == [(8, 0, "read", 4096)]


def test_v2_readings_from_files(tmp_path: Path) -> None:
    group = {"path": "/g", "roots": {}, "v2": str(tmp_path), "enabled": []}
    (tmp_path / "g").mkdir()
    for name, text in {
        "cpu.stat": "usage_usec 5\nuser_usec 2\nsystem_usec 3\nnr_throttled 1\n",
        "memory.current": "100\n",
        "memory.max": "max\n",
        "memory.stat": "anon 7\n",
        "memory.events": "oom 1\noom_kill 2\n",
        "pids.current": "3\n",
        "pids.max": "9\n",
    }.items():
        (tmp_path / "g" / name).write_text(text)
    stats = cgroup_stats.read(group)
    assert (stats.cpu_total, stats.cpu_user, stats.throttled_periods) == (5000, 2000, 1)
    assert (stats.memory_usage, stats.memory_limit, stats.memory_stats) == (100, 0, {"anon": 7})
    assert (stats.pids_current, stats.pids_limit) == (3, 9)
    assert cgroup.oom_kills(group) == 2


def test_layout_reads_this_host() -> None:
    roots, v2, enabled = cgroup_layout.layout().parts()
    assert all(os.path.isdir(path) for path in roots.values())
    assert v2 is None or os.path.exists(v2 + "/cgroup.procs")
    assert v2 is not None or not enabled


def test_v2_controllers_are_handed_down_once(tmp_path: Path) -> None:
    group = {"path": "/berth/x", "roots": {}, "v2": str(tmp_path), "enabled": ["memory", "pids"]}
    (tmp_path / "berth").mkdir()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tmp_path / "berth/cgroup.subtree_control").write_text("pids\n")
    cgroup.create(group)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids\n", "nothing to do there"
    assert (tmp_path / "berth/cgroup.subtree_control").read_text().startswith("+memory")
    assert (tmp_path / "berth/x").is_dir()


def test_a_process_enters_its_v1_groups_by_itself(tmp_path: Path) -> None:
    """Never by its number: moving another process waits for a grace period of the kernel."""
    group = {
        "path": "/engine/one",
        "roots": {"cpu": str(tmp_path / "a"), "cpuacct": str(tmp_path / "a"), "pids": str(tmp_path / "b")},
    }
    for top in "a", "b":
        (tmp_path / top / "engine" / "one").mkdir(parents=True)
        (tmp_path / top / "engine" / "one" / "tasks").touch()
    cgroup.enter_v1(group)
    for top in "a", "b":
        assert {path.name: path.read_text() for path in (tmp_path / top / "engine" / "one").iterdir()} == {"tasks": "0"}
