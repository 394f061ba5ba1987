"""What limits do, not what is written into their files, where the machine may be changed for it: in the guest."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.control_group import Groups, pure_v2
from support.engine import EngineProcess

MB = 1 << 20
pytestmark = pytest.mark.skipif(
    not os.environ.get("BERTH_GUEST") or not pure_v2(),
    reason="needs a machine of its own, to swap and to have slow disks: shown in the guest lane",
)
# Takes so many MiB and writes to each page, then waits.
EATER = """
import time
data = bytearray({} << 20)
data[::4096] = b'x' * len(data[::4096])
print('eaten', flush=True)
time.sleep(6000)
"""


@contextmanager
def swap(path: Path, megabytes: int) -> Iterator[None]:
    """Swap space for a while."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, megabytes * MB)
    os.chmod(path, 0o600)
    subprocess.run(["mkswap", str(path)], check=True, capture_output=True)
    subprocess.run(["swapon", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", str(path)], check=True)
        path.unlink()


def eat(engine: EngineProcess, name: str, megabytes: int, *options: str) -> str:
    """What becomes of a container that takes so much memory: what it printed, or its end."""
    places = [option for path in ("/usr", "/lib", "/lib64") for option in ("-v", f"{path}:{path}:ro")]
    engine.ok("run", "-d", "--name", name, *options, *places, "busybox", "/usr/bin/python3", "-ISc", EATER.format(megabytes))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if said := engine.ok("logs", name):
            return said
        if engine.ok("inspect", "-f", "{{.State.Running}}", name) == "false":
            return engine.ok("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", name)
        time.sleep(0.5)
    raise AssertionError(f"{name} neither ate nor ended")


def test_memory_goes_to_swap_up_to_its_limit(engine: EngineProcess, tmp_path: Path) -> None:
    with swap(tmp_path / "swap", 256):
        assert eat(engine, "unswapped", 60, "-m", "40m", "--memory-swap", "40m") == "137 true"
        assert eat(engine, "bounded", 120, "-m", "40m") == "137 true", "as much swap as memory, by default"
        assert eat(engine, "swapping", 60, "-m", "40m", "--memory-swap", "120m") == "eaten"
        used = int(Groups(engine, "swapping").read("memory", "", "memory.swap.current"))
        assert 15 * MB < used <= 80 * MB
        assert eat(engine, "endless", 120, "-m", "40m", "--memory-swap", "-1") == "eaten"
        engine.ok("rm", "-f", "unswapped", "bounded", "swapping", "endless")


def data_disk(path: str) -> str:
    """The device that a path is on."""
    device = os.stat(path).st_dev
    event = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/uevent").read_text()
    return "/dev/" + event.partition("DEVNAME=")[2].split()[0]


def test_a_disk_is_as_slow_as_asked(engine: EngineProcess) -> None:
    """The data root's disk: 4 MiB at 1 MiB a second take a while, and at once without the limit."""
    script = "dd if=/dev/zero of=/file bs=1M count=4 conv=fsync 2>/dev/null; dd if=/dev/zero of=/file bs=1M count=4 oflag=direct"
    disk = data_disk(engine.root)

    def seconds(*options: str) -> float:
        began = time.monotonic()
        done = engine.docker("run", "--rm", *options, "busybox", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - began

    free, slow = seconds(), seconds("--device-write-bps", f"{disk}:512kb")
    assert slow > free + 8, (free, slow)


def test_weights_of_disks_with_the_scheduler_that_has_them(engine: EngineProcess) -> None:
    disk = data_disk(engine.root)
    scheduler = Path(f"/sys/block/{Path(disk).name}/queue/scheduler")
    before = scheduler.read_text().partition("[")[2].partition("]")[0]
    subprocess.run(["modprobe", "bfq"], check=True)
    scheduler.write_text("bfq")
    try:
        engine.ok("run", "-d", "--name", "heavy", "--blkio-weight", "300", "busybox", "sleep", "6000")
        groups = Groups(engine, "heavy")
        assert groups.read("blkio", "", "io.bfq.weight").splitlines()[0].split()[-1] == "300"
        engine.ok("rm", "-f", "heavy")
    finally:
        scheduler.write_text(before or "none")


@pytest.mark.parametrize("options", [(), ("--userns", "host"), ("--network", "none"), ("--init",)], ids=str)
def test_hard_limits_can_be_above_the_engines_own(engine: EngineProcess, options: tuple[str, ...]) -> None:
    """As `memlock: -1` in many Compose files asks for."""
    assert engine.process is not None
    files = resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE)[1]
    locked = resource.prlimit(engine.process.pid, resource.RLIMIT_MEMLOCK)[1]
    assert locked != resource.RLIM_INFINITY, "or this shows nothing"
    raised = ("--ulimit", "memlock=-1:-1", "--ulimit", f"nofile={files + 1000}:{files + 1000}")
    engine.ok("run", "-d", "--name", "raised", *options, *raised, "busybox", "sleep", "6000")
    show = "ulimit -n; ulimit -Hn; ulimit -l; ulimit -Hl"
    wanted = [str(files + 1000)] * 2 + ["unlimited"] * 2
    assert engine.ok("exec", "raised", "sh", "-c", show).split() == wanted
    ours = Path(f"/proc/{engine.ok('inspect', '-f', '{{.State.Pid}}', 'raised')}/limits").read_text()
    assert [line.split()[-3:-1] for line in ours.splitlines() if "locked" in line] == [["unlimited"] * 2]
    above = int(Path("/proc/sys/fs/nr_open").read_text()) + 1
    refused = engine.docker("run", "--rm", "--ulimit", f"nofile={above}:{above}", "busybox", "true")
    assert refused.returncode == 125 and "error setting rlimits RLIMIT_NOFILE" in refused.stderr


@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_ipvlan_networks_carry_traffic(engine: EngineProcess, mode: str) -> None:
    subprocess.run(["ip", "link", "add", "flat0", "type", "dummy"], check=True)
    try:
        subprocess.run(["ip", "link", "set", "flat0", "up"], check=True)
        engine.ok("network", "create", "-d", "ipvlan", "--subnet", "10.79.3.0/24", "-o", "parent=flat0", "-o",
                  f"ipvlan_mode={mode}", "flat")  # fmt: skip
        engine.ok("run", "-d", "--name", "server", "--network", "flat", "--ip", "10.79.3.9", "busybox", "sleep", "6000")
        shown = engine.ok("run", "--rm", "--network", "flat", "busybox", "sh", "-c", "ping -c 1 10.79.3.9 && ping -c 1 server")
        assert shown.count("1 packets received") == 2
        mac = Path("/sys/class/net/flat0/address").read_text().strip()
        assert engine.ok("exec", "server", "cat", "/sys/class/net/eth0/address") == mac, "that of its parent"
        engine.ok("rm", "-f", "server")
        engine.ok("network", "rm", "flat")
    finally:
        subprocess.run(["ip", "link", "del", "flat0"], check=True)
