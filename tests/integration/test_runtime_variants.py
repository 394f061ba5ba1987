"""Other hosts and unusual wishes: cgroup v2, no control groups, propagation, limits that cannot be, failures half-way."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.kernel import bpf, mount
from berth.model.oci import Device, DeviceRule, Mount, Resources, Rlimit
from berth.runtime import cgroup, launch
from support.launching import CAPABILITIES, Bench, Running, Wish, in_child, launch_and_wait, read_until

pytest_plugins = ["support.launch_fixture"]

DENIED = Resources(devices=[DeviceRule(allow=False, access="rwm")])


@pytest.fixture
def only_v2(bench: Bench) -> Iterator[Bench]:
    """A compiler that sees cgroup2 alone, with whatever controllers it has here."""
    if bench.compiler.v2 is None:
        pytest.skip("this host has no cgroup2 mount")
    roots, bench.compiler.roots = bench.compiler.roots, {}
    yield bench
    bench.compiler.roots = roots


def test_v2_group_view_and_device_program(only_v2: Bench) -> None:
    device = Device(path="/dev/loops", type="c", major=10, minor=237, file_mode=0o666)
    script = (
        "cat /proc/self/cgroup | grep ^0:; cat /sys/fs/cgroup/cgroup.procs; (: < /dev/loops) 2>/dev/null && echo opened;"
        "echo x > /dev/null && echo null; touch /sys/fs/cgroup/x 2>&1"
    )
    out = only_v2.run(Wish(["sh", "-c", script], devices=[device], resources=DENIED)).output
    assert "0::/\n" in out and "1\n" in out
    assert "opened" not in out and "null\n" in out
    assert "Read-only file system" in out or "Permission denied" in out
    allowed = Resources(devices=[*DENIED.devices, DeviceRule(allow=True, type="c", major=10, minor=237, access="rw")])
    assert "opened" in only_v2.run(Wish(["sh", "-c", script], devices=[device], resources=allowed)).output


def test_v2_exec_freeze_and_kill(only_v2: Bench) -> None:
    def use(container: Running) -> list[object]:
        group = container.started.cgroup
        out = container.shell("cat /proc/self/cgroup | grep ^0:")
        cgroup.freeze(group, True)
        frozen = "frozen 1" in Path(cgroup.directories(group)[0] + "/cgroup.events").read_text()
        cgroup.kill(group)
        return [out, frozen, cgroup.pids(group)]

    assert only_v2.running(Wish(["sleep", "1000"]), use) == ["0::/\n", True, []]


def test_device_program_is_accepted_by_the_kernel() -> None:
    rules: list[tuple[bool, str, int | None, int | None, str]] = [(False, "a", None, None, "rwm")]
    rules += [(True, "c", major, minor, access) for major in range(30) for minor, access in ((1, "r"), (None, "rwm"))]
    fd = bpf.load_device_program(bpf.device_program(rules))
    os.close(fd)


def test_without_any_control_group(bench: Bench) -> None:
    roots, v2 = bench.compiler.roots, bench.compiler.v2
    bench.compiler.roots, bench.compiler.v2 = {}, None
    try:
        out = bench.shell("id -u; ls /sys/fs/cgroup | wc -l", resources=Resources())
    finally:
        bench.compiler.roots, bench.compiler.v2 = roots, v2
    assert out.split()[0] == "0"


def test_host_control_group_namespace(bench: Bench) -> None:
    names = ("user", "pid", "network", "mount", "ipc", "uts")
    out = bench.shell("cat /proc/self/cgroup; touch /sys/fs/cgroup/x 2>&1; ls /sys/fs/cgroup | head -3", namespaces=names)
    assert "/berth-launch-test/" in out
    assert "Read-only file system" in out


@pytest.mark.parametrize(("option", "appears"), [("rslave", True), ("rprivate", False)])
def test_propagation_into_the_container(bench: Bench, tmp_path: Path, option: str, appears: bool) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    subprocess.run(["mount", "--make-shared", tmp_path], check=True)
    try:

        def use(container: Running) -> bool:
            # the child has a mount namespace of its own: mount in the host's
            host = ["nsenter", f"--mount=/proc/{os.getppid()}/ns/mnt"]
            subprocess.run([*host, "mount", "-t", "tmpfs", "t", tmp_path / "sub"], check=True)
            try:
                return "/data/sub" in container.shell("cat /proc/self/mountinfo")
            finally:
                subprocess.run([*host, "umount", tmp_path / "sub"], check=True)

        wish = Wish(
            ["sleep", "1000"], mounts=[Mount(destination="/data", type="bind", source=str(tmp_path), options=["rbind", option])]
        )
        assert bench.running(wish, use) == appears
    finally:
        subprocess.run(["umount", "-R", tmp_path], check=True)


def test_a_mount_younger_than_the_launcher_is_seen(bench: Bench, tmp_path: Path) -> None:
    host = ["nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt"]

    def body() -> str:
        subprocess.run([*host, "mount", "-t", "tmpfs", "t", tmp_path], check=True)
        subprocess.run([*host, "touch", tmp_path / "young"], check=True)
        mounts = [Mount(destination="/data", type="bind", source=str(tmp_path), options=["rbind"])]
        return launch_and_wait(bench, bench.request(Wish(["ls", "/data"], mounts=mounts))).output

    try:
        assert in_child(bench, body) == "young\n"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_shared_propagation_reaches_the_host(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    subprocess.run(["mount", "--make-shared", tmp_path], check=True)
    wish = Wish(
        ["sh", "-c", "mount -t tmpfs t /data/sub && echo mounted && sleep 1000"],
        capabilities=[*CAPABILITIES, "CAP_SYS_ADMIN"],
        mounts=[Mount(destination="/data", type="bind", source=str(tmp_path), options=["rbind", "rshared"])],
    )

    def use(container: Running) -> bool:
        read_until(container.read, b"mounted")
        table = subprocess.run(
            ["nsenter", f"--mount=/proc/{os.getppid()}/ns/mnt", "cat", "/proc/self/mountinfo"],
            capture_output=True,
            text=True,
            check=True,
        )
        return f" {tmp_path}/sub " in table.stdout

    try:
        assert bench.running(wish, use)
    finally:
        subprocess.run(["umount", "-R", tmp_path], check=True)


def test_hard_limit_that_cannot_be_raised_is_named(bench: Bench) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    outcome = bench.run(Wish(["true"], rlimits=[Rlimit(type="RLIMIT_NOFILE", soft=hard + 1, hard=hard + 1)]))
    if outcome.failure is not None:
        assert outcome.failure == ("rlimit", 1, f"RLIMIT_NOFILE={hard + 1}:{hard + 1}")
    else:
        assert outcome.code == 0, "allowed where the engine may raise limits"


def test_directory_on_a_file(bench: Bench, tmp_path: Path) -> None:
    mounts = [Mount(destination="/etc/passwd", type="bind", source=str(tmp_path), options=["rbind"])]
    outcome = bench.run(Wish(["true"], mounts=mounts))
    assert outcome.failure is not None and outcome.failure[:2] == ("attach", 20)


def test_bad_filesystem_option_is_named(bench: Bench) -> None:
    mounts = [Mount(destination="/x", type="tmpfs", source="tmpfs", options=["size=nonsense"])]
    assert bench.run(Wish(["true"], mounts=mounts)).failure == ("mount", 22, "tmpfs option size")


def test_killed_while_starting_leaves_nothing(bench: Bench) -> None:
    # The setter-up is killed at many moments; the shim must clean up after it every time.
    def body() -> list[str]:
        problems = []
        for delay in range(0, 40, 2):
            request = bench.request(Wish(["sleep", "1000"]))
            plan = bench.compiler.launch(request)
            killer = os.fork()
            if killer == 0:
                parent = os.getppid()
                time.sleep(delay / 1000)
                for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                    if int(pid) != os.getpid():
                        os.kill(int(pid), signal.SIGKILL)
                os._exit(0)
            null = os.open("/dev/null", os.O_RDWR)
            try:
                started = launch.start(plan, (null, null, null), {})
            except launch.Failure:
                pass
            else:
                os.kill(started.pid, 9)
                os.waitpid(started.pid, 0)
                launch.end_rest(started.state)
                launch.cleanup(started.state)
            os.close(null)
            try:
                os.waitpid(killer, 0)
            except ChildProcessError:
                # reaped as a stray
                pass
            problems += [path for path in cgroup.directories(plan["cgroup"]) if os.path.exists(path)]
            try:
                problems.append(f"child {os.waitpid(-1, os.WNOHANG)}")
            except ChildProcessError:
                pass
        return problems

    assert in_child(bench, body) == []


def test_no_descriptor_is_lost_in_the_shim(bench: Bench) -> None:
    def body() -> tuple[int, int]:
        counts = []
        for _ in range(3):
            for args in (["true"], ["nothing"]):
                null = os.open("/dev/null", os.O_RDWR)
                try:
                    started = launch.start(bench.compiler.launch(bench.request(Wish(args))), (null, null, null), {})
                    os.waitpid(started.pid, 0)
                    os.close(started.pidfd)
                    launch.end_rest(started.state)
                    launch.cleanup(started.state)
                except launch.Failure:
                    pass
                os.close(null)
            counts.append(len(os.listdir("/proc/self/fd")))
        return counts[0], counts[-1]

    first, last = in_child(bench, body)
    assert first == last


def test_scratch_mounts_are_gone_after_a_launch(bench: Bench) -> None:
    def use(container: Running) -> list[str]:
        table = Path("/proc/self/mountinfo").read_text()
        return [line for line in table.splitlines() if "overlay" in line and bench.base in line] + os.listdir(
            f"{bench.store}/{launch.SCRATCH}"
        )

    assert bench.running(Wish(["sleep", "1000"]), use) == []


def test_attributes_have_the_kernels_numbers() -> None:
    assert (mount.MOUNT_ATTR_RDONLY, mount.MOUNT_ATTR_NOSYMFOLLOW, mount.MS_SHARED) == (1, 0x200000, 0x100000)
