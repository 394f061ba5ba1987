"""`docker run` with the unmodified CLI: what a process sees, and the exit codes of the client."""

from __future__ import annotations

import json
import os
import time

from support.engine import EngineProcess


def inside(engine: EngineProcess, *arguments: str) -> str:
    """The output of `docker run --rm ARGUMENTS`."""
    return engine.ok("run", "--rm", *arguments)


def test_output_goes_to_the_right_stream(engine: EngineProcess) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 0)


def test_exit_codes(engine: EngineProcess) -> None:
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", "exit 7").returncode == 7
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?").returncode == 137
    missing = engine.docker("run", "--rm", "busybox", "nosuch")
    assert missing.returncode == 127
    assert "executable file not found in $PATH" in missing.stderr
    assert engine.docker("run", "--rm", "busybox", "/etc/passwd").returncode == 126
    assert engine.docker("run", "--rm", "busybox", "/etc").returncode == 126
    unknown = engine.docker("run", "--rm", "--pull=never", "nosuchimage:1", "true")
    assert unknown.returncode == 125
    assert "No such image: nosuchimage:1" in unknown.stderr
    assert engine.docker("run", "--rm", "--memory", "1", "busybox", "true").returncode == 125


def test_standard_input_reaches_the_process_and_ends(engine: EngineProcess) -> None:
    done = engine.docker("run", "--rm", "-i", "busybox", "cat", input="one\ntwo\n")
    assert (done.stdout, done.returncode) == ("one\ntwo\n", 0)


def test_a_container_is_named_after_itself(engine: EngineProcess) -> None:
    identifier = engine.ok("run", "-d", "--name", "named", "busybox", "sleep", "100")
    assert len(identifier) == 64
    assert engine.ok("exec", "named", "hostname") == identifier[:12]
    again = engine.docker("run", "--name", "named", "busybox", "true")
    assert again.returncode == 125
    assert f'The container name "/named" is already in use by container "{identifier}"' in again.stderr


def test_environment_user_and_directory(engine: EngineProcess) -> None:
    script = "echo $A $HOME $(id -u):$(id -g) $(pwd)"
    assert (
        inside(engine, "-e", "A=b", "-u", "worker", "-w", "/var/new", "busybox", "sh", "-c", script)
        == "b /home/worker 1000:1000 /var/new"
    )
    assert inside(engine, "-u", "1234567", "busybox", "id", "-u") == "1234567"
    assert inside(engine, "-u", "worker", "busybox", "id", "-G") == "1000 2000"
    assert inside(engine, "--group-add", "3000", "busybox", "id", "-G").split()[-1] == "3000"
    wrong = engine.docker("run", "--rm", "-u", "nobody-here", "busybox", "true")
    assert wrong.returncode == 125 or wrong.returncode == 126
    assert "unable to find user nobody-here: no matching entries in passwd file" in wrong.stderr


def test_a_terminal_is_given_on_request(engine: EngineProcess) -> None:
    assert inside(engine, "-t", "busybox", "tty").strip() == "/dev/pts/0"
    assert engine.docker("run", "--rm", "busybox", "tty").stdout.strip() == "not a tty"


def test_limits_reach_the_control_group(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "limited", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox", "sleep", "100")
    host = json.loads(engine.ok("inspect", "limited"))[0]["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert engine.docker("exec", "limited", "sh", "-c", script).stdout.strip() == str(64 << 20)
    engine.ok("update", "-m", "96m", "--memory-swap", "192m", "limited")
    assert engine.docker("exec", "limited", "sh", "-c", script).stdout.strip() == str(96 << 20)


def test_a_process_over_its_memory_is_killed_and_that_is_said(engine: EngineProcess) -> None:
    done = engine.docker(
        "run", "--name", "eater", "-m", "16m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"
    )
    assert done.returncode == 137
    assert json.loads(engine.ok("inspect", "eater"))[0]["State"]["OOMKilled"] is True


def test_read_only_and_tmpfs(engine: EngineProcess) -> None:
    assert engine.docker("run", "--rm", "--read-only", "busybox", "touch", "/x").returncode == 1
    script = "touch /run/x && grep ' /run ' /proc/mounts"
    assert "size=1024k" in inside(engine, "--read-only", "--tmpfs", "/run:size=1m", "busybox", "sh", "-c", script)


def test_ulimits_and_sysctls(engine: EngineProcess) -> None:
    assert inside(engine, "--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn") == "123\n456"
    assert inside(engine, "--sysctl", "net.ipv4.ip_forward=1", "busybox", "cat", "/proc/sys/net/ipv4/ip_forward") == "1"
    assert engine.docker("run", "--rm", "--sysctl", "kernel.core_pattern=x", "busybox", "true").returncode == 125


def test_binds_and_their_owners(engine: EngineProcess) -> None:
    folder = f"{engine.directory}/bound"
    os.makedirs(folder)
    with open(f"{folder}/file", "w", encoding="ascii") as file:
        file.write("from the host")
    script = "cat /mnt/file; echo made > /mnt/made; chown 1000 /mnt/made; stat -c %u /mnt/file"
    assert inside(engine, "-v", f"{folder}:/mnt", "busybox", "sh", "-c", script) == "from the host0"
    assert os.stat(f"{folder}/made").st_uid == 1000
    assert engine.docker("run", "--rm", "-v", f"{folder}:/mnt:ro", "busybox", "touch", "/mnt/no").returncode == 1
    missing = engine.docker("run", "--rm", "--mount", f"type=bind,source={folder}/none,target=/mnt", "busybox", "true")
    assert missing.returncode == 125
    assert "bind source path does not exist" in missing.stderr


def test_init_reaps(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--init", "--name", "reaper", "busybox", "sh", "-c", "(sleep 0.1 &) ; sleep 100")
    time.sleep(0.6)
    assert " Z" not in engine.ok("exec", "reaper", "ps", "-o", "stat,args")


def test_detached_then_logs_wait_and_state(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "short", "busybox", "sh", "-c", "echo one; echo two >&2; exit 3")
    assert engine.ok("wait", "short") == "3"
    done = engine.docker("logs", "short")
    assert (done.stdout, done.stderr) == ("one\n", "two\n")
    state = json.loads(engine.ok("inspect", "short"))[0]["State"]
    assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 3, False)
    assert engine.ok("ps", "-a", "--format", "{{.Status}}").startswith("Exited (3)")


def test_remove_after_exit_leaves_no_container(engine: EngineProcess) -> None:
    engine.ok("run", "--rm", "--name", "gone", "busybox", "true")
    assert engine.docker("inspect", "gone").returncode == 1


def test_capabilities_can_be_added_and_dropped(engine: EngineProcess) -> None:
    default = inside(engine, "busybox", "grep", "CapEff", "/proc/self/status").split()[1]
    assert default == "00000000a80425fb"
    assert inside(engine, "--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status").split()[1] == "0000000000000000"
    added = inside(engine, "--cap-add", "NET_ADMIN", "busybox", "grep", "CapEff", "/proc/self/status").split()[1]
    assert int(added, 16) == int(default, 16) | 1 << 12


def test_extra_hosts_dns_and_hostname(engine: EngineProcess) -> None:
    hosts = inside(engine, "--add-host", "far:10.1.2.3", "--hostname", "me", "busybox", "cat", "/etc/hosts")
    assert "10.1.2.3\tfar" in hosts
    assert hosts.splitlines()[-1].endswith("\tme") or "\tme" in hosts
    assert "nameserver 9.9.9.9" in inside(engine, "--dns", "9.9.9.9", "busybox", "cat", "/etc/resolv.conf")


def test_entrypoint_and_labels(engine: EngineProcess) -> None:
    assert inside(engine, "--entrypoint", "echo", "busybox", "a", "b") == "a b"
    engine.ok("create", "--name", "labelled", "-l", "a=b", "busybox")
    assert engine.ok("ps", "-a", "--filter", "label=a=b", "--format", "{{.Names}}") == "labelled"
    assert engine.ok("inspect", "-f", '{{index .Config.Labels "a"}}', "labelled") == "b"


def test_privileged_and_host_user_namespace(engine: EngineProcess) -> None:
    assert inside(engine, "--privileged", "busybox", "sh", "-c", "mount -t tmpfs t /tmp && echo yes") == "yes"
    assert inside(engine, "--userns=host", "busybox", "cat", "/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    assert inside(engine, "busybox", "cat", "/proc/self/uid_map").split()[1] != "0"


def test_host_modes(engine: EngineProcess) -> None:
    assert inside(engine, "--network", "host", "busybox", "readlink", "/proc/self/ns/net") == os.readlink("/proc/self/ns/net")
    assert inside(engine, "--pid", "host", "busybox", "readlink", "/proc/self/ns/pid") == os.readlink("/proc/self/ns/pid")
    assert inside(engine, "--network", "none", "busybox", "ls", "/sys/class/net") == "lo"


def test_annotations_are_kept_and_shown(engine: EngineProcess) -> None:
    engine.ok("create", "--name", "noted", "--annotation", "a=b", "--annotation", "c=", "busybox")
    assert json.loads(engine.ok("inspect", "-f", "{{json .HostConfig.Annotations}}", "noted")) == {"a": "b", "c": ""}
