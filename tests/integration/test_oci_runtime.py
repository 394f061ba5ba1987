"""berth-runtime as another engine drives it: by its command line, on bundles, without any daemon."""

from __future__ import annotations

import array
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support.bundle import BASE, BERTH, Bundle, Runtime, wait_for

pytest_plugins = ["support.bundle_fixture"]


def test_run_gives_output_and_exit_code(runtime: Runtime, bundle: Bundle) -> None:
    bundle.shell("id -u; hostname; echo err >&2; exit 3")
    done = runtime.run()
    assert (done.returncode, done.stdout, done.stderr) == (3, "0\nberth\n", "err\n")
    assert runtime("state", runtime.id).stderr.endswith('level=error msg="container does not exist"\n')


def test_a_user_namespace_with_the_files_own_ids(runtime: Runtime, bundle: Bundle) -> None:
    bundle.own()
    bundle.shell("cat /proc/self/uid_map; stat -c %u:%g /bin/busybox; stat -c %u /dev/null; mkdir /made", resources={})
    bundle.config["root"]["readonly"] = False
    bundle.shell("cat /proc/self/uid_map; stat -c %u:%g /bin/busybox; stat -c %u /dev/null; mkdir /made", resources={})
    done = runtime.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", str(BASE), "65536", "0:0", "0"]
    assert os.stat(bundle.rootfs / "made").st_uid == BASE


def test_created_then_started(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.shell("echo began; exec sleep 600")
    runtime.create("--pid-file", str(tmp_path / "pid"))
    state = runtime.state()
    assert state["status"] == "created" and state["bundle"] == str(bundle.directory)
    assert int((tmp_path / "pid").read_text()) == state["pid"]
    assert "began" not in runtime.output()
    assert os.readlink(f"/proc/{state['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
    runtime.start()
    assert runtime.state()["status"] == "running"
    wait_for(lambda: Path(f"/proc/{state['pid']}/cmdline").read_bytes() == b"sleep\x00600\x00")
    again = runtime("start", runtime.id)
    assert again.returncode == 1 and "cannot start an already running container" in again.stderr
    refused = runtime("delete", runtime.id)
    assert refused.returncode == 1 and "that is not stopped: running" in refused.stderr
    assert runtime("kill", runtime.id, "KILL").returncode == 0
    runtime.await_status("stopped")
    assert runtime.state()["pid"] == 0
    assert runtime("kill", runtime.id).stderr.endswith('msg="container not running"\n')
    assert runtime("delete", runtime.id).returncode == 0
    assert runtime("state", runtime.id).returncode == 1


def test_what_was_created_ends_by_a_signal_as_any_process(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    runtime.create()
    assert runtime("kill", runtime.id, "SIGTERM").returncode == 0
    runtime.await_status("stopped")


def test_delete_of_what_was_created_and_by_force(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    runtime.create()
    pid = runtime.state()["pid"]
    assert runtime("delete", runtime.id).returncode == 0
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    runtime.create()
    runtime.start()
    assert runtime("delete", "--force", runtime.id).returncode == 0
    assert runtime("delete", "--force", runtime.id).returncode == 0
    assert runtime("delete", runtime.id).returncode == 1


def test_names_are_taken_once(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    runtime.create()
    done = runtime("create", "-b", str(bundle.directory), runtime.id)
    assert done.returncode == 1 and "container with given ID already exists" in done.stderr
    for id in ("../x", ".berth", "", "a/b"):
        done = runtime("create", "-b", str(bundle.directory), id)
        assert done.returncode == 1 and "invalid container ID format" in done.stderr


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("nope", "executable file not found in $PATH"),
        ("/etc", "permission denied"),
        ("/tmp/text", "exec format error"),
    ],
)
def test_a_program_that_cannot_start_leaves_nothing(runtime: Runtime, bundle: Bundle, program: str, text: str) -> None:
    (bundle.rootfs / "tmp/text").write_text("nothing to execute")
    (bundle.rootfs / "tmp/text").chmod(0o755)
    bundle.write(program)
    done = runtime.run()
    assert done.returncode == 1 and text in done.stderr and "run failed: unable to start container process" in done.stderr
    assert runtime("list", "-q").stdout == ""


def test_start_hears_of_an_execve_that_fails(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "tmp/text").write_text("nothing to execute")
    (bundle.rootfs / "tmp/text").chmod(0o755)
    bundle.write("/tmp/text")
    runtime.create()
    done = runtime("start", runtime.id)
    assert done.returncode == 1 and "exec format error" in done.stderr
    assert runtime.state()["status"] == "stopped"


def test_errors_go_to_the_log_as_json(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    done = subprocess.run([*BERTH, "--log", str(log), "--log-format", "json", "state", "nobody"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "container does not exist\n")
    entry = json.loads(log.read_text())
    assert entry["level"] == "error" and entry["msg"] == "container does not exist" and entry["time"].endswith("Z")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["bogus"], 3, "No help topic for 'bogus'"),
        (["run"], 1, "requires exactly 1 argument(s)"),
        (["run", "--bogus", "x"], 1, "flag provided but not defined: -bogus"),
        (["create", "--bundle", "/nowhere", "x"], 1, "chdir /nowhere: no such file or directory"),
        (["--systemd-cgroup", "list"], 1, "--systemd-cgroup is not supported"),
        (["--rootless", "true", "list"], 1, "--rootless true is not supported"),
        (["checkpoint", "x"], 1, "checkpoint: it is not supported"),
        (["restore", "x"], 1, "restore: it is not supported"),
        (["kill", "x", "FOO"], 1, "container does not exist"),
        (["events", "x"], 1, "container does not exist"),
    ],
)
def test_refusals(runtime: Runtime, words: list[str], code: int, text: str) -> None:
    done = runtime(*words)
    assert done.returncode == code and text in done.stderr + runtime_output(runtime, words)


def runtime_output(runtime: Runtime, words: list[str]) -> str:
    return runtime.output() if "create" in words else ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"linux": {"intelRdt": {"closID": "x"}}}, "linux.intelRdt: cache and memory bandwidth allocation"),
        ({"linux": {"memoryPolicy": {"mode": "MPOL_BIND"}}}, "linux.memoryPolicy: NUMA"),
        ({"linux": {"netDevices": {"eth0": {}}}}, "linux.netDevices: moving network devices"),
        ({"linux": {"resources": {"network": {"classID": 7}}}}, "linux.resources.network: classes and priorities"),
        ({"linux": {"cgroupsPath": "a:b:c"}}, "the form of systemd"),
        ({"linux": {"cgroupsPath": "/"}}, "the root group is not a container's"),
        ({"linux": {"timeOffsets": {"monotonic": {"secs": 1}}}}, "timeOffsets need a time namespace"),
        ({"linux": {"personality": {"domain": "VMS"}}}, "personality domain VMS does not exist"),
        ({"linux": {"namespaces": [{"type": "mount", "path": "/proc/1/ns/mnt"}]}}, "a mount namespace with a path"),
        ({"process": {"scheduler": {"policy": "SCHED_LOTTERY"}}}, "scheduler policy SCHED_LOTTERY does not exist"),
        ({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 9}}}, "I/O priority 9 is not between 0 and 7"),
        ({"process": {"terminal": "yes"}}, "process.terminal: true or false is expected, not 'yes'"),
        ({"ociVersion": "7.0.0"}, "ociVersion 7.0.0 is unknown"),
        ({"vm": {"hypervisor": {}, "kernel": {"path": "/x"}}}, "vm: it is for virtual machines"),
        ({"hooks": {"prestart": [{"path": "x"}]}}, "hooks.prestart: path must be absolute"),
    ],
)
def test_what_a_bundle_cannot_have(runtime: Runtime, bundle: Bundle, change: dict[str, Any], text: str) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(bundle.config.get(key), dict):
            bundle.config[key].update(value)
        else:
            bundle.config[key] = value
    bundle.write("true")
    done = runtime.run()
    assert done.returncode == 1 and text in done.stderr
    assert runtime("list", "-q").stdout == ""


def test_labels_where_the_host_has_no_such_module(runtime: Runtime, bundle: Bundle) -> None:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if enabled.exists() and enabled.read_text().startswith("Y"):
        pytest.skip("this host has AppArmor")
    if os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("this host has SELinux")
    bundle.config["process"]["apparmorProfile"] = "docker-default"
    bundle.write("true")
    assert "AppArmor is not enabled on this host" in runtime.run().stderr
    del bundle.config["process"]["apparmorProfile"]
    bundle.config["process"]["selinuxLabel"] = "system_u:system_r:svirt_lxc_net_t:s0"
    bundle.write("true")
    assert "SELinux is not enabled on this host" in runtime.run().stderr
    del bundle.config["process"]["selinuxLabel"]
    bundle.write("true", mountLabel="system_u:object_r:svirt_sandbox_file_t:s0")
    assert "linux.mountLabel is system_u" in runtime.run().stderr


def test_exec(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.write("sleep", "600")
    runtime.create()
    runtime.start()
    done = runtime(
        "exec", "--env", "A=b", "--cwd", "/tmp", "--user", "7:8", runtime.id, "sh", "-c", "id -u; id -g; pwd; echo $A; exit 7"
    )
    assert (done.returncode, done.stdout.split()) == (7, ["7", "8", "/tmp", "b"])
    assert runtime("exec", runtime.id, "nope").returncode == 255
    assert "executable file not found in $PATH" in runtime("exec", runtime.id, "nope").stderr
    more = {"args": ["sh", "-c", "grep CapEff /proc/self/status"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}
    (tmp_path / "process.json").write_text(json.dumps(more))
    assert runtime("exec", "--process", str(tmp_path / "process.json"), runtime.id).stdout.split()[1] == "0" * 16
    added = runtime("exec", "--cap", "CAP_SYS_PTRACE", runtime.id, "grep", "CapEff", "/proc/self/status").stdout.split()[1]
    assert int(added, 16) >> 19 & 1
    assert runtime("exec", "-d", "--pid-file", str(tmp_path / "pid"), runtime.id, "sleep", "601").returncode == 0
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00601\x00"
    assert sorted(json.loads(runtime("ps", "--format", "json", runtime.id).stdout)) == sorted([pid, runtime.state()["pid"]])
    assert "sleep 601" in runtime("ps", runtime.id).stdout


def test_pause_resume_update_events(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    runtime.create()
    runtime.start()
    assert runtime("pause", runtime.id).returncode == 0
    assert runtime.state()["status"] == "paused"
    assert "cannot exec in a paused container" in runtime("exec", runtime.id, "true").stderr
    assert runtime("resume", runtime.id).returncode == 0
    assert "container not paused" in runtime("resume", runtime.id).stderr
    assert runtime("update", "--pids-limit", "17", runtime.id).returncode == 0
    data = json.loads(runtime("events", "--stats", runtime.id).stdout)["data"]
    assert data["pids"] == {"current": 1, "limit": 17}
    resources = json.dumps({"pids": {"limit": 18}})
    assert runtime("update", "--resources", "-", runtime.id, stdin=None, input=resources).returncode == 0
    assert json.loads(runtime("events", "--stats", runtime.id).stdout)["data"]["pids"]["limit"] == 18
    assert "resctrl" in runtime("update", "--l3-cache-schema", "x", runtime.id).stderr


def test_events_follow_until_the_end(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    runtime.create()
    runtime.start()
    child = runtime.popen("events", "--interval", "50ms", runtime.id, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["type"] == "stats"
    assert runtime("kill", runtime.id, "9").returncode == 0
    rest = child.stdout.read()
    child.stdout.close()
    assert child.wait(timeout=30) == 0 and all(json.loads(line)["type"] == "stats" for line in rest.splitlines())


def test_list(runtime: Runtime, bundle: Bundle) -> None:
    assert runtime("list").stdout == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
    assert runtime("list", "--format", "json").stdout == "null\n"
    bundle.write("sleep", "600")
    runtime.create()
    entry = json.loads(runtime("list", "--format", "json").stdout)[0]
    assert (entry["id"], entry["status"], entry["owner"]) == (runtime.id, "created", "root")
    assert runtime.id in runtime("list").stdout


# --- terminals -------------------------------------------------------------------------------------------------------


def test_terminal_in_the_foreground(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["process"]["terminal"] = True
    bundle.shell("tty; read x; echo got $x")
    master, slave = pty.openpty()
    child = runtime.popen("run", "-b", str(bundle.directory), runtime.id, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    assert b"/dev/pts/0" in read_until(master, b"/dev/pts/0")
    os.write(master, b"hello\n")
    read_until(master, b"got hello")
    assert child.wait(timeout=30) == 0
    os.close(master)


def read_until(fd: int, text: bytes) -> bytes:
    output = b""
    while text not in output:
        assert select.select([fd], [], [], 60)[0], output
        output += os.read(fd, 1000)
    return output


def console_socket(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(60)
    listener.bind(str(path))
    listener.listen()
    return listener


def take_master(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    numbers = array.array("i")
    numbers.frombytes(ancillary[0][2])
    return numbers[0]


def test_console_socket(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.config["process"]["terminal"] = True
    bundle.config["process"]["consoleSize"] = {"height": 33, "width": 77}
    bundle.shell("stty size; exec sleep 600")
    assert "cannot allocate tty if berth-runtime will detach" in detach_without_socket(runtime)
    with console_socket(tmp_path / "console") as listener:
        runtime.create("--console-socket", str(tmp_path / "console"))
        master = take_master(listener)
        runtime.start()
        assert b"33 77" in read_until(master, b"33 77")
        os.close(master)
        done = runtime("exec", "-d", "--tty", "--console-socket", str(tmp_path / "console"), runtime.id, "tty")
        assert done.returncode == 0, done.stderr
        master = take_master(listener)
        read_until(master, b"/dev/pts/1")
        os.close(master)


def detach_without_socket(runtime: Runtime) -> str:
    return runtime("create", "-b", str(runtime.bundle.directory), runtime.id).stderr


# --- hooks -----------------------------------------------------------------------------------------------------------


def hook(tmp_path: Path, stage: str, more: str = "") -> dict[str, Any]:
    """A hook that writes its stage, the state's status, process id and namespace to a file."""
    script = f'read state; echo "{stage} $state" >> {tmp_path}/hooks; {more}'
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}


def told(tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = (tmp_path / "hooks").read_text().splitlines()
    return [(line.partition(" ")[0], json.loads(line.partition(" ")[2])) for line in lines]


def test_hooks_of_every_stage(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    stages = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.config["hooks"] = {stage: [hook(tmp_path, stage)] for stage in stages}
    inside = {"path": "/bin/sh", "args": ["sh", "-c", "read s; echo $s > /tmp/inside"]}
    bundle.config["hooks"]["startContainer"] = [inside]
    bundle.config["annotations"] = {"a": "b"}
    bundle.config["root"]["readonly"] = False
    bundle.write("sleep", "600")
    runtime.create()
    pid = runtime.state()["pid"]
    assert [stage for stage, _ in told(tmp_path)] == list(stages[:3])
    for stage, state in told(tmp_path):
        assert (state["id"], state["status"], state["bundle"]) == (runtime.id, "creating", str(bundle.directory))
        assert state["pid"] == (1 if stage == "createContainer" else pid) and state["annotations"] == {"a": "b"}
    assert not (bundle.rootfs / "tmp/inside").exists()
    runtime.start()
    assert json.loads((bundle.rootfs / "tmp/inside").read_text())["status"] == "created"
    stage, state = told(tmp_path)[-1]
    assert (stage, state["status"], state["pid"]) == ("poststart", "running", pid)
    assert runtime("delete", "--force", runtime.id).returncode == 0
    stage, state = told(tmp_path)[-1]
    assert (stage, state["status"]) == ("poststop", "stopped")


@pytest.mark.parametrize("stage", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failing_hook_rolls_back(runtime: Runtime, bundle: Bundle, tmp_path: Path, stage: str) -> None:
    failing = {"path": "/bin/sh", "args": ["sh", "-c", "echo because; exit 9"]}
    bundle.config["hooks"] = {stage: [failing], "poststop": [hook(tmp_path, "poststop")]}
    bundle.write("sleep", "600")
    done = runtime.run("--detach")
    assert done.returncode == 1
    assert f"error running {stage} hook #0: exit status 9, output: because" in done.stderr
    assert runtime("list", "-q").stdout == ""
    assert [name for name, _ in told(tmp_path)] == ["poststop"]


def test_a_hook_has_its_time(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1}]}
    bundle.write("true")
    done = runtime.run()
    assert done.returncode == 1 and "/bin/sleep did not end within 1 seconds" in done.stderr


def test_a_failing_poststop_hook_is_a_warning(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/false"}]}
    bundle.write("true")
    done = runtime.run()
    assert done.returncode == 0 and "level=warning" in done.stderr and "poststop hook #0: exit status 1" in done.stderr


# --- what the specification gives a process ----------------------------------------------------------------------------


def test_descriptors_go_along(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.shell("cat <&3; ls /proc/self/fd | wc -l")
    (tmp_path / "given").write_text("through 3\n")
    script = f'exec 3<{tmp_path}/given; exec "$@"'
    words = [*runtime.command, "run", "-b", str(bundle.directory), "--preserve-fds", "1", runtime.id]
    done = subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, text=True, timeout=60)
    # 0 to 3, and the one that ls reads the directory by
    assert done.stdout.split() == ["through", "3", "5"], done.stderr
    refused = runtime.run("--preserve-fds", "1", close_fds=True)
    assert refused.returncode == 1 and "descriptor 3 is to be passed on, but it is not open" in refused.stderr


def test_nothing_else_is_open_in_the_program(runtime: Runtime, bundle: Bundle) -> None:
    bundle.shell("ls /proc/self/fd | wc -l")
    assert runtime.run().stdout.split() == ["4"]


def test_personality_scheduler_and_io_priority(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    bundle.config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE"}
    bundle.shell("uname -m; cut -d' ' -f19,41 /proc/self/stat; ionice -p $$", personality={"domain": "LINUX32"})
    done = runtime.run()
    machine, nice, policy, *ionice = done.stdout.split()
    assert (machine, nice, policy) == ("i686" if os.uname().machine == "x86_64" else os.uname().machine, "5", "3"), done.stderr
    assert ionice[0].startswith("idle")


def test_time_namespace(runtime: Runtime, bundle: Bundle) -> None:
    if not os.path.exists("/proc/self/ns/time"):
        pytest.skip("this kernel has no time namespaces")
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    bundle.shell("cut -d. -f1 /proc/uptime; exec sleep 600", timeOffsets={"boottime": {"secs": 1_000_000}})
    host = float(Path("/proc/uptime").read_text().split()[0])
    runtime.create()
    runtime.start()
    done = runtime("exec", runtime.id, "cut", "-d.", "-f1", "/proc/uptime")
    assert done.returncode == 0, done.stderr
    assert 1_000_000 <= int(done.stdout) - int(host) < 1_000_600


def test_idmapped_mounts(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, 5, 6)
    one = [{"containerID": 5, "hostID": 1000, "size": 1}]
    two = [{"containerID": 6, "hostID": 2000, "size": 1}]
    mounts = bundle.config["mounts"]
    mounts.append({"destination": "/plain", "type": "bind", "source": str(shared), "options": ["bind"]})
    mounts.append(
        {
            "destination": "/mapped",
            "type": "bind",
            "source": str(shared),
            "options": ["bind", "idmap"],
            "uidMappings": one,
            "gidMappings": two,
        }
    )
    bundle.config["root"]["readonly"] = False
    bundle.shell("stat -c %u:%g /plain /mapped")
    done = runtime.run()
    assert done.stdout.split() == ["5:6", "1000:2000"], done.stderr


def test_recursive_attributes(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(top / "below")], check=True)
    try:
        mounts = bundle.config["mounts"]
        for name, option in (("ro", "ro"), ("rro", "rro"), ("rnosuid", "rnosuid")):
            mounts.append({"destination": f"/{name}", "type": "bind", "source": str(top), "options": ["rbind", option]})
        bundle.config["root"]["readonly"] = False
        bundle.shell(
            "touch /ro/below/x && echo wrote; touch /rro/below/x || echo refused; grep -c 'below.*nosuid' /proc/self/mountinfo"
        )
        done = runtime.run()
        assert done.stdout.split() == ["wrote", "refused", "1"], done.stderr
    finally:
        subprocess.run(["umount", "-l", str(top / "below")], check=True)


def test_seccomp_filter_is_compiled_once(runtime: Runtime, bundle: Bundle) -> None:
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]
    bundle.shell("mkdir /tmp/x", seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})
    for _ in range(2):
        done = runtime.run()
        assert done.returncode == 1 and "mkdir" in done.stderr
    kept = os.listdir(runtime.root / ".berth/seccomp")
    assert len(kept) == 1


def test_seccomp_notifies_a_listener(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
    path = tmp_path / "agent"
    filter = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "meta",
        "syscalls": rules,
    }
    bundle.shell("mkdir /tmp/x; exec sleep 600", seccomp=filter)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(60)
        listener.bind(str(path))
        listener.listen()
        runtime.create()
        connection, _ = listener.accept()
        runtime.start()
        with connection:
            data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
    state = json.loads(data)
    assert (state["fds"], state["metadata"], state["pid"]) == (["seccompFd"], "meta", runtime.state()["pid"])
    assert state["state"]["id"] == runtime.id and state["state"]["pid"] == state["pid"]
    numbers = array.array("i")
    numbers.frombytes(ancillary[0][2])
    # readable when a call waits for an answer
    assert select.select([numbers[0]], [], [], 60)[0]
    os.close(numbers[0])


def test_notify_without_a_listener(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    filter: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }
    bundle.write("true", seccomp=filter)
    assert "SCMP_ACT_NOTIFY needs a listenerPath" in runtime.run().stderr
    bundle.write("true", seccomp={**filter, "listenerPath": str(tmp_path / "nobody")})
    assert "is the agent running?" in runtime.run().stderr


def test_a_keyring_of_its_own(runtime: Runtime, bundle: Bundle) -> None:
    if not os.path.exists("/proc/keys"):
        pytest.skip("this kernel has no keyrings")
    bundle.config["linux"]["maskedPaths"].remove("/proc/keys")
    bundle.shell("cat /proc/keys")
    name = f"_ses.{runtime.id}"
    assert name in runtime.run().stdout
    # The kernel removes keyrings that nobody has any more in its own time.
    deadline = time.monotonic() + 20
    while name in Path("/proc/keys").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert name not in runtime.run("--no-new-keyring").stdout


def test_joined_namespaces(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    runtime.create()
    pid = runtime.state()["pid"]
    names = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    bundle.config["linux"]["namespaces"] = [{"type": name, "path": f"/proc/{pid}/ns/{file}"} for name, file in names.items()]
    bundle.config["linux"]["namespaces"].append({"type": "mount"})
    bundle.config["hostname"] = ""
    bundle.shell("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done")
    done = runtime("run", "-b", str(bundle.directory), runtime.id + "-two")
    assert done.stdout.split() == [os.readlink(f"/proc/{pid}/ns/{file}") for file in names.values()], done.stderr


def test_no_pivot(runtime: Runtime, bundle: Bundle) -> None:
    bundle.shell("ls /; id -u")
    done = runtime.run("--no-pivot")
    assert "proc" in done.stdout.split() and "boot" not in done.stdout.split(), done.stderr


# --- safety ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [False, True])
def test_the_interpreter_is_out_of_reach(runtime: Runtime, bundle: Bundle, script: bool) -> None:
    """CVE-2019-5736: /proc/self/exe as program, or as the interpreter of one, is not the file of this interpreter."""
    (bundle.rootfs / "tmp/script").write_text("#!/proc/self/exe\n")
    (bundle.rootfs / "tmp/script").chmod(0o755)
    bundle.write(*(["/tmp/script"] if script else ["/proc/self/exe", "-I", "-S", "-c", "print('python')"]))
    done = runtime.run()
    assert "python" not in done.stdout and done.returncode != 0
    bundle.write("sleep", "600")
    runtime.create()
    runtime.start()
    done = runtime("exec", runtime.id, "/proc/self/exe", "-I", "-S", "-c", "print('python')")
    assert "python" not in done.stdout and done.returncode != 0


def test_a_group_with_processes_is_not_taken_over(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600", cgroupsPath="/" + runtime.id)
    runtime.create()
    done = runtime("run", "-b", str(bundle.directory), runtime.id + "-two")
    assert done.returncode == 1 and "is not empty: 1 process(es) found" in done.stderr
    assert runtime.state()["status"] == "created"


def test_signals_reach_a_container_in_the_foreground(runtime: Runtime, bundle: Bundle) -> None:
    bundle.shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    child = runtime.popen("run", "-b", str(bundle.directory), runtime.id, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 5
    child.stdout.close()


def test_killed_in_the_foreground_its_container_stays(runtime: Runtime, bundle: Bundle) -> None:
    bundle.write("sleep", "600")
    child = runtime.popen("run", "-b", str(bundle.directory), runtime.id, stdin=subprocess.DEVNULL)
    wait_for(lambda: runtime("list", "-q").stdout != "" and runtime.state()["status"] == "running")
    child.kill()
    child.wait()
    assert runtime.state()["status"] == "running"
    assert runtime("delete", "-f", runtime.id).returncode == 0


def test_what_a_killed_creator_left_can_be_deleted(runtime: Runtime, bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"]}]}
    bundle.write("true")
    child = runtime.popen("run", "-b", str(bundle.directory), runtime.id, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: runtime("list", "-q").stdout != "" and runtime("ps", "-f", "json", runtime.id).stdout not in ("[]\n", ""))
    assert runtime.state()["status"] == "creating"
    child.kill()
    child.wait()
    assert runtime.state()["status"] == "stopped"
    assert runtime("delete", runtime.id).returncode == 0


def processes_with(word: str) -> list[str]:
    """Command lines that have it as a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in (words := path.read_bytes().split(b"\0")):
                found.append(b" ".join(words).decode())
    return found


@pytest.mark.parametrize("stage", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_hook_whose_creator_is_killed_ends_with_it(runtime: Runtime, bundle: Bundle, stage: str) -> None:
    seconds = f"6{os.getpid()}"
    bundle.config["hooks"] = {stage: [{"path": "/bin/sleep", "args": ["sleep", seconds]}]}
    bundle.write("sleep", "600")
    child = runtime.popen("run", "-b", str(bundle.directory), runtime.id, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: processes_with(seconds) != [])
    child.kill()
    child.wait()
    wait_for(lambda: processes_with(seconds) == [] and processes_with(runtime.id) == [])
    assert runtime.state()["status"] == ("running" if stage == "poststart" else "stopped")
    assert runtime("delete", "-f", runtime.id).returncode == 0


def test_spec_and_steps(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    assert runtime("spec", "--bundle", str(tmp_path)).returncode == 0
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"] == ["sh"]
    again = runtime("spec", "--bundle", str(tmp_path))
    assert again.returncode == 1 and "File config.json exists. Remove it first" in again.stderr
    steps = runtime("steps", "--bundle", str(tmp_path))
    assert steps.stdout.startswith("clone new=") and "leave args=['sh']" in steps.stdout.splitlines()[-1]


def test_the_installed_script_imports_nothing_it_does_not_need(bundle: Bundle) -> None:
    bundle.write("true")
    code = "import sys; from berth.runtime.oci import create, main; print(*sys.modules)"
    path = next(entry for entry in sys.path if os.path.isdir(entry + "/berth/runtime"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({path!r}); {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert not loaded & {
        "re",
        "enum",
        "typing",
        "json",
        "argparse",
        "msgspec",
        "dataclasses",
        "subprocess",
        "socket",
        "signal",
    }, done.stderr
