"""Limits that only a specification can ask for, and containers that have control groups of their own inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.errors import InvalidArgument
from berth.model.oci import Cpu, DeviceRule, HugepageLimit, Resources
from berth.runtime import cgroup
from support.launching import Bench, Running, Wish, read_until

pytest_plugins = ["support.launch_fixture"]

DENIED = [DeviceRule(allow=False, access="rwm")]
TWO_PAGES = 4 << 20


def readings(bench: Bench, resources: Resources, *files: tuple[str, str]) -> list[str]:
    """Contents of (controller, file) of a running container's group."""

    def use(container: Running) -> list[str]:
        return [
            Path(cgroup.directory(container.started.cgroup, controller), name).read_text().strip() for controller, name in files
        ]

    found: list[str] = bench.running(Wish(["sleep", "1000"], resources=resources), use)
    return found


def test_huge_pages_are_limited(bench: Bench) -> None:
    resources = Resources(devices=DENIED, hugepage_limits=[HugepageLimit(page_size="2MB", limit=TWO_PAGES)])
    if "hugetlb" not in bench.compiler.roots and "hugetlb" not in bench.compiler.v2_controllers:
        with pytest.raises(InvalidArgument, match="this host has no hugetlb control group"):
            bench.compiler.launch(bench.request(Wish(["true"], resources=resources)))
        return
    name = "hugetlb.2MB.limit_in_bytes" if "hugetlb" in bench.compiler.roots else "hugetlb.2MB.max"
    assert readings(bench, resources, ("hugetlb", name)) == [str(TWO_PAGES)]


def test_burst_and_idle(bench: Bench) -> None:
    resources = Resources(devices=DENIED, cpu=Cpu(quota=50000, period=100000, burst=10000))
    name = "cpu.cfs_burst_us" if "cpu" in bench.compiler.roots else "cpu.max.burst"
    assert readings(bench, resources, ("cpu", name)) == ["10000"]
    assert readings(bench, Resources(devices=DENIED, cpu=Cpu(idle=1)), ("cpu", "cpu.idle")) == ["1"]


def test_files_of_cgroup2(bench: Bench) -> None:
    wanted = Resources(devices=DENIED, unified={"memory.high": str(64 << 20)})
    if "memory" in bench.compiler.v2_controllers:
        assert readings(bench, wanted, ("memory", "memory.high")) == [str(64 << 20)]
    else:
        with pytest.raises(InvalidArgument, match=r"memory\.high cannot be set: cgroup2 does not have the controller memory"):
            bench.compiler.launch(bench.request(Wish(["true"], resources=wanted)))
    if bench.compiler.v2 is not None:
        depth = Resources(devices=DENIED, unified={"cgroup.max.depth": "3"})
        assert readings(bench, depth, ("cgroup", "cgroup.max.depth")) == ["3"]


def test_exec_into_a_container_with_control_groups_of_its_own(bench: Bench) -> None:
    """As an engine in a container makes them: its first process goes to a leaf, and the top hands a controller down."""
    controllers = bench.compiler.v2_controllers
    if not controllers:
        pytest.skip("this host's cgroup2 has no controller to hand down")
    # Handing down huge pages works on hybrid hosts too, where nothing else is left for cgroup2.
    name = "pids" if "pids" in controllers else controllers[0]
    pages = [HugepageLimit(page_size="2MB", limit=TWO_PAGES)] if name == "hugetlb" else []
    # A second mount of cgroup2, that may be written: what --privileged gives, without the rest of it.
    make = "mkdir /g && mount -t cgroup2 g /g && mkdir /g/leaf && echo 1 > /g/leaf/cgroup.procs"
    make += " && echo +$0 > /g/cgroup.subtree_control && echo ready; exec sleep 1000"
    wish = Wish(
        ["sh", "-c", make, name],
        resources=Resources(devices=DENIED, hugepage_limits=pages),
        namespaces=("pid", "network", "mount", "ipc", "uts", "cgroup"),
        capabilities=["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"],
        seccomp=None,
    )

    def use(container: Running) -> tuple[str, bool]:
        read_until(container.read, b"ready")
        found = container.exec(["sh", "-c", "grep ^0: /proc/self/cgroup"])
        assert found.failure is None, found.failure
        cgroup.kill(container.started.cgroup)
        return found.output, cgroup.pids(container.started.cgroup) == []

    where, dead = bench.running(wish, use)
    assert where.strip().endswith("/leaf") and dead


