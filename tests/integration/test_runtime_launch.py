"""Real launches: what a process sees in a container, and what is left of it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from berth.model.oci import Device, DeviceRule, Memory, Mount, Pids, Resources, Rlimit
from support.launching import BASE, Bench, Running, Wish, in_child, launch_and_wait, read_until

pytest_plugins = ["support.launch_fixture"]


def test_identity_ids_and_capabilities(bench: Bench) -> None:
    out = bench.shell("id; cat /proc/self/uid_map; grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status; hostname; echo $$")
    assert "uid=0(root) gid=0(root) groups=0(root),10(wheel)" in out
    assert out.split("\n")[1].split() == ["0", str(BASE), "65536"]
    assert "CapInh:\t0000000000000000" in out
    for kind in "Prm", "Eff", "Bnd":
        assert f"Cap{kind}:\t00000000a80425fb" in out
    assert "CapAmb:\t0000000000000000" in out
    assert "Seccomp:\t2" in out
    assert "NoNewPrivs:\t0" in out
    assert out.endswith("inside\n1\n")


def test_upper_keeps_the_containers_ids_on_disk(bench: Bench) -> None:
    request = bench.request(Wish(["sh", "-c", "echo a > /a; mkdir /d; chown 1000:1000 /d; rm /etc/passwd"]))
    outcome = in_child(bench, lambda: launch_and_wait(bench, request))
    upper = Path(request.directory) / "upper"
    assert outcome.code == 0
    assert (upper / "a").stat().st_uid == 0
    assert (upper / "d").stat().st_uid == 1000
    whiteout = os.lstat(upper / "etc/passwd")
    assert whiteout.st_rdev == 0 and whiteout.st_mode & 0o170000 == 0o020000


def test_devices_and_links(bench: Bench) -> None:
    out = bench.shell(
        "ls -l /dev; echo x > /dev/null; head -c 4 /dev/zero | wc -c; echo y > /dev/stdout; mknod /tmp/n c 1 3 2>&1 || true"
    )
    for name in (
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "ptmx -> pts/ptmx",
        "fd -> /proc/self/fd",
        "core -> /proc/kcore",
    ):
        assert name in out
    assert "4\ny\n" in out
    assert "Operation not permitted" in out


def test_mount_table_shows_no_path_of_the_host(bench: Bench) -> None:
    out = bench.shell("cat /proc/self/mountinfo /proc/mounts")
    assert bench.base not in out
    assert " / " in out


def test_masked_and_readonly_paths(bench: Bench) -> None:
    out = bench.shell(
        "cat /proc/kcore 2> /dev/null | wc -c; cat /proc/keys | wc -c; ls /sys/firmware | wc -l; ls /proc/acpi | wc -l;"
        "echo 1 2>&1 > /proc/sys/kernel/hostname; touch /sys/x 2>&1; touch /proc/irq/x 2>&1; true"
    )
    assert out.split()[:4] == ["0", "0", "0", "0"]
    assert out.count("Read-only file system") == 2


def test_readonly_root(bench: Bench) -> None:
    out = bench.shell(
        "touch /x 2>&1; touch /dev/shm/y && echo shm; touch /tmp/z && echo tmp",
        readonly=True,
        mounts=[Mount(destination="/tmp", type="tmpfs", source="tmpfs", options=["size=1m", "mode=1777", "nosuid"])],
    )
    assert "touch: /x: Read-only file system" in out
    assert "shm\ntmp\n" in out


def test_tmpfs_options(bench: Bench) -> None:
    mount = Mount(
        destination="/new/place", type="tmpfs", source="tmpfs", options=["noexec", "size=1m", "mode=750", "uid=1000", "gid=26"]
    )
    out = bench.shell(
        "stat -c '%a %u %g' /new/place; grep /new/place /proc/mounts;"
        "dd if=/dev/zero of=/new/place/f bs=1M count=2 2>&1 | tail -1; true",
        mounts=[mount],
    )
    assert out.startswith("750 1000 26\n")
    assert "noexec" in out and "size=1024k" in out


def test_bind_of_directory_file_and_readonly(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/old").write_text("old")
    (tmp_path / "file").write_text("text")
    mounts = [
        Mount(destination="/data", type="bind", source=str(tmp_path / "dir"), options=["rbind", "rprivate"]),
        Mount(destination="/ro", type="bind", source=str(tmp_path / "dir"), options=["rbind", "ro"]),
        Mount(destination="/etc/deep/file", type="bind", source=str(tmp_path / "file"), options=["bind"]),
    ]
    out = bench.shell(
        "cat /data/old /etc/deep/file; echo; echo new > /data/new; chown 5:5 /data/new; touch /ro/x 2>&1; stat -c %u /data/old",
        mounts=mounts,
    )
    assert out == "oldtext\ntouch: /ro/x: Read-only file system\n0\n"
    assert (tmp_path / "dir/new").stat().st_uid == 5


def test_recursive_bind_with_submounts_that_cannot_be_idmapped(bench: Bench) -> None:
    out = bench.shell(
        "ls /hostproc/1 | wc -l; cat /hostdev/null; ls /hostdev/pts > /dev/null && echo pts",
        mounts=[
            Mount(destination="/hostproc", type="bind", source="/proc", options=["rbind", "ro"]),
            Mount(destination="/hostdev", type="bind", source="/dev", options=["rbind", "rro"]),
        ],
    )
    assert int(out.split()[0]) > 10
    assert out.endswith("pts\n")


def test_bind_source_missing_is_named(bench: Bench) -> None:
    outcome = bench.run(Wish(["true"], mounts=[Mount(destination="/x", type="bind", source="/no/such", options=["bind"])]))
    assert outcome.failure == ("mount", 2, "/no/such")
    assert outcome.extra == []


def test_engine_files(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    out = bench.shell("cat /etc/hosts; echo '10.0.0.1 x' >> /etc/hosts", bind_files=((str(tmp_path / "hosts"), "/etc/hosts"),))
    assert out == "127.0.0.1 localhost\n"
    assert "10.0.0.1 x" in (tmp_path / "hosts").read_text()


def test_user_names_groups_and_home(bench: Bench) -> None:
    assert bench.shell("id; echo $HOME; pwd; grep CapEff /proc/self/status", user="bob", cwd="/home/bob").splitlines() == [
        "uid=1000(bob) gid=1000(bob) groups=10(wheel),1000(bob)",
        "/home/bob",
        "/home/bob",
        "CapEff:\t0000000000000000",
    ]
    assert "uid=1000(bob) gid=26(tapes)" in bench.shell("id", user="bob:tapes")
    assert "uid=77 gid=0(root) groups=0(root),26(tapes),99" in bench.shell("id", user="77", groups=("tapes", "99"))
    assert bench.shell("echo hello > /dev/stdout", user="bob") == "hello\n"
    assert bench.shell("echo $HOME", env=["PATH=/bin", "HOME=/tmp"]) == "/tmp\n"


def test_unknown_user(bench: Bench) -> None:
    outcome = bench.run(Wish(["true"], user="nobody"))
    assert outcome.failure == ("user", 0, "unable to find user nobody: no matching entries in passwd file")
    outcome = bench.run(Wish(["true"], user="bob:nothing"))
    assert outcome.failure == ("user", 0, "unable to find group nothing: no matching entries in group file")


def test_large_uid_by_an_extent(bench: Bench) -> None:
    extents = ((0, BASE, 65536), (1234567, BASE + 65536, 1))
    out = bench.shell(
        "id; touch /tmp/t 2>/dev/null; cp /bin/busybox /dev/shm/b && stat -c %u /dev/shm/b", user="1234567", extents=extents
    )
    assert "uid=1234567 gid=0" in out
    assert out.endswith("1234567\n")


def test_working_directory_is_made(bench: Bench) -> None:
    assert bench.shell("pwd; stat -c %u .", cwd="/made/here", user="bob") == "/made/here\n0\n"


def test_execve_errors(bench: Bench) -> None:
    for args, errno in ((["nothing"], 2), (["/no/thing"], 2), (["/etc/passwd"], 13), (["/bin"], 13)):
        outcome = bench.run(Wish(args))
        assert outcome.failure == ("execve", errno, args[0])
        assert outcome.extra == []


def test_exit_codes(bench: Bench) -> None:
    assert bench.run(Wish(["sh", "-c", "exit 7"])).code == 7
    assert bench.run(Wish(["sh", "-c", "kill -9 $$; exec sleep 0"])).code == 0, "init is not killed from inside"


def test_rlimits_umask_and_oom_score(bench: Bench) -> None:
    limits = [Rlimit(type="RLIMIT_NOFILE", soft=100, hard=200), Rlimit(type="RLIMIT_CORE", soft=0, hard=0)]
    out = bench.shell(
        "ulimit -n; ulimit -Hn; ulimit -c; umask; cat /proc/self/oom_score_adj", rlimits=limits, umask=0o027, oom_score_adj=300
    )
    assert out.split() == ["100", "200", "0", "0027", "300"]


def test_signals_are_reset(bench: Bench) -> None:
    out = bench.run(Wish(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])).output
    assert out == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"


def test_terminal(bench: Bench) -> None:
    outcome = bench.run(
        Wish(["sh", "-c", "tty; stty size; ls -l /dev/console; echo hi > /dev/tty; test -t 0 && echo yes"], terminal=True)
    )
    assert outcome.code == 0, outcome
    lines = outcome.output.split("\r\n")
    assert lines[:2] == ["/dev/pts/0", "24 80"] or lines[:2] == ["/dev/console", "24 80"]
    assert "136,   0" in lines[2]
    assert lines[3:5] == ["hi", "yes"]


def test_sysctls(bench: Bench) -> None:
    wanted = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 65535", "kernel.shmmax": "1234567"}
    out = bench.shell(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shmmax",
        sysctl=wanted,
    )
    assert out.split() == ["0", "0", "65535", "1234567"]


def test_sysctl_that_fails_is_named(bench: Bench) -> None:
    outcome = bench.run(Wish(["true"], sysctl={"net.no.such": "1"}))
    assert outcome.failure == ("sysctl", 2, "net.no.such = 1")


def test_private_control_group_view(bench: Bench) -> None:
    out = bench.shell(
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max",
        resources=Resources(pids=Pids(limit=55)),
    )
    assert all(line.endswith(":/") for line in out.splitlines() if line[0].isdigit() and ":" in line)
    assert out.endswith("55\n")


def test_memory_limit_kills_and_is_told(bench: Bench) -> None:
    wish = Wish(
        ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"],
        resources=Resources(memory=Memory(limit=16 << 20, swap=16 << 20)),
    )
    outcome = bench.run(wish)
    assert outcome.code == -9 and outcome.oom


def test_device_rules(bench: Bench) -> None:
    # loop-control: opening it for reading does nothing
    device = Device(path="/dev/net/loops", type="c", major=10, minor=237, file_mode=0o640, uid=0, gid=26)
    script = "stat -c '%a %u %g %t %T' /dev/net/loops; (: < /dev/net/loops) 2>/dev/null && echo opened || echo refused"
    denied = Resources(devices=[DeviceRule(allow=False, access="rwm")])
    allowed = Resources(devices=[*denied.devices, DeviceRule(allow=True, type="c", major=10, minor=237, access="r")])
    assert bench.shell(script, devices=[device], resources=denied) == "640 0 26 a ed\nrefused\n"
    assert bench.shell(script, devices=[device], resources=allowed) == "640 0 26 a ed\nopened\n"


def test_device_outside_dev(bench: Bench) -> None:
    out = bench.shell(
        "echo x > /opt/mynull && ls -l /opt/mynull", devices=[Device(path="/opt/mynull", type="c", major=1, minor=3)]
    )
    assert "1,   3" in out


def test_no_new_privileges_and_unconfined(bench: Bench) -> None:
    out = bench.shell("grep -E '^(NoNew|Seccomp:)' /proc/self/status", no_new_privileges=True, seccomp=None)
    assert out == "NoNewPrivs:\t1\nSeccomp:\t0\n"
    assert "NoNewPrivs:\t1\nSeccomp:\t2" in bench.shell("grep -E '^(NoNew|Seccomp:)' /proc/self/status", no_new_privileges=True)


def test_host_user_namespace(bench: Bench) -> None:
    names = ("pid", "network", "mount", "ipc", "uts", "cgroup")
    out = bench.shell(
        "cat /proc/self/uid_map; grep CapEff /proc/self/status; touch /f; stat -c %u /f; ls -ln /dev/null", namespaces=names
    )
    assert out.split()[:3] == ["0", "0", "4294967295"]
    assert "00000000a80425fb" in out


def test_host_namespaces(bench: Bench) -> None:
    out = bench.shell(
        "for n in net pid uts ipc; do readlink /proc/self/ns/$n; done",
        namespaces=("mount",),
        without=("/dev/mqueue",),
        hostname=None,
    )
    mine = [os.readlink(f"/proc/self/ns/{name}") for name in ("net", "pid", "uts", "ipc")]
    assert out.split()[:4] == mine


def test_host_network_inside_a_user_namespace(bench: Bench) -> None:
    out = bench.shell("ls /sys/class/net; touch /sys/x 2>&1 || true", namespaces=("user", "pid", "mount", "ipc", "uts", "cgroup"))
    physical = {name for name in os.listdir("/sys/class/net") if os.path.exists(f"/sys/class/net/{name}/device")}
    assert {"lo", *physical} <= set(out.split())
    assert "Read-only" in out


def test_ambient_capabilities(bench: Bench) -> None:
    out = bench.shell("grep -E 'Cap(Eff|Amb)' /proc/self/status", user="bob", ambient=["CAP_NET_BIND_SERVICE"])
    assert out == "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n"


def test_environment_is_exactly_what_was_asked(bench: Bench) -> None:
    out = bench.run(Wish(["env"], env=["PATH=/bin", "A=1", "B=x=y"])).output
    assert sorted(out.splitlines()) == ["A=1", "B=x=y", "HOME=/root", "PATH=/bin"]


def test_one_layer_without_upper(bench: Bench) -> None:

    for layers in (("layers/base",), ("layers/base", "layers/base2")):
        os.makedirs(bench.store + "/layers/base2", exist_ok=True)
        request = bench.request(Wish(["sh", "-c", "touch /x 2>&1; id -u"]))
        request = msgspec.structs.replace(
            request, rootfs=msgspec.structs.replace(request.rootfs, layers=layers, upper=None, work=None)
        )
        outcome = in_child(bench, lambda request=request: launch_and_wait(bench, request))
        assert "Read-only file system\n0\n" in outcome.output, outcome


def test_hundred_layers(bench: Bench) -> None:
    layers = tuple(bench.layer_with(lambda path, n=n: (path / f"file{n}").write_text(str(n))) for n in range(100))
    assert bench.shell("ls / | grep -c ^file", layers=layers) == "100\n"


def test_init_reaps_and_passes_signals_and_codes_on(bench: Bench) -> None:
    script = "sh -c 'sleep 0.1 & :'; cat /proc/1/comm; echo $$; sleep 0.3; ps -o stat | grep -c Z; exit 9"
    outcome = bench.run(Wish(["sh", "-c", script], init=True))
    assert outcome.code == 9
    assert outcome.output.split()[1:] == ["2", "0"], outcome
    assert "python" not in outcome.output

    def use(container: Running) -> tuple[int, int]:
        read_until(container.read, b"ready")
        os.kill(container.started.pid, 15)
        code = os.waitstatus_to_exitcode(os.waitpid(container.started.pid, 0)[1])
        return code, len(os.listdir("/proc/self/task"))

    trap = ["sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"]
    assert bench.running(Wish(trap, init=True), use)[0] == 42
    assert bench.run(Wish(["sh", "-c", "kill -11 $$"], init=True)).code == 139


def test_init_memory(bench: Bench) -> None:
    def use(container: Running) -> str:
        return Path(f"/proc/{container.started.pid}/smaps_rollup").read_text()

    rollup = bench.running(Wish(["sleep", "1000"], init=True), use)
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss < 32, "kB: process 1 is not an interpreter"


def test_init_with_terminal_and_missing_program(bench: Bench) -> None:
    outcome = bench.run(Wish(["sh", "-c", "tty; test -t 0 && echo yes; read line; echo got $line"], init=True, terminal=False))
    assert outcome.output.endswith("got\n")
    outcome = bench.run(
        Wish(["sh", "-c", "test -t 0 && echo yes; ps -o pgid,tty,args > /dev/null; echo > /dev/tty"], init=True, terminal=True)
    )
    assert outcome.code == 0 and outcome.output.startswith("yes")
    assert bench.run(Wish(["nothing"], init=True)).failure == ("execve", 2, "nothing")
    assert bench.run(Wish(["/etc/passwd"], init=True)).failure == ("execve", 13, "/etc/passwd")
