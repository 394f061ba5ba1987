"""Limits by the docker CLI: each is looked for in the control group or in the container, on cgroup v1 and on cgroup2."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from berth.errors import BerthError
from support.control_group import Groups, group_of, mount_point, pure_v2, remove_groups
from support.engine import SLOW, EngineProcess

MB = 1 << 20


def block_device() -> tuple[str, str]:
    """A block device of this host, and its numbers."""
    for name in sorted(os.listdir("/sys/block"), reverse=True):
        if os.path.exists(f"/dev/{name}"):
            return f"/dev/{name}", Path(f"/sys/block/{name}/dev").read_text().strip()
    pytest.skip("this host has no block device with a node in /dev")


def start(engine: EngineProcess, name: str, *options: str) -> Groups:
    engine.ok("run", "-d", "--name", name, *options, "busybox", "sleep", "1000")
    return Groups(engine, name)


def test_processor_limits(engine: EngineProcess) -> None:
    one = start(engine, "one", "--cpu-shares", "512", "--cpus", "0.5", "--cpuset-cpus", "0", "--cpuset-mems", "0")
    assert one.read("cpu", "cpu.shares", "cpu.weight") == ("20" if pure_v2() else "512")
    assert one.read("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert one.read("cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    assert one.read("cpuset", "cpuset.mems", "cpuset.mems") == "0"
    assert engine.ok("exec", "one", "grep", "Cpus_allowed_list", "/proc/self/status").split() == ["Cpus_allowed_list:", "0"]
    two = start(engine, "two", "--cpu-quota", "20000", "--cpu-period", "40000")
    quota = two.read("cpu", "cpu.cfs_quota_us", "cpu.max")
    period = two.read("cpu", "cpu.cfs_period_us", "cpu.max")
    assert (quota, period) == (("20000 40000",) * 2 if pure_v2() else ("20000", "40000"))


def test_memory_limits(engine: EngineProcess) -> None:
    groups = start(engine, "limited", "-m", "64m", "--memory-reservation", "32m", "--pids-limit", "33", "--shm-size", "3m")
    assert groups.read("memory", "memory.limit_in_bytes", "memory.max") == str(64 * MB)
    assert groups.read("memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 * MB)
    assert groups.read("pids", "pids.max", "pids.max") == "33"
    assert engine.ok("exec", "limited", "sh", "-c", "df -k /dev/shm | tail -1").split()[1] == "3072"
    if groups.offers("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"):
        both = groups.read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
        assert both == str((64 if pure_v2() else 128) * MB), "twice the memory by default; cgroup2 counts swap alone"
        unswapped = start(engine, "unswapped", "-m", "64m", "--memory-swap", "64m")
        none = unswapped.read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
        assert none == ("0" if pure_v2() else str(64 * MB))
    shown = json.loads(engine.ok("inspect", "limited"))[0]["HostConfig"]
    assert shown["Memory"] == 64 * MB and shown["MemorySwap"] in (128 * MB, -1)


def test_swappiness_and_the_out_of_memory_killer(engine: EngineProcess) -> None:
    options = ("--memory-swappiness", "7", "--oom-kill-disable", "-m", "64m")
    done = engine.docker("run", "-d", "--name", "one", *options, "busybox", "sleep", "1000")
    assert done.returncode == 0, done.stderr
    if pure_v2():
        assert "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted." in done.stderr
        assert "Your kernel does not support OomKillDisable. OomKillDisable discarded." in done.stderr
    else:
        groups = Groups(engine, "one")
        assert groups.read("memory", "memory.swappiness", "") == "7"
        assert "oom_kill_disable 1" in groups.read("memory", "memory.oom_control", "")


def test_block_device_limits(engine: EngineProcess) -> None:
    path, number = block_device()
    options = []
    for flag, value in ("read-bps", "1mb"), ("write-bps", "2mb"), ("read-iops", "300"), ("write-iops", "400"):
        options += [f"--device-{flag}", f"{path}:{value}"]
    groups = start(engine, "limited", *options)
    if pure_v2():
        assert groups.read("blkio", "", "io.max") == f"{number} rbps=1048576 wbps=2097152 riops=300 wiops=400"
        return
    found = [groups.read("blkio", f"blkio.throttle.{kind}_device", "") for kind in ("read_bps", "write_bps")]
    found += [groups.read("blkio", f"blkio.throttle.{kind}_device", "") for kind in ("read_iops", "write_iops")]
    assert found == [f"{number} {value}" for value in (1048576, 2097152, 300, 400)]


def test_block_weight(engine: EngineProcess) -> None:
    done = engine.docker("run", "-d", "--name", "heavy", "--blkio-weight", "300", "busybox", "sleep", "1000")
    assert done.returncode == 0, done.stderr
    groups = Groups(engine, "heavy")
    if groups.offers("blkio", "blkio.weight", "io.weight"):
        value = groups.read("blkio", "blkio.weight", "io.weight")
        assert value.splitlines()[0].split()[-1] == ("2930" if pure_v2() else "300")
    elif groups.offers("blkio", "blkio.bfq.weight", "io.bfq.weight"):
        assert groups.read("blkio", "blkio.bfq.weight", "io.bfq.weight").splitlines()[0].split()[-1] == "300"
    else:
        assert "does not support Block I/O weight or the cgroup is not mounted. Weight discarded." in done.stderr


def test_block_weight_of_a_device(engine: EngineProcess) -> None:
    path, number = block_device()
    options = ("--blkio-weight-device", f"{path}:200")
    done = engine.docker("run", "-d", "--name", "heavy", *options, "busybox", "sleep", "1000")
    if "Weight-device discarded." in done.stderr:
        assert done.returncode == 0
    elif done.returncode:
        # Whether a device has weights is up to its scheduler: what cannot be had is no secret.
        assert f"{number} " in done.stderr and "operation not supported" in done.stderr
    else:
        groups = Groups(engine, "heavy")
        found = [path for path in ("blkio.weight_device", "blkio.bfq.weight_device") if groups.offers("blkio", path, "io.weight")]
        assert number in groups.read("blkio", found[0], "io.weight")


def test_devices(engine: EngineProcess) -> None:
    script = "(: < /dev/it) 2>/dev/null && echo r; (: > /dev/it) 2>/dev/null && echo w; true"
    # The loop devices' control, which every kernel has; its module is loaded when it is opened.
    node = f"{engine.directory}/loop-control"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(10, 237))
    engine.ok("run", "-d", "--name", "one", "--device", f"{node}:/dev/it:r", "busybox", "sleep", "1000")
    os.unlink(node)
    assert engine.ok("exec", "one", "sh", "-c", script).split() == ["r"]
    # The rule alone makes no node; with the capability it can be made, in a container that the host's devices are for.
    rule = ("--device-cgroup-rule", "c 10:237 rw", "--userns", "host")
    made = "mknod /dev/it c 10 237 && " + script
    assert engine.ok("run", "--rm", *rule, "busybox", "sh", "-c", made).split() == ["r", "w"]
    assert engine.ok("run", "--rm", "--userns", "host", "busybox", "sh", "-c", made) == ""
    refused = engine.docker("run", "--rm", "--device-cgroup-rule", "x 1:1 r", "busybox", "true")
    assert refused.returncode == 125 and "invalid device cgroup" in refused.stderr


def test_real_time_scheduling(engine: EngineProcess) -> None:
    options = ("--cpu-rt-runtime", "1000", "--cpu-rt-period", "500000")
    if not os.path.exists(f"{mount_point('cpu')}/cpu.rt_runtime_us"):
        refused = engine.docker("run", "--rm", *options, "busybox", "true")
        assert refused.returncode == 125 and "kernel does not support CPU real-time scheduler" in refused.stderr
        return
    for name in "one", "two":
        groups = start(engine, name, *options)
        assert groups.read("cpu", "cpu.rt_runtime_us", "") == "1000"
        assert groups.read("cpu", "cpu.rt_period_us", "") == "500000"
    above = Path(os.path.dirname(groups.path("cpu", "", "").rstrip("/")), "cpu.rt_runtime_us").read_text()
    assert int(above) >= 4000, "both have 2 ms of each second"
    much = engine.docker("run", "--rm", "--cpu-rt-runtime", "990000", "busybox", "true")
    assert much.returncode == 125 and "more than this host has left for real-time scheduling" in much.stderr


def test_ulimits_also_hold_for_exec(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "one", "--ulimit", "nofile=123:456", "busybox", "sleep", "1000")
    assert engine.ok("exec", "one", "sh", "-c", "ulimit -n; ulimit -Hn").split() == ["123", "456"]


def test_a_parent_of_ones_own(engine: EngineProcess) -> None:
    parent = f"/{engine.config.name}-parent/inner"
    identifier = engine.ok("run", "-d", "--name", "one", "--cgroup-parent", parent, "-m", "64m", "busybox", "sleep", "1000")
    pid = Groups(engine, "one").pid
    try:
        assert group_of(pid, "memory") == f"{mount_point('memory')}{parent}/{identifier}"
        assert Groups(engine, "one").read("memory", "memory.limit_in_bytes", "memory.max") == str(64 * MB)
        engine.ok("rm", "-f", "one")
        assert not [entry.name for entry in os.scandir(mount_point("memory") + parent) if entry.is_dir()]
    finally:
        engine.docker("rm", "-f", "one")
        remove_groups(os.path.dirname(parent))
    refused = engine.docker("run", "--rm", "--cgroup-parent", "web.slice", "busybox", "true")
    assert refused.returncode == 125 and "cgroup-parent web.slice is" in refused.stderr


def test_live_update(engine: EngineProcess) -> None:
    groups = start(engine, "one", "-m", "64m", "--cpu-shares", "512")
    engine.ok("update", "-m", "96m", "--memory-swap", "192m", "--cpu-shares", "1024", "--pids-limit", "44", "one")
    assert groups.read("memory", "memory.limit_in_bytes", "memory.max") == str(96 * MB)
    assert groups.read("cpu", "cpu.shares", "cpu.weight") == ("39" if pure_v2() else "1024")
    assert groups.read("pids", "pids.max", "pids.max") == "44"
    engine.ok("update", "--cpu-period", "50000", "--cpu-quota", "25000", "--cpuset-cpus", "0", "one")
    assert groups.read("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "25000"
    assert groups.read("cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    engine.ok("pause", "one")
    engine.ok("update", "-m", "80m", "--memory-swap", "-1", "--memory-reservation", "40m", "one")
    assert groups.read("memory", "memory.limit_in_bytes", "memory.max") == str(80 * MB)
    assert groups.read("memory", "memory.soft_limit_in_bytes", "memory.low") == str(40 * MB)
    engine.ok("unpause", "one")
    engine.ok("update", "--pids-limit", "-1", "one")
    assert groups.read("pids", "pids.max", "pids.max") == "max"
    engine.ok("stop", "-t", "0", "one")
    engine.ok("update", "-m", "72m", "one")
    engine.ok("start", "one")
    assert Groups(engine, "one").read("memory", "memory.limit_in_bytes", "memory.max") == str(72 * MB)


@pytest.mark.parametrize(
    ("created", "changed", "words"),
    [
        (("-m", "64m"), ("-m", "4m"), "Minimum memory limit allowed is 6MB"),
        (("-m", "64m"), ("-m", "200m"), "Memory limit should be smaller than already set memoryswap limit, update"),
        (("-m", "64m"), ("-m", "64m", "--memory-swap", "32m"), "Minimum memoryswap limit should be larger than memory limit"),
        (("--cpu-period", "50000"), ("--cpus", "0.5"), "Nano CPUs cannot be updated as CPU Period has already been set"),
        (("--cpus", "0.5"), ("--cpu-quota", "5000"), "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ((), ("--cpuset-cpus", "900"), "Requested CPUs are not available - requested 900, available: 0"),
        ((), ("--cpuset-cpus", "x"), "Invalid value x for cpuset cpus"),
        ((), ("--blkio-weight", "5"), "Range of blkio weight is from 10 to 1000"),
    ],
)
def test_updates_that_are_refused(
    engine: EngineProcess, created: tuple[str, ...], changed: tuple[str, ...], words: str
) -> None:
    engine.ok("create", "--name", "one", *created, "busybox", "true")
    done = engine.docker("update", *changed, "one")
    assert done.returncode == 1 and words in done.stderr, done.stderr


def test_an_update_that_the_kernel_refuses_changes_nothing(engine: EngineProcess) -> None:
    groups = start(engine, "one", "--pids-limit", "50")
    # A device that exists when the request is checked, but that the kernel knows no queue for.
    body = {"PidsLimit": 60, "BlkioDeviceReadBps": [{"Path": "/dev/tty", "Rate": 1000}]}
    with engine.client as client, pytest.raises(BerthError, match=r"Cannot update container [0-9a-f]{64}: ") as refused:
        headers = {"Content-Type": "application/json"}
        client.request("POST", "/containers/one/update", body=json.dumps(body).encode(), headers=headers)
    assert "No such device" in refused.value.message and "io" in refused.value.message
    assert groups.read("pids", "pids.max", "pids.max") == "50"
    assert json.loads(engine.ok("inspect", "one"))[0]["HostConfig"]["PidsLimit"] == 50


def until(what: str, engine: EngineProcess, *question: str) -> None:
    """Wait until a question is answered so."""
    deadline = time.monotonic() + 20 * SLOW
    while (answer := engine.ok(*question)) != what:
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)


def test_a_killed_child_is_told_while_the_container_goes_on(engine: EngineProcess) -> None:
    begin = str(int(time.time()) - 1)
    identifier = engine.ok("run", "-d", "--name", "one", "-m", "24m", "--memory-swap", "24m", "busybox", "sleep", "1000")
    child = engine.docker("exec", "one", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    assert child.returncode == 137
    until("true true", engine, "inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", "one")
    engine.ok("stop", "-t", "0", "one")
    asked = ("--since", begin, "--until", str(int(time.time()) + 1), "--filter", f"container={identifier}")
    events = engine.ok("events", *asked, "--format", "{{.Action}}").splitlines()
    assert "oom" in events[: events.index("die")] and "oom" not in events[events.index("die") :]
    engine.ok("start", "one")
    assert engine.ok("inspect", "-f", "{{.State.OOMKilled}}", "one") == "false"


def test_a_paused_container_refuses_exec_and_dies_when_killed(engine: EngineProcess) -> None:
    groups = start(engine, "one")
    engine.ok("pause", "one")
    # A hybrid host freezes by cgroup2 too.
    frozen = f"{group_of(groups.pid, '')}/cgroup.events"
    assert "frozen 1" in Path(frozen).read_text() if mount_point("") else groups.read("freezer", "freezer.state", "") == "FROZEN"
    refused = engine.docker("exec", "one", "true")
    assert refused.returncode != 0 and "is paused, unpause the container before exec" in refused.stderr
    engine.ok("kill", "one")
    assert engine.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one") == "exited 137"
    start(engine, "two")
    engine.ok("pause", "two")
    engine.ok("stop", "-t", "1", "two")
    assert engine.ok("inspect", "-f", "{{.State.Status}}", "two") == "exited"


def test_statistics(engine: EngineProcess) -> None:
    script = "dd if=/dev/zero of=/tmp/x bs=1M count=4 2>/dev/null; sync; echo written; exec sleep 1000"
    engine.ok("run", "-d", "--name", "one", "-m", "64m", "--pids-limit", "20", "busybox", "sh", "-c", script)
    until("written", engine, "logs", "one")
    with engine.client as client:
        query = {"stream": False, "one-shot": True}
        found = json.loads(client.request("GET", "/containers/one/stats", query=query).read())
        twice = json.loads(client.request("GET", "/containers/one/stats", query={"stream": False}).read())
    memory, cpu = found["memory_stats"], found["cpu_stats"]
    assert memory["limit"] == 64 * MB and 0 < memory["usage"] <= 64 * MB
    assert ("inactive_file" if pure_v2() else "total_inactive_file") in memory["stats"]
    assert found["pids_stats"]["current"] == 1 and found["pids_stats"]["limit"] == 20
    assert cpu["cpu_usage"]["total_usage"] > 0 and cpu["online_cpus"] == len(os.sched_getaffinity(0))
    assert cpu["system_cpu_usage"] > cpu["cpu_usage"]["total_usage"] and "throttling_data" in cpu
    assert found["networks"]["eth0"]["rx_bytes"] >= 0 and "io_service_bytes_recursive" in found["blkio_stats"]
    assert found["precpu_stats"]["cpu_usage"]["total_usage"] == 0, "one shot: nothing before"
    assert twice["precpu_stats"]["system_cpu_usage"] > 0
    shown = engine.ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "one")
    assert shown.startswith("one ") and "/ 64MiB 1" in shown


def test_info_says_what_there_is(engine: EngineProcess) -> None:
    info = json.loads(engine.ok("info", "-f", "{{json .}}"))
    assert info["CgroupVersion"] == ("2" if pure_v2() else "1") and info["CgroupDriver"] == "cgroupfs"
    for field in "MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit":
        assert info[field] is True, field
    assert info["OomKillDisable"] is not pure_v2()
    assert not [warning for warning in info["Warnings"] or [] if "memory" in warning or "cpu" in warning]
