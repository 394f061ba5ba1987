"""Flags of `docker run` that open or close a container, each by the effect that it has inside, or in the kernel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from berth.client.containers import CreateBody
from berth.errors import InvalidArgument
from berth.wire.container import HostConfig
from support.engine import EngineProcess

KINDS = ("pid", "ipc", "uts", "user", "cgroup", "net", "mnt")
DEFAULT_CAPABILITIES = 0xA80425FB


def run(engine: EngineProcess, script: str, *options: str) -> str:
    """Output of a shell in a new container."""
    return engine.ok("run", "--rm", *options, "busybox", "sh", "-c", script)


def refused(engine: EngineProcess, *options: str) -> str:
    """What the engine says when it refuses to make or start a container."""
    done = engine.docker("run", "--rm", *options, "busybox", "true")
    # 127 is what the docker CLI makes of any message about a missing file.
    assert done.returncode in (125, 127), done
    return done.stderr


def resident(engine: EngineProcess, name: str, *options: str) -> int:
    """The host's pid of a new container that sleeps."""
    engine.ok("run", "-d", "--stop-signal", "KILL", "--name", name, *options, "busybox", "sleep", "1000")
    return int(engine.ok("inspect", "-f", "{{.State.Pid}}", name))


def status(pid: int) -> dict[str, list[str]]:
    """The kernel's word on a process, as the host sees it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def minor_of_harmless_device() -> int:
    """Of a device that anybody may open whose control group lets him."""
    known = {name: int(minor) for minor, name in (line.split() for line in Path("/proc/misc").read_text().splitlines())}
    found = [known[name] for name in ("tun", "fuse", "loop-control") if name in known]
    if not found:
        pytest.skip("this kernel has none of tun, fuse and loop-control")
    return found[0]


def shared(pid: int, other: int | str) -> set[str]:
    """The kinds of namespaces that two processes are in together."""
    return {kind for kind in KINDS if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{other}/ns/{kind}")}


# Namespaces


@pytest.mark.parametrize(
    ("options", "common"),
    [
        ((), set()),
        (("--ipc", "private", "--cgroupns", "private"), set()),
        (("--ipc", "shareable"), set()),
        (("--ipc", "none", "--network", "none"), set()),
        (("--userns", "host"), {"user"}),
        (("--pid", "host"), {"pid", "user"}),
        (("--ipc", "host"), {"ipc", "user"}),
        (("--uts", "host"), {"uts", "user"}),
        (("--network", "host"), {"net", "user"}),
        (("--cgroupns", "host"), {"cgroup"}),
        (("--privileged",), {"user", "cgroup"}),
    ],
)
def test_what_is_shared_with_the_host(engine: EngineProcess, options: tuple[str, ...], common: set[str]) -> None:
    assert shared(resident(engine, "one", *options), "self") == common


@pytest.mark.parametrize(
    ("options", "common"),
    [
        (("--network", "container:one"), {"net", "user"}),
        (("--pid", "container:one"), {"pid", "user"}),
        (("--ipc", "container:one"), {"ipc", "user"}),
        (("--pid", "container:one", "--network", "container:one", "--ipc", "container:one"), {"pid", "net", "ipc", "user"}),
    ],
)
def test_what_is_shared_with_a_container(engine: EngineProcess, options: tuple[str, ...], common: set[str]) -> None:
    one = resident(engine, "one", "--ipc", "shareable")
    assert shared(resident(engine, "two", *options), one) == common


def test_memory_is_shared_by_ipc_mode(engine: EngineProcess) -> None:
    resident(engine, "one", "--ipc", "shareable", "--shm-size", "3m")
    engine.ok("exec", "one", "sh", "-c", "echo shared > /dev/shm/file")
    assert run(engine, "cat /dev/shm/file; df -k /dev/shm | tail -1", "--ipc", "container:one").split()[:3] == [
        "shared",
        "shm",
        "3072",
    ]
    assert run(engine, "mount | grep -c ' /dev/shm ' || true", "--ipc", "none") == "0"
    resident(engine, "closed")
    assert "non-shareable IPC" in refused(engine, "--ipc", "container:closed")


def test_processes_by_pid_mode(engine: EngineProcess) -> None:
    resident(engine, "one", "--hostname", "of-one")
    assert run(engine, "echo $$; ls -d /proc/[0-9]* | wc -l").split()[0] == "1"
    assert "sleep 1000" in run(engine, "tr '\\0' ' ' < /proc/1/cmdline", "--pid", "container:one")
    assert run(engine, "kill -9 1; hostname", "--pid", "container:one", "--hostname", "of-two") == "of-two"
    assert int(run(engine, "echo $$", "--pid", "host")) > 1


def test_the_cgroup_namespace(engine: EngineProcess) -> None:
    script = "cut -d: -f3 /proc/self/cgroup | sort -u"
    # Hierarchies that nobody uses for containers stand at their top in either case.
    assert set(run(engine, script).splitlines()) <= {"/", "/.."}
    id = engine.ok("create", "--cgroupns", "host", "busybox", "sh", "-c", script)
    assert any(id in line for line in engine.ok("start", "-a", id).splitlines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pid", "other"), "invalid PID mode"),
        (("--ipc", "other"), "invalid IPC mode"),
        (("--uts", "other"), "invalid UTS mode"),
        (("--userns", "other"), "invalid USER mode"),
        (("--network", "container:no-such"), "No such container: no-such"),
        (("--uts", "host", "--hostname", "x"), "conflicting options: hostname and the UTS mode"),
        (("--sysctl", "net.core.somaxconn=1", "--network", "host"), "not allowed in host network namespace"),
    ],
)
def test_modes_that_make_no_sense(engine: EngineProcess, options: tuple[str, ...], message: str) -> None:
    assert message in refused(engine, *options)


# --security-opt


def test_no_new_privileges(engine: EngineProcess) -> None:
    found = {
        option: run(engine, "grep NoNewPrivs /proc/self/status", *(["--security-opt", option] if option else [])).split()[1]
        for option in ("", "no-new-privileges", "no-new-privileges=true", "no-new-privileges:false", "no-new-privileges=0")
    }
    assert list(found.values()) == ["0", "1", "1", "0", "0"], found


def test_no_new_privileges_as_the_engines_default() -> None:
    process = EngineProcess("--no-new-privileges")
    try:
        process.start()
        process.add_busybox()
        look = ("busybox", "grep", "NoNewPrivs", "/proc/self/status")
        assert process.ok("run", "--rm", *look).split()[1] == "1"
        assert process.ok("run", "--rm", "--security-opt", "no-new-privileges=false", *look).split()[1] == "0"
        process.ok("run", "-d", "--stop-signal", "KILL", "--name", "one", "busybox", "sleep", "1000")
        assert process.ok("exec", "one", *look[1:]).split()[1] == "1"
        assert "no-new-privileges" in process.ok("info", "--format", "{{.SecurityOptions}}")
    finally:
        process.shut_down()


def test_seccomp(engine: EngineProcess, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22}],
            }
        )
    )
    look = "grep Seccomp: /proc/self/status; unshare -U true 2>&1; mkdir /tmp/x 2>&1; true"
    builtin = run(engine, look, "--security-opt", "seccomp=builtin")
    assert "Seccomp:\t2" in builtin
    assert "not permitted" in builtin
    assert run(engine, look, "--security-opt", "seccomp=unconfined") == "Seccomp:\t0"
    custom = run(engine, look, "--security-opt", f"seccomp={profile}")
    assert custom.splitlines() == ["Seccomp:\t2", "mkdir: can't create directory '/tmp/x': Invalid argument"]
    profile.write_text('{"defaultAction": "SCMP_ACT_MAYBE"}')
    assert "SCMP_ACT_MAYBE" in refused(engine, "--security-opt", f"seccomp={profile}")


def test_system_paths(engine: EngineProcess) -> None:
    look = "mount | grep -c -E ' /proc/| /sys/firmware' || true"
    assert int(run(engine, look)) > 5
    assert run(engine, look, "--security-opt", "systempaths=unconfined") == "0"


def test_writable_control_groups(engine: EngineProcess) -> None:
    """Groups below its own it may make and use, on cgroup2 also in its user namespace; its own limits stay out of reach."""
    script = """
    for top in /sys/fs/cgroup/unified /sys/fs/cgroup; do
        [ -e $top/cgroup.controllers ] || continue
        mkdir $top/inner 2>/dev/null && echo $$ > $top/inner/cgroup.procs && echo moved
        echo 1000 2>/dev/null > $top/cgroup.max.descendants && echo raised
    done; true
    """
    assert run(engine, script) == ""
    assert run(engine, script, "--security-opt", "writable-cgroups=false") == ""
    if "cgroup2" in Path("/proc/self/mountinfo").read_text():
        assert run(engine, script, "--security-opt", "writable-cgroups=true") == "moved"


def test_a_filter_of_few_calls(engine: EngineProcess, tmp_path: Path) -> None:
    """People write profiles of what their program needs, and wrote them before close_range and faccessat2: what starts it
    gets along with that, with what runc needs besides, and without any call of sockets."""
    program = "execve exit exit_group brk mmap munmap mprotect arch_prctl read write writev uname readlink prlimit64"
    runtime = "close openat newfstatat fstat access faccessat futex getpid getuid geteuid getgid getegid fcntl ioctl lseek"
    privileges = "prctl capget capset rt_sigaction rt_sigprocmask rt_sigreturn set_tid_address getrandom setpgid"
    rule = {"names": f"{program} {runtime} {privileges}".split(), "action": "SCMP_ACT_ALLOW"}
    profile = tmp_path / "few.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}))
    few = ("--security-opt", f"seccomp={profile}")
    assert engine.ok("run", "--rm", *few, "busybox", "echo", "began") == "began"
    assert "Operation not permitted" in engine.docker("run", "--rm", *few, "busybox", "mkdir", "/x").stderr


@pytest.mark.parametrize("option", ["nonsense", "nonsense=1", "no-new-privileges=maybe", "seccomp=", "writable-cgroups=x"])
def test_security_options_that_do_not_exist(engine: EngineProcess, option: str) -> None:
    assert refused(engine, "--security-opt", option)


LABELS = [
    ("apparmor=unconfined", ""),
    ("apparmor=docker-default", "AppArmor"),
    ("label=disable", ""),
    ("label=level:s0:c1,c2", "SELinux"),
]


@pytest.mark.parametrize(("option", "module"), LABELS)
def test_labels_where_the_kernel_has_no_such_module(engine: EngineProcess, option: str, module: str) -> None:
    """As with Docker the container runs; berth says that nothing came of it."""
    if os.path.exists("/sys/module/apparmor/parameters/enabled") or os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("this kernel has a security module that uses labels")
    done = engine.docker("run", "--rm", "--security-opt", option, "busybox", "cat", "/proc/self/attr/current")
    assert done.returncode in (0, 1), done
    assert (f"{module} is not enabled on this host" in done.stderr) == bool(module), done


# Devices


def test_devices_with_their_permissions(engine: EngineProcess, tmp_path: Path) -> None:
    """The device control group knows numbers: here one that no container may open otherwise."""
    minor = minor_of_harmless_device()
    node, numbers = tmp_path / "node", f"a:{minor:x}"
    os.mknod(node, 0o020666, os.makedev(10, minor))
    look = """
    test -c /dev/mine && stat -c %t:%T /dev/mine
    ( : < /dev/mine ) 2>/dev/null && echo reads; ( : >> /dev/mine ) 2>/dev/null && echo writes; true
    """
    assert run(engine, look, "--device", f"{node}:/dev/mine").split() == [numbers, "reads", "writes"]
    assert run(engine, look, "--device", f"{node}:/dev/mine:r").split() == [numbers, "reads"]
    assert run(engine, look, "--device", f"{node}:/dev/mine:w").split() == [numbers, "writes"]
    assert run(engine, "ls -l /dev/zero | cut -c1; echo x > /dev/zero && echo writes", "--device", "/dev/zero").split() == [
        "c",
        "writes",
    ]
    assert "no such file" in refused(engine, "--device", "/dev/no-such").lower()
    assert "not a device node" in refused(engine, "--device", "/etc/passwd")


def test_a_directory_of_devices(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "dev/below").mkdir(parents=True)
    for name, minor in (("dev/null2", 3), ("dev/below/zero2", 5)):
        os.mknod(tmp_path / name, 0o020666, os.makedev(1, minor))
    script = "head -c 2 /dev/all/below/zero2 | wc -c; echo x > /dev/all/null2 && echo written"
    assert run(engine, script, "--device", f"{tmp_path}/dev:/dev/all").split() == ["2", "written"]


def test_device_rules_reach_the_kernel(engine: EngineProcess) -> None:
    # One that may be opened by anybody, if only its control group lets it.
    minor = minor_of_harmless_device()
    script = f"mknod /tmp/node c 10 {minor}; ( : < /tmp/node ) 2>/dev/null && echo opened || echo refused"
    as_root = ("--userns", "host", "--tmpfs", "/tmp:dev")
    assert run(engine, script, *as_root) == "refused"
    assert run(engine, script, *as_root, "--device-cgroup-rule", f"c 10:{minor} r") == "opened"
    assert run(engine, script, *as_root, "--device-cgroup-rule", "c *:* rwm") == "opened"


# Kernel parameters


def test_parameters_of_its_own_namespaces(engine: EngineProcess) -> None:
    wish = {
        "net.ipv4.ip_forward": "1",
        "net.core.somaxconn": "321",
        "kernel.shmmax": "1234567",
        "kernel.msgmax": "9000",
        "fs.mqueue.msg_max": "11",
    }
    files = " ".join("/proc/sys/" + name.replace(".", "/") for name in wish)
    options = [word for name, value in wish.items() for word in ("--sysctl", f"{name}={value}")]
    assert run(engine, f"cat {files}", *options).split() == list(wish.values())


@pytest.mark.parametrize(
    "pair",
    ["kernel.core_pattern=|/x", "vm.swappiness=1", "kernel.hostname=x", "kernel.shmmax=1\nkernel.core_pattern=x", "net/../vm=1"],
)
def test_row_15_parameters_of_the_host_are_refused(engine: EngineProcess, pair: str) -> None:
    assert "sysctl" in refused(engine, "--sysctl", pair)
    # The docker CLI has such a rule, too; others do not.
    name, _, value = pair.partition("=")
    with engine.client as client, pytest.raises(InvalidArgument, match="sysctl"):
        client.containers.create(CreateBody(image="busybox", host_config=HostConfig(sysctls={name: value})))


# Power


def test_capabilities(engine: EngineProcess) -> None:
    look = "grep CapEff /proc/self/status"

    def held(*options: str) -> int:
        return int(run(engine, look, *options).split()[1], 16)

    assert held() == DEFAULT_CAPABILITIES
    assert held("--cap-drop", "ALL") == 0
    assert held("--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "cap_chown") == 1 << 12 | 1
    assert held("--cap-drop", "CAP_CHOWN") == DEFAULT_CAPABILITIES & ~1
    everything = held("--cap-add", "ALL", "--cap-drop", "SYS_ADMIN")
    assert everything & 1 << 21 == 0
    assert everything & 1 << 12
    assert "unknown capability" in refused(engine, "--cap-add", "NO_SUCH")


def test_privileged(engine: EngineProcess) -> None:
    pid = resident(engine, "one", "--privileged")
    of = status(pid)
    assert of["Seccomp"] == ["0"]
    assert of["CapEff"] == status(os.getpid())["CapBnd"]
    assert of["Uid"][0] == "0"
    script = "mount | grep -E ' /sys | /proc/' ; ls /dev; mkdir /inside && mount -t tmpfs t /inside && echo mounted"
    out = engine.ok("exec", "one", "sh", "-c", script)
    assert " /sys type sysfs (rw" in out
    assert " /proc/" not in out
    assert "mounted" in out
    nodes = {name for name in os.listdir("/dev") if Path("/dev", name).is_block_device() or Path("/dev", name).is_char_device()}
    assert nodes - {"console"} <= set(out.split())


def test_identity_and_limits_of_the_process(engine: EngineProcess) -> None:
    options = ["--group-add", "extra", "--group-add", "4321", "--oom-score-adj", "123", "--ulimit", "nofile=100:200"]
    options += ["--ulimit", "core=0", "-u", "worker"]
    script = "id -G; cat /proc/self/oom_score_adj; ulimit -S -n; ulimit -H -n; ulimit -c"
    assert run(engine, script, *options).split() == ["1000", "2000", "4321", "123", "100", "200", "0"]


def test_file_systems_in_memory(engine: EngineProcess) -> None:
    options = ["--read-only", "--tmpfs", "/scratch:rw,noexec,size=2m,mode=1770,uid=1000", "--tmpfs", "/plain", "--shm-size", "5m"]
    script = """
    touch /root/x 2>/dev/null || echo readonly; stat -c '%a %u' /scratch; df -k /scratch /dev/shm | awk '{print $2}'
    cp /bin/true /scratch/true && /scratch/true 2>/dev/null || echo noexec; mount | grep ' /plain '
    """
    lines = run(engine, script, *options).splitlines()
    assert lines[:2] == ["readonly", "1770 1000"]
    assert lines[3:5] == ["2048", "5120"]
    assert lines[5] == "noexec"
    assert all(flag in lines[6] for flag in ("nosuid", "nodev", "noexec"))


def test_init_and_annotations(engine: EngineProcess) -> None:
    options = ("--init", "--annotation", "org.example.note=kept")
    assert run(engine, "echo $$; wc -l < /proc/1/cmdline", *options).split()[0] != "1"
    id = engine.ok("create", *options, "busybox", "true")
    assert (
        engine.ok("inspect", "-f", '{{index .HostConfig.Annotations "org.example.note"}} {{.HostConfig.Init}}', id) == "kept true"
    )


def test_the_host_sees_none_of_it() -> None:
    """Parameters that containers above set for themselves are still the host's own."""
    values = {
        name: Path("/proc/sys/" + name).read_text().strip() for name in ("kernel/shmmax", "kernel/msgmax", "net/core/somaxconn")
    }
    assert not {"1234567", "9000", "321"} & set(values.values())
    assert subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip() != "of-two"


@pytest.mark.parametrize("options", [(), ("-t",), ("--privileged",), ("--read-only", "-t")])
def test_the_root_is_listed_before_what_is_mounted_in_it(engine: EngineProcess, options: tuple[str, ...]) -> None:
    """As `df` and programs that read mountinfo expect it; and terminals have the names that are in /dev."""
    script = "sed -n 1p /proc/self/mountinfo; tty; true"
    first, terminal, *_ = run(engine, script, *options).splitlines()
    assert first.split()[4] == "/"
    assert terminal.strip() == ("/dev/pts/0" if "-t" in options else "not a tty")
