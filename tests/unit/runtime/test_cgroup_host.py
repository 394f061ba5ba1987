"""What control groups a host gives: mounts, our part of cgroup2, what can be limited, real-time shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.errors import InvalidArgument
from berth.runtime import cgroup_host, cgroup_layout, cgroup_realtime

HYBRID = """\
24 1 0:21 / /sys rw,nosuid - sysfs sysfs rw
25 24 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
29 25 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
"""


def test_hierarchies_of_a_hybrid_host() -> None:
    found = cgroup_layout.hierarchies(HYBRID)
    assert [(one.where, one.version, one.controllers, one.root) for one in found] == [
        ("/sys/fs/cgroup/cpu,cpuacct", 1, ("cpu", "cpuacct"), "/"),
        ("/sys/fs/cgroup/memory", 1, ("memory",), "/outer"),
        ("/sys/fs/cgroup/systemd", 1, (), "/"),
        ("/sys/fs/cgroup/unified", 2, (), "/"),
    ]


def fake_v1(tmp_path: Path, *missing: str) -> dict[str, str]:
    files = {
        "cpu": "cpu.shares cpu.cfs_quota_us cpu.rt_runtime_us",
        "cpuset": "cpuset.cpus cpuset.mems",
        "memory": "memory.limit_in_bytes memory.memsw.limit_in_bytes memory.swappiness memory.oom_control",
        "pids": "pids.max",
        "blkio": "blkio.throttle.read_bps_device blkio.bfq.weight",
        "freezer": "freezer.state",
    }
    for controller, names in files.items():
        (tmp_path / controller / "berth").mkdir(parents=True)
        for name in set(names.split()) - set(missing):
            (tmp_path / controller / "berth" / name).write_text("0-1\n")
    return {controller: str(tmp_path / controller) for controller in files}


def test_abilities_are_the_files_that_are_there(tmp_path: Path) -> None:
    group = {"path": "/berth", "roots": fake_v1(tmp_path, "memory.memsw.limit_in_bytes"), "v2": None, "enabled": []}
    found = cgroup_host.abilities(group)
    assert (found.version, found.memory, found.swap, found.reservation, found.cpu_realtime) == (1, True, False, False, True)
    assert (found.cpus, found.io_weight, found.io_weight_device, found.io_throttle) == ("0-1", True, False, True)
    assert found.notes == ()


def test_a_missing_controller_is_told(tmp_path: Path) -> None:
    roots = fake_v1(tmp_path)
    del roots["memory"], roots["blkio"], roots["freezer"]
    found = cgroup_host.abilities({"path": "/berth", "roots": roots, "v2": None, "enabled": []})
    assert found.notes == ("This host has no io, memory control group: such limits are discarded.",)
    assert (found.memory, found.io_throttle, found.freezer, found.pids) == (False, False, False, True)


def test_abilities_of_cgroup2(tmp_path: Path) -> None:
    (tmp_path / "berth").mkdir()
    names = "cpu.max cpu.weight cpuset.cpus.effective cpuset.mems.effective memory.max memory.low memory.swap.max pids.max io.max"
    for name in names.split():
        (tmp_path / "berth" / name).write_text("0\n")
    found = cgroup_host.abilities({"path": "/berth", "roots": {}, "v2": str(tmp_path), "enabled": []})
    assert (found.version, found.memory, found.swap, found.reservation, found.pids, found.io_throttle) == (2, *[True] * 5)
    assert not (found.swappiness or found.oom_kill_disable or found.cpu_realtime or found.io_weight)


def test_huge_pages_are_counted_for_who_limits_them() -> None:
    assert cgroup_layout.usual(["cpu", "hugetlb", "memory"]) == ["cpu", "memory"]


def real_time(path: Path, runtime: int, period: int = 1_000_000) -> None:
    path.mkdir(exist_ok=True)
    (path / "cpu.rt_runtime_us").write_text(f"{runtime}\n")
    (path / "cpu.rt_period_us").write_text(f"{period}\n")


def test_real_time_shares_are_granted_from_the_top(tmp_path: Path) -> None:
    root = tmp_path / "cpu"
    real_time(root, 950_000)
    for name, runtime in (("outer", 3000), ("outer/other", 1000), ("outer/inner", 500), ("outer/inner/old", 250)):
        real_time(root / name, runtime)
    group = {"path": "/outer/inner/new", "roots": {"cpu": str(root)}, "v2": None, "enabled": []}
    cgroup_realtime.grant(group, 1500, 500_000)
    assert int((root / "outer/inner/cpu.rt_runtime_us").read_text()) == 3250, "250 of the old one, 3000 of the new one"
    assert int((root / "outer/cpu.rt_runtime_us").read_text()) == 4250
    assert int((root / "cpu.rt_runtime_us").read_text()) == 950000, "the root is not ours to change"
    real_time(root / "outer/inner/new", 1500, 500_000)
    cgroup_realtime.grant(group, 1500, 500_000)
    assert int((root / "outer/cpu.rt_runtime_us").read_text()) == 4250, "nothing more is needed for the same"


def test_real_time_that_the_host_does_not_have(tmp_path: Path) -> None:
    group = {"path": "/outer/new", "roots": {"cpu": str(tmp_path)}, "v2": None, "enabled": []}
    (tmp_path / "outer").mkdir()
    # A directory in the file's place refuses to be written, as the kernel does.
    (tmp_path / "outer/cpu.rt_period_us").mkdir()
    with pytest.raises(InvalidArgument, match="more than this host has left for real-time scheduling"):
        cgroup_realtime.grant(group, 1500, 500_000)
