"""What a process in a container without options can and cannot do, and what each opt-out gives back: seen from both sides."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import canary
from support.engine import EngineProcess

DEFAULT_CAPABILITIES = "00000000a80425fb"
RANGE = 65_536
REFUSED = ("Permission denied", "Operation not permitted", "Read-only file system", "No such", "can't open", "can't create")


def inside(engine: EngineProcess, script: str, *options: str) -> str:
    """What a shell in a new container prints; its exit code does not matter."""
    return engine.docker("run", "--rm", *options, "busybox", "sh", "-c", script).stdout.strip()


def resident(engine: EngineProcess, name: str, *options: str) -> int:
    """The host's pid of a new container that sleeps."""
    engine.ok("run", "-d", "--name", name, *options, "busybox", "sleep", "1000")
    return int(engine.ok("inspect", "-f", "{{.State.Pid}}", name))


def status(pid: int) -> dict[str, list[str]]:
    """The kernel's word on a process, as the host sees it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def test_root_is_nobody_on_the_host_and_confined(engine: EngineProcess) -> None:
    of = status(resident(engine, "one"))
    assert int(of["Uid"][0]) >= RANGE
    assert len(set(of["Uid"])) == 1
    assert of["Uid"] == of["Gid"]
    assert of["Seccomp"] == ["2"]
    assert of["CapEff"] == of["CapBnd"] == of["CapPrm"] == [DEFAULT_CAPABILITIES]
    assert of["CapInh"] == of["CapAmb"] == ["0" * 16]
    assert engine.ok("exec", "one", "id", "-u") == "0"


def test_an_exec_is_confined_like_its_container(engine: EngineProcess) -> None:
    resident(engine, "one")
    out = engine.ok("exec", "one", "grep", "-E", "^(Seccomp|CapEff|CapBnd|CapInh|CapAmb):", "/proc/self/status")
    assert {tuple(line.split()) for line in out.splitlines()} == {
        ("Seccomp:", "2"),
        ("CapEff:", DEFAULT_CAPABILITIES),
        ("CapBnd:", DEFAULT_CAPABILITIES),
        ("CapInh:", "0" * 16),
        ("CapAmb:", "0" * 16),
    }


def test_files_in_a_bind_are_owned_as_the_container_says(engine: EngineProcess, tmp_path: Path) -> None:
    script = "touch /mnt/root; touch /mnt/worker; chown 1000:1000 /mnt/worker; touch /mnt/large; chown 1234 /mnt/large"
    engine.ok("run", "--rm", "-v", f"{tmp_path}:/mnt", "busybox", "sh", "-c", script)
    assert [(tmp_path / name).stat().st_uid for name in ("root", "worker", "large")] == [0, 1000, 1234]
    # Nothing in a bind makes a container's root the host's: a program with the set-user-id bit stays in the range.
    script = "cp /bin/busybox /mnt/sleep; chmod 4755 /mnt/sleep"
    engine.ok("run", "--rm", "-v", f"{tmp_path}:/mnt", "busybox", "sh", "-c", script)
    engine.ok("run", "-d", "--name", "suid", "-u", "1000", "-v", f"{tmp_path}:/mnt", "busybox", "/mnt/sleep", "100")
    of = status(int(engine.ok("inspect", "-f", "{{.State.Pid}}", "suid")))
    assert int(of["Uid"][0]) >= RANGE
    assert int(of["Uid"][3]) >= RANGE


@pytest.mark.parametrize(
    "script",
    [
        "cat /proc/1/root/../../../etc/shadow",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo h > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore | grep -q .",
        "echo x > /sys/kernel/uevent_helper",
        "echo 1 > /sys/class/net/eth0/mtu",
        "cat /sys/firmware/acpi/tables/DSDT",
        "cat /dev/kmsg",
        "cat /proc/kmsg",
        "cat /dev/mem",
        "ls /dev/kvm",
        "mknod /tmp/disk b 8 0",
        "mknod /tmp/null c 1 3 && cat /tmp/null && echo x > /tmp/null",
        "mount -t tmpfs t /tmp",
        "mount -o remount,rw /sys",
        "mount -t proc p /tmp",
        "mount --bind / /tmp",
        "umount /proc/sys",
        "unshare -U -r true",
        "unshare -m true",
        "unshare -n true",
        "mkdir /tmp/c; unshare -U -r -m mount -t cgroup -o memory c /tmp/c",
        "for f in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do echo x > $f && exit 0; done; exit 1",
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/inner && exit 0; done; exit 1",
        "chroot /proc/1/root/.. /bin/busybox cat /etc/shadow",
        "hostname other",
        "said=$(date -s 2001-01-01 2>&1); case $said in *'not permitted'*) exit 1;; esac",
    ],
)
def test_what_is_refused(engine: EngineProcess, script: str) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", script)
    assert done.returncode not in (0, 125, 126, 127), f"{script!r} worked: {done.stdout}"
    assert done.returncode == 1 or any(word in done.stderr for word in REFUSED), done


def test_masked_files_show_nothing(engine: EngineProcess) -> None:
    script = "for f in keys timer_list interrupts; do cat /proc/$f | wc -c; done; ls /sys/firmware | wc -w; ls /proc/acpi | wc -w"
    assert inside(engine, script).split() == ["0"] * 5


def test_dev_holds_what_docker_gives(engine: EngineProcess) -> None:
    names = set(inside(engine, "ls /dev").split())
    wanted = {"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty"}
    assert names == wanted | {"urandom", "zero"}


PROBE = """
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    r = libc.syscall(*[ctypes.c_long(x) for x in a])
    return 'ok' if r >= 0 else errno.errorcode[ctypes.get_errno()]
def sock(family, kind=socket.SOCK_STREAM):
    try:
        socket.socket(family, kind).close()
        return 'ok'
    except OSError as e:
        return errno.errorcode[e.errno]
print('inet', sock(2)); print('alg', sock(38, socket.SOCK_SEQPACKET)); print('vsock', sock(40))
print('keyctl', call(250, 0, 0, 0)); print('add_key', call(248, 0, 0, 0, 0, 0)); print('bpf', call(321, 0, 0, 0))
print('userfaultfd', call(323, 0)); print('io_uring', call(425, 1, 0)); print('personality', call(135, 0x1000))
print('perf', call(298, 0, 0, 0, 0, 0)); print('kexec', call(246, 0, 0, 0, 0)); print('module', call(175, 0, 0, 0))
print('handle', call(304, -1, 0, 0)); print('newuser', call(272, 0x10000000)); print('fsopen', call(430, 0, 0))
print('swapon', call(167, 0, 0)); print('reboot', call(169, 0, 0, 0, 0)); print('sethost', call(170, 0, 0))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the probe knows the system call numbers of x86-64")
def test_system_calls_that_have_been_the_way_out(engine: EngineProcess) -> None:
    done = engine.python(PROBE)
    assert done.returncode == 0, done.stderr
    got = dict(line.split() for line in done.stdout.splitlines())
    assert got.pop("inet") == "ok"
    assert got.pop("alg") in ("EPERM", "EAFNOSUPPORT")
    assert got.pop("vsock") in ("EPERM", "EAFNOSUPPORT")
    assert set(got.values()) == {"EPERM"}, got


@contextmanager
def answering(address: str, port: int = 0) -> Iterator[int]:
    """A service of the host that says `host` to whoever connects."""
    with socket.create_server((address, port)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"host\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_services_on_the_hosts_loopback_are_out_of_reach(engine: EngineProcess) -> None:
    with answering("127.0.0.1") as port:
        assert socket.create_connection(("127.0.0.1", port), 5).recv(9) == b"host\n", "the service itself works"
        for target in ("127.0.0.1", "$(ip route | awk '/default/ {print $3}')", "gateway"):
            out = inside(engine, f"timeout 1 nc {target} {port} </dev/null; true", "--add-host", "gateway:host-gateway")
            assert out == "", target
        # Nor with a route of its own, which a container with power over its network can make.
        script = f"ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 dev eth0; timeout 1 nc 127.0.0.1 {port}; true"
        assert inside(engine, script, "--cap-add", "NET_ADMIN") == ""
    with answering("0.0.0.0") as port:
        # What listens on all addresses is reachable under the gateway's, as with Docker: the way itself works.
        out = inside(engine, f"timeout 2 nc gateway {port} </dev/null; true", "--add-host", "gateway:host-gateway")
        assert out == "host"


def test_the_engine_is_not_reachable_from_inside(engine: EngineProcess) -> None:
    resident(engine, "one")
    # No socket of ours in the abstract namespace, which containers on the host's network share.
    lines = Path("/proc/net/unix").read_text().splitlines()
    assert not [line for line in lines if "@" in line and ("berth" in line or engine.config.name in line)]
    seen = inside(engine, "cat /proc/net/unix /proc/self/mountinfo; env; ls -R /run /var/run 2>/dev/null")
    assert engine.socket not in seen
    assert engine.config.run not in seen
    mounted = {line.split()[4] for line in seen.splitlines() if f" {engine.root}" in line}
    assert mounted <= {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}, "nothing else of the data root is in sight"
    assert os.stat(engine.config.shims).st_mode & 0o077 == 0
    assert os.stat(engine.socket).st_mode & 0o007 == 0
    assert os.stat(engine.root).st_mode & 0o077 == 0
    # Without id mapping and on the host's network, a user that is not root still gets nothing.
    unprivileged = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    for command in (["ls", engine.root], ["ls", engine.config.shims], ["nc", "-U", engine.socket]):
        done = subprocess.run([*unprivileged, *command], capture_output=True, timeout=10, stdin=subprocess.DEVNULL)
        assert done.returncode != 0, command


@pytest.mark.parametrize("options", [(), ("--userns=host",), ("--privileged",)])
def test_mounts_of_a_container_do_not_reach_the_host(engine: EngineProcess, tmp_path: Path, options: tuple[str, ...]) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "berth-test", str(source)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        (source / "sub").mkdir()
        pid = resident(engine, "mounter", "--cap-add", "SYS_ADMIN", *options, "-v", f"{source}:/data")
        engine.ok("exec", "mounter", "sh", "-c", "mount -t tmpfs t /data/sub && touch /data/sub/x")
        assert Path(f"/proc/{pid}/root/data/sub/x").exists(), "the container could mount"
        assert list((source / "sub").iterdir()) == []
        assert f" {source}/sub " not in Path("/proc/self/mountinfo").read_text()
    finally:
        engine.ok("rm", "-f", "mounter")
        subprocess.run(["umount", "-R", str(source)], check=True)


def test_two_containers_are_strangers(engine: EngineProcess) -> None:
    one, two = resident(engine, "one"), resident(engine, "two")
    first, second = int(status(one)["Uid"][0]), int(status(two)["Uid"][0])
    assert abs(first - second) >= RANGE
    assert os.readlink(f"/proc/{one}/ns/user") != os.readlink(f"/proc/{two}/ns/user")
    # Even where one can see the other (it shares the host's processes, but keeps its own range): no signal, no reading.
    as_first = ["setpriv", "--reuid", str(first), "--regid", str(first), "--clear-groups"]
    for command in (["kill", "-9", str(two)], ["cat", f"/proc/{two}/environ"], ["ls", f"/proc/{two}/root/"]):
        done = subprocess.run([*as_first, *command], capture_output=True, timeout=10)
        assert done.returncode != 0, command
    assert subprocess.run([*as_first, "kill", "-0", str(one)], timeout=10).returncode == 0, "its own it may signal"
    assert engine.ok("inspect", "-f", "{{.State.Running}}", "two") == "true"
    processes = engine.ok("exec", "one", "ps", "-o", "args").splitlines()
    assert sum("sleep 1000" in line for line in processes) == 1


def test_joining_a_container_on_purpose(engine: EngineProcess) -> None:
    pid = resident(engine, "one", "--ipc", "shareable")
    script = "for kind in user pid net; do readlink /proc/self/ns/$kind; done; kill -0 1 && echo signal; id -u"
    options = ("--pid", "container:one", "--network", "container:one", "--ipc", "container:one")
    out = inside(engine, script, *options).split()
    assert out[:3] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("user", "pid", "net")]
    assert out[3:] == ["signal", "0"]
    engine.ok("run", "--rm", *options, "busybox", "touch", "/dev/shm/shared")
    assert engine.ok("exec", "one", "ls", "/dev/shm") == "shared"
    resident(engine, "two")
    refused = engine.docker("run", "--rm", "--pid", "container:one", "--network", "container:two", "busybox", "true")
    assert refused.returncode == 125
    assert "two different containers cannot be joined" in refused.stderr


PING = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
s.settimeout(2)
s.connect(("127.0.0.1", 0))
s.send(bytes([8]) + bytes(7))
assert s.recv(9)[0] == 0
"""


def test_what_applications_need_works(engine: EngineProcess) -> None:
    assert inside(engine, "id -u", "-u", "1234567") == "1234567"
    assert inside(engine, "touch /tmp/f && stat -c %u /tmp/f", "-u", "1234567") == "1234567"
    assert "1 packets received" in inside(engine, "ping -c 1 -W 2 127.0.0.1")
    # busybox only knows raw sockets, which is why the other kind is tried by hand.
    done = engine.python(PING, "-u", "1000")
    assert done.returncode == 0, done.stderr
    web = "cd /tmp && echo page > index.html && httpd -p 80 && sleep 0.2 && wget -qO- http://127.0.0.1/"
    assert inside(engine, web, "-u", "1000") == "page"
    assert inside(engine, "mknod /tmp/pipe p && test -p /tmp/pipe && echo yes") == "yes"
    assert inside(engine, "chroot / true && chown 7 /tmp && su worker -s /bin/sh -c 'id -u'") == "1000"


def test_userns_host_is_dockers_default(engine: EngineProcess) -> None:
    pid = resident(engine, "plain", "--userns=host")
    of = status(pid)
    assert of["Uid"][0] == "0"
    assert of["Seccomp"] == ["2"]
    assert of["CapEff"] == [DEFAULT_CAPABILITIES]
    assert os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    # Root of the host without power: the rest of the confinement is still there.
    for script in ("mount -t tmpfs t /tmp", "echo x > /proc/sys/kernel/core_pattern", "cat /dev/kmsg", "unshare -U true"):
        assert engine.docker("exec", "plain", "sh", "-c", script).returncode != 0, script


def test_privileged_is_root_of_the_host(engine: EngineProcess) -> None:
    pid = resident(engine, "mighty", "--privileged")
    of = status(pid)
    assert of["Uid"][0] == "0"
    assert of["Seccomp"] == ["0"]
    assert of["CapEff"] == of["CapBnd"]
    own = status(os.getpid())["CapBnd"]
    assert of["CapBnd"] == own
    script = "mount -t tmpfs t /tmp && mknod /tmp/null c 1 3 && echo x > /tmp/null && echo yes"
    assert engine.ok("exec", "mighty", "sh", "-c", script) == "yes"
    assert {"null", "zero"} < set(engine.ok("exec", "mighty", "ls", "/dev").split())


def test_host_modes_say_that_they_give_up_the_user_namespace(engine: EngineProcess) -> None:
    for options in (("--network", "host"), ("--pid", "host"), ("--ipc", "host"), ("--uts", "host"), ("--privileged",)):
        done = engine.docker("create", *options, "busybox")
        assert done.returncode == 0
        assert "host's user namespace" in done.stderr, options
        assert "host's user" not in engine.docker("create", "--userns=host", *options, "busybox").stderr
    assert engine.docker("create", "busybox").stderr == ""


def test_new_privileges_can_be_forbidden(engine: EngineProcess) -> None:
    options = ("--security-opt", "no-new-privileges", "-u", "1000")
    assert inside(engine, "grep NoNewPrivs /proc/self/status", *options).split()[-1] == "1"


def test_nothing_of_the_canary_is_seen_or_changed(engine: EngineProcess, tmp_path: Path) -> None:
    with canary.canary(tmp_path / "canary") as place:
        for way in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/self/fd/../../..", "/../../../.."):
            path = f"{way}{place}/file"
            done = engine.docker("run", "--rm", "busybox", "sh", "-c", f"cat {path}; echo x > {path}; rm -rf {path}")
            assert canary.SECRET not in done.stdout
