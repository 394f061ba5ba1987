"""Limits of a request: what is refused, what is discarded with a warning, where the control group is."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from berth.contract.runtime import Abilities
from berth.engine.containers import cgroup_parent
from berth.engine.containers.resource_check import check, numbers, with_default_swap
from berth.engine.system import tell_limits
from berth.errors import InvalidArgument
from berth.wire.container import HostConfigBlkioWeightDevice, Resources, ThrottleDevice
from berth.wire.system import SystemInfo

MB = 1 << 20
ALL = Abilities(cpus="0-3", mems="0")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Resources(memory=5 * MB), "Minimum memory limit allowed is 6MB"),
        (
            Resources(memory=64 * MB, memory_swap=32 * MB),
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (Resources(memory_swap=32 * MB), "You should always set the Memory limit when using Memoryswap limit, see usage"),
        (Resources(memory_swappiness=101), "Invalid value: 101, valid memory swappiness range is 0-100"),
        (Resources(memory_reservation=MB), "Minimum memory reservation allowed is 6MB"),
        (
            Resources(memory=64 * MB, memory_reservation=65 * MB),
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        (Resources(nano_cpus=1, cpu_period=5000), "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
        (Resources(nano_cpus=1, cpu_quota=5000), "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        (Resources(nano_cpus=5 * 10**9), "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"),
        (Resources(cpu_period=5), "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
        (Resources(cpu_quota=5), "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (
            Resources(cpu_realtime_period=1000, cpu_realtime_runtime=2000),
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
        (Resources(cpuset_cpus="0-9"), "Requested CPUs are not available - requested 0-9, available: 0-3"),
        (Resources(cpuset_mems="1"), "Requested memory nodes are not available - requested 1, available: 0"),
        (Resources(cpuset_cpus="1,,2"), "Invalid value 1,,2 for cpuset cpus: invalid format: 1,,2"),
        (Resources(blkio_weight=5), "Range of blkio weight is from 10 to 1000"),
        (Resources(io_maximum_iops=5), "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps"),
    ],
)
def test_what_makes_no_sense_is_refused_in_dockers_words(asked: Resources, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(asked, ALL, 4)
    assert refused.value.message == words


def test_an_update_may_name_swap_alone() -> None:
    assert check(Resources(memory_swap=64 * MB), ALL, 4, update=True)[0].memory_swap == 64 * MB


@pytest.mark.parametrize(
    ("lacking", "asked", "left", "warning"),
    [
        (
            "memory",
            Resources(memory=64 * MB),
            Resources(memory=0, memory_swap=-1),
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        ),
        (
            "swap",
            Resources(memory=64 * MB, memory_swap=128 * MB),
            Resources(memory=64 * MB, memory_swap=-1),
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        ),
        (
            "swappiness",
            Resources(memory_swappiness=5),
            Resources(),
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
            "Memory swappiness discarded.",
        ),
        (
            "reservation",
            Resources(memory_reservation=32 * MB),
            Resources(memory_reservation=0),
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
        ),
        (
            "oom_kill_disable",
            Resources(oom_kill_disable=True),
            Resources(),
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        ),
        (
            "pids",
            Resources(pids_limit=5),
            Resources(),
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
        ),
        (
            "cpu_shares",
            Resources(cpu_shares=5),
            Resources(cpu_shares=0),
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
        ),
        (
            "cpu_quota",
            Resources(cpu_quota=5000),
            Resources(cpu_quota=0, cpu_period=0),
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
        ),
        (
            "cpuset",
            Resources(cpuset_cpus="0"),
            Resources(cpuset_cpus="", cpuset_mems=""),
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
        ),
        (
            "io_weight",
            Resources(blkio_weight=100),
            Resources(blkio_weight=0),
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        ),
        (
            "io_weight_device",
            Resources(blkio_weight_device=[HostConfigBlkioWeightDevice(path="/dev/x", weight=100)]),
            Resources(blkio_weight_device=[]),
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
        ),
        (
            "io_throttle",
            Resources(blkio_device_write_iops=[ThrottleDevice(path="/dev/x", rate=1)]),
            Resources(blkio_device_write_iops=[]),
            "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. "
            "Block I/O IOPS write limit discarded.",
        ),
    ],
)
def test_what_the_host_lacks_is_discarded_with_dockers_warning(
    lacking: str, asked: Resources, left: Resources, warning: str
) -> None:
    assert check(asked, structs.replace(ALL, **{lacking: False}), 4) == (left, [warning])
    assert check(asked, ALL, 4)[0] == asked


def test_what_cannot_be_discarded_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="kernel does not support CPU real-time scheduler"):
        check(Resources(cpu_realtime_runtime=5), structs.replace(ALL, cpu_realtime=False), 4)
    with pytest.raises(InvalidArgument, match="NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler"):
        check(Resources(nano_cpus=5), structs.replace(ALL, cpu_quota=False), 4)


def test_a_disabled_killer_without_a_limit_is_warned_of() -> None:
    warnings = check(Resources(oom_kill_disable=True), ALL, 4)[1]
    assert warnings == [
        "OOM killer is disabled for the container, but no memory limit is set, "
        "this can result in the system running out of resources."
    ]
    assert check(Resources(oom_kill_disable=True, memory=64 * MB), ALL, 4)[1] == []


def test_swap_is_as_much_again_by_default() -> None:
    assert with_default_swap(Resources(memory=5)).memory_swap == 10
    assert with_default_swap(Resources(memory=5, memory_swap=-1)).memory_swap == -1
    assert with_default_swap(Resources()).memory_swap is None


@pytest.mark.parametrize(("text", "found"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("3-3", {3})])
def test_lists_of_numbers(text: str, found: set[int]) -> None:
    assert numbers(text) == found


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "2-1", "1,,2", "0-99999999999", "1 "])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        numbers(text)


def test_where_the_control_group_is(tmp_path: Path) -> None:
    assert cgroup_parent.place("", "berth", "id", ALL) == "/berth/id"
    assert cgroup_parent.place("", "/groups/berth", "id", ALL) == "/groups/berth/id"
    assert cgroup_parent.place("web/", "berth", "id", ALL) == "/web/id"
    assert cgroup_parent.place("/a//b", "berth", "id", ALL) == "/a/b/id"
    assert cgroup_parent.place("/", "berth", "id", ALL) == "/id"
    with pytest.raises(InvalidArgument, match=r"invalid cgroup-parent /a/\.\./\.\."):
        cgroup_parent.check("/a/../..", ALL)
    with pytest.raises(InvalidArgument, match=r"web\.slice is a slice of systemd, which does not run here"):
        cgroup_parent.check("web.slice", ALL)


def test_slices_of_systemd(tmp_path: Path) -> None:
    host = structs.replace(ALL, slices=str(tmp_path))
    (tmp_path / "a.slice/a-b.slice/a-b-c.slice").mkdir(parents=True)
    assert cgroup_parent.place("a-b-c.slice", "berth", "id", host) == "/a.slice/a-b.slice/a-b-c.slice/berth/id"
    assert cgroup_parent.place("-.slice", "berth", "id", host) == "/berth/id"
    with pytest.raises(InvalidArgument, match=r"web\.slice is not active: systemctl start web\.slice"):
        cgroup_parent.check("web.slice", host)
    with pytest.raises(InvalidArgument, match=r'should be a valid slice named as "xxx\.slice"'):
        cgroup_parent.check("a--b.slice", host)


def test_info_warns_of_what_is_missing() -> None:
    info = SystemInfo()
    tell_limits(info, structs.replace(ALL, version=2, swap=False, io_weight=False, oom_kill_disable=False))
    assert (info.cgroup_version, info.swap_limit, info.memory_limit) == ("2", False, True)
    found = [warning for warning in info.warnings or [] if "IPv4" not in warning]
    assert found == ["WARNING: No swap limit support", "WARNING: No io.weight support"]
    tell_limits(info, structs.replace(ALL, oom_kill_disable=False, io_throttle=False))
    assert "WARNING: No oom kill disable support" in (info.warnings or [])
    assert "WARNING: No blkio throttle.read_bps_device support" in (info.warnings or [])
