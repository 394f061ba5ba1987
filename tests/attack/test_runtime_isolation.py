"""SECURITY rows of the runtime: what a hostile image, or a process in a container, must not achieve. Marker files only."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.errors import InvalidArgument
from berth.model.oci import Device, Mount, Resources
from berth.runtime import sysctl
from support.launching import CAPABILITIES, NAMESPACES, Bench, Running, Wish

pytest_plugins = ["support.launch_fixture"]


def test_row_1_the_entering_process_cannot_be_looked_into(bench: Bench) -> None:
    # A process inside loops over all of /proc while others enter: before execve it must never see their descriptors.
    script = (
        "while :; do for p in /proc/[0-9]*; do test $p = /proc/1 ||"
        " (ls -l $p/fd 2>/dev/null; readlink $p/exe 2>/dev/null) | "
        "grep -E 'python|socket|memfd' >> /dev/shm/seen; done; done"
    )
    wish = Wish(["sh", "-c", script], capabilities=[*CAPABILITIES, "CAP_SYS_PTRACE"])

    def use(container: Running) -> str:
        for _ in range(40):
            assert container.exec(["true"]).code == 0
        return container.shell("cat /dev/shm/seen 2>/dev/null; true")

    assert bench.running(wish, use) == ""


def test_row_2_the_runtime_cannot_be_overwritten(bench: Bench) -> None:
    interpreter = Path(sys.executable).resolve()
    before = interpreter.read_bytes()

    def script_of_self(path: Path) -> None:
        (path / "evil").write_text("#!/proc/self/exe\nprint('ran')\n")
        (path / "evil").chmod(0o755)

    layer = bench.layer_with(script_of_self)
    for args in (["/proc/self/exe", "-c", "open('/proc/self/exe','r+b')"], ["/evil"]):
        outcome = bench.run(Wish(args), (layer,))
        # Linux resolves the link to what runs at the moment of execve; whatever that does, nothing is written.
        assert "ran" not in outcome.output
    out = bench.shell("readlink /proc/1/exe; (echo x >> /proc/1/exe) 2>&1; true")
    assert "python" not in out
    assert interpreter.read_bytes() == before


def test_row_3_and_4_nothing_is_mounted_over_proc(bench: Bench, tmp_path: Path) -> None:
    for target in ("/proc", "/proc/sys", "/proc/self/attr", "//proc/../proc/1", "/proc/"):
        mounts = [Mount(destination=target, type="bind", source=str(tmp_path), options=["rbind"])]
        with pytest.raises(InvalidArgument, match="inside /proc"):
            bench.compiler.launch(bench.request(Wish(["true"], mounts=mounts)))


def test_row_8_a_link_to_proc_is_no_mount_point(bench: Bench, tmp_path: Path) -> None:
    layer = bench.layer_with(lambda path: os.symlink("/proc", path / "innocent"))
    for target in "/innocent", "/innocent/self/attr", "/innocent/sys":
        mounts = [Mount(destination=target, type="bind", source=str(tmp_path), options=["rbind"])]
        outcome = bench.run(Wish(["true"], mounts=mounts), (layer,))
        assert outcome.failure is not None and "/proc" in outcome.failure[2], outcome


def test_row_6_no_inheritable_capabilities(bench: Bench) -> None:
    def use(container: Running) -> str:
        return container.shell("grep CapInh /proc/1/status /proc/self/status | cut -f2 | sort -u")

    assert bench.running(Wish(["sleep", "1000"]), use) == "0000000000000000\n"


def test_row_9_no_descriptor_and_no_directory_of_the_host(bench: Bench) -> None:
    out = bench.run(Wish(["ls", "/proc/self/fd"])).output
    assert set(out.split()) <= {"0", "1", "2", "3"}, "3 is what ls opened"

    for number in (*range(3, 20), 63, 64):
        outcome = bench.run(Wish(["pwd"], cwd=f"/proc/self/fd/{number}"))
        assert outcome.failure is not None and outcome.failure[0] == "chdir", outcome

    def use(container: Running) -> list[str]:
        steps = []
        for number in range(3, 20):
            outcome = container.exec(["pwd"], cwd=f"/proc/self/fd/{number}")
            steps.append(outcome.failure[0] if outcome.failure else outcome.output)
        steps.append(container.shell("ls /proc/self/fd | wc -w"))
        return steps

    *steps, count = bench.running(Wish(["sleep", "1000"]), use)
    assert set(steps) == {"chdir"}
    assert count == "4\n"


@pytest.fixture
def leaked(tmp_path: Path) -> Iterator[int]:
    """A directory of the host that whoever is forked here inherits, and would leave to the program that it executes."""
    opened = os.open(tmp_path, os.O_RDONLY)
    os.dup2(opened, 63, inheritable=True)
    os.close(opened)
    yield 63
    os.close(63)


def test_row_9_a_descriptor_that_was_leaked_does_not_reach_the_program(bench: Bench, leaked: int) -> None:
    assert str(leaked) not in bench.run(Wish(["ls", "/proc/self/fd"])).output.split()

    def use(container: Running) -> str:
        return container.shell("ls /proc/self/fd")

    assert str(leaked) not in bench.running(Wish(["sleep", "1000"]), use).split()


def test_row_9_a_descriptor_that_was_leaked_is_no_working_directory(bench: Bench, leaked: int) -> None:
    """That it is refused as what it is, is the first of two walls: behind it a directory outside of the root is refused, too."""

    def use(container: Running) -> object:
        return container.exec(["pwd"], cwd=f"/proc/self/fd/{leaked}").failure

    refused = ("chdir", errno.ELOOP)
    for failure in bench.run(Wish(["pwd"], cwd=f"/proc/self/fd/{leaked}")).failure, bench.running(Wish(["sleep", "1000"]), use):
        assert isinstance(failure, tuple) and failure[:2] == refused, failure


OUTSIDE = """
import os, sys
from berth.runtime import init
outside = os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY)
os.chroot(sys.argv[2])
os.chdir("/")
init.open_in_root = lambda *arguments: os.dup(outside)
try:
    init.chdir(None, path="/", make=False)
except (init.Failure, OSError) as error:
    print("refused")
else:
    print("let through")
"""


def test_row_9_a_directory_outside_of_the_root_is_refused_by_itself(tmp_path: Path) -> None:
    """The second wall: however the directory was reached, it has to be below the root."""
    (tmp_path / "root").mkdir()
    for outside, expected in ((tmp_path, "refused"), (tmp_path / "root", "let through")):
        program = f"import sys; sys.path[:0] = {sys.path!r}\n" + OUTSIDE
        command = [sys.executable, "-I", "-c", program, str(outside), str(tmp_path / "root")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.stdout == f"{expected}\n", done


def test_row_9_a_link_to_a_descriptor_as_directory(bench: Bench) -> None:
    layer = bench.layer_with(lambda path: os.symlink("/proc/self/fd/7", path / "work"))
    outcome = bench.run(Wish(["pwd"], cwd="/work"), (layer,))
    assert outcome.failure is not None and outcome.failure[0] == "chdir"


def test_row_11_null_of_the_image_is_not_used_for_masking(bench: Bench) -> None:
    def build(path: Path) -> None:
        (path / "dev").mkdir()
        os.symlink("/proc/sys/kernel/core_pattern", path / "dev/null")

    script = "stat -c '%t:%T %F' /proc/keys; stat -c %F /proc/timer_list; grep -c ' /proc/keys ' /proc/self/mountinfo"
    out = bench.shell(script, (bench.layer_with(build),))
    assert out == "1:3 character special file\ncharacter special file\n1\n"


def test_row_11_masking_without_a_dev_of_ours_fails_closed(bench: Bench) -> None:
    outcome = bench.run(Wish(["true"], without=("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"), masked=["/proc/keys"]))
    assert outcome.failure == ("mask", 19, "/dev/null")


def test_row_11_another_device_is_not_used_for_masking(bench: Bench) -> None:
    zero = Device(type="c", path="/dev/null", major=1, minor=5)
    assert bench.run(Wish(["true"], devices=[zero], masked=["/proc/keys"])).failure == ("mask", 19, "/dev/null")


def test_row_12_console_comes_from_our_own_devpts(bench: Bench) -> None:
    def build(path: Path) -> None:
        (path / "dev/pts").mkdir(parents=True)
        os.symlink("/proc/sysrq-trigger", path / "dev/pts/0")
        os.symlink("/proc/sysrq-trigger", path / "dev/console")

    outcome = bench.run(Wish(["stat", "-c", "%t:%T", "/dev/console"], terminal=True), (bench.layer_with(build),))
    assert outcome.output == "88:0\r\n"


def test_row_13_sysctls_go_to_a_private_proc(bench: Bench) -> None:
    # Whatever the image has at /proc, or a volume brings: the value arrives in the namespace.
    def build(path: Path) -> None:
        (path / "proc/sys/net/ipv4").mkdir(parents=True)
        (path / "proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("fake")

    layer = bench.layer_with(build)
    name = "net.ipv4.ip_unprivileged_port_start"
    assert bench.shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", (layer,), sysctl={name: "77"}) == "77\n"
    assert Path(f"{bench.store}/{layer}/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == "fake"


LINKS = ("dev", "proc", "sys", "etc", "etc/resolv.conf", "etc/hosts", "run", "dev/pts", "dev/shm", "sys/fs")


@pytest.mark.parametrize("userns", ["own", "host"])
@pytest.mark.parametrize("style", ["absolute", "relative", "dangling", "chain"])
def test_row_14_links_in_the_image_do_not_lead_out(bench: Bench, tmp_path: Path, style: str, userns: str) -> None:
    """In the host's user namespace nothing but the look-up is between a link and the canary."""
    namespaces = tuple(name for name in NAMESPACES if name != "user" or userns == "own")
    canary = tmp_path / "canary"
    (canary / "sub").mkdir(parents=True)
    (canary / "file").write_text("untouched")
    source = tmp_path / "source"
    source.write_text("engine's")
    for name in LINKS:
        outside = str(canary / "file") if "." in name or name.endswith("hosts") else str(canary)
        target = {
            "absolute": outside,
            "relative": "../" * 12 + outside[1:],
            "dangling": str(canary / "new/deep"),
            "chain": "hop/../" + "../" * 12 + outside[1:],
        }[style]

        def build(path: Path, name: str = name, target: str = target) -> None:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(target, path / name)

        layer = bench.layer_with(build)
        before = snapshot(canary)
        files = ((str(source), "/etc/resolv.conf"), (str(source), "/etc/hosts"))
        mount = Mount(destination="/run/x", type="tmpfs", source="tmpfs")
        outcome = bench.run(Wish(["true"], bind_files=files, mounts=[mount], namespaces=namespaces), (layer,))
        assert snapshot(canary) == before, name
        refused = name in ("proc", "sys")
        assert (outcome.failure is not None) is refused, (f"/{name} as a link is refused, others lead somewhere inside", outcome)
        assert outcome.extra == [], name
    assert source.read_text() == "engine's"


def snapshot(top: Path) -> list[tuple[str, int, bytes]]:
    return [(str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in sorted(top.rglob("*"))]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel.core_pattern", "|/evil"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=x"),
        ("net.ipv4.ip_forward\n", "1"),
        ("net/../kernel/core_pattern", "x"),
        ("net.ipv4..ip_forward", "1"),
        ("kernel/core_pattern", "x"),
        ("vm.overcommit_memory", "1"),
        ("fs.file-max", "1"),
        ("kernel.hostname", "x"),
    ],
)
def test_row_15_only_parameters_of_own_namespaces(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument):
        sysctl.check(name, value, frozenset(("ipc", "network", "uts")))


def test_row_15_not_in_the_hosts_namespaces() -> None:
    with pytest.raises(InvalidArgument, match="host network namespace"):
        sysctl.check("net.ipv4.ip_forward", "1", frozenset(("ipc", "uts")))
    with pytest.raises(InvalidArgument, match="host IPC namespace"):
        sysctl.check("kernel.shmmax", "1", frozenset(("network",)))


def test_row_16_no_control_group_can_be_mounted(bench: Bench) -> None:
    script = (
        "mkdir /tmp/c;"
        "unshare -r -m mount -t cgroup -o memory c /tmp/c 2>&1;"
        "mount -t cgroup -o memory c /tmp/c 2>&1;"
        "for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent; do"
        " (echo /evil > $f) 2>/dev/null && echo wrote; done;"
        "ls /tmp/c"
    )
    out = bench.run(Wish(["sh", "-c", script], resources=Resources())).output
    assert "wrote" not in out
    assert out.count("Operation not permitted") + out.count("ermission denied") >= 2, out
    assert "unshare: unshare" in out, ("it got as far as a user namespace of its own", out)
    assert "tasks" not in out


PROBE = """
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    r = libc.syscall(*[ctypes.c_long(x) for x in a])
    return 'ok' if r >= 0 else errno.errorcode[ctypes.get_errno()]
def sock(family):
    try:
        socket.socket(family, socket.SOCK_SEQPACKET if family == 38 else socket.SOCK_STREAM).close()
        return 'ok'
    except OSError as e:
        return errno.errorcode[e.errno]
print('alg', sock(38)); print('vsock', sock(40)); print('inet', sock(2))
print('keyctl', call(250, 0, 0, 0)); print('bpf', call(321, 0, 0, 0)); print('userfaultfd', call(323, 0))
print('io_uring', call(425, 1, 0)); print('personality', call(135, 0x1000)); print('future', call(600))
"""


def test_row_17_system_calls_that_have_been_the_way_out(bench: Bench) -> None:
    mounts = [
        Mount(destination=path, type="bind", source=path, options=["rbind", "ro"])
        for path in ("/usr", "/lib", "/lib64")
        if os.path.isdir(path)
    ]
    outcome = bench.run(Wish(["/usr/bin/python3", "-I", "-S", "-c", PROBE], mounts=mounts))
    got = dict(line.split() for line in outcome.output.splitlines())
    assert got.pop("inet") == "ok"
    assert got.pop("future") == "ENOSYS", "a program must see that a newer call does not exist, to fall back"
    assert got.pop("alg") in ("EPERM", "EAFNOSUPPORT")
    assert got.pop("vsock") in ("EPERM", "EAFNOSUPPORT")
    assert set(got.values()) == {"EPERM"}, got


def test_bind_of_a_shared_source_does_not_leak_back(bench: Bench, tmp_path: Path) -> None:
    # A clone that stayed in the peer group of its source would carry the container's mount to the host.
    wish = Wish(
        ["sh", "-c", "mount -t tmpfs t /data/sub && touch /data/sub/x && sleep 1000"],
        capabilities=[*CAPABILITIES, "CAP_SYS_ADMIN"],
        mounts=[Mount(destination="/data", type="bind", source=str(tmp_path), options=["rbind"])],
    )
    (tmp_path / "sub").mkdir()
    os.system(f"mount --bind {tmp_path} {tmp_path} && mount --make-shared {tmp_path}")
    try:

        def use(container: Running) -> bool:
            for _ in range(200):
                if os.path.exists(f"/proc/{container.started.pid}/root/data/sub/x"):
                    return True
                os.sched_yield()
                import time

                time.sleep(0.02)
            return False

        assert bench.running(wish, use), "the container could mount"
        assert list((tmp_path / "sub").iterdir()) == []
        assert f" {tmp_path}/sub " not in Path("/proc/self/mountinfo").read_text()
    finally:
        os.system(f"umount -R {tmp_path}")


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_row_37_account_files_that_hang_or_never_end(bench: Bench, name: str) -> None:
    def fifo(path: Path) -> None:
        (path / "etc").mkdir()
        os.mkfifo(path / "etc" / name)

    def folder(path: Path) -> None:
        (path / "etc" / name).mkdir(parents=True)

    def huge(path: Path) -> None:
        (path / "etc").mkdir()
        with open(path / "etc" / name, "wb") as file:
            file.truncate(10 << 30)

    def link_out(path: Path) -> None:
        (path / "etc").mkdir()
        os.symlink("/proc/self/fd/0", path / "etc" / name)

    for build, number in (fifo, errno.EINVAL), (folder, errno.EINVAL), (huge, errno.EFBIG):
        outcome = bench.run(Wish(["true"], user="bob:bob"), (bench.layer_with(build),))
        assert outcome.failure is not None and outcome.failure[:2] == ("user", number), (build.__name__, outcome)
    outcome = bench.run(Wish(["true"], user="bob:bob"), (bench.layer_with(link_out),))
    assert outcome.failure is not None and outcome.failure[0] == "user"


@pytest.mark.parametrize("user", ["4294967296", "2147483648", "-1", "0x0", "+0", "1e3", "99999999999999999999", "0:4294967296"])
def test_row_38_ids_out_of_range_do_not_become_root(bench: Bench, user: str) -> None:
    outcome = bench.run(Wish(["id"], user=user))
    assert outcome.failure is not None and outcome.failure[0] == "user", outcome
    # By our own rule, not by what the kernel makes of the number.
    assert ("must be in range" in outcome.failure[2]) is user.lstrip("-").replace(":", "").isdigit(), outcome
    assert "must be in range" in outcome.failure[2] or "unable to find user" in outcome.failure[2], outcome
