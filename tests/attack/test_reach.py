"""What of the engine can be reached: its sockets, processes and descriptors, from a container and from other users.

SECURITY rows 1, 2, 9, 43, 49 and 61.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import EngineProcess
from support.waiting import until


@pytest.fixture
def net(engine: EngineProcess) -> Iterator[str]:
    """A network with names, which takes the resolver."""
    engine.ok("network", "create", "reach")
    yield "reach"
    left = engine.ok("ps", "-aq").split()
    if left:
        engine.ok("rm", "-f", *left)
    engine.ok("network", "rm", "reach")


def processes(engine: EngineProcess) -> dict[int, str]:
    """Engine, launcher, shims, resolver: process ids with their command lines. Containers are not among them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if (engine.root in line or engine.config.run in line) and "python" in line and "docker" not in line.split()[0]:
            found[int(path.parent.name)] = line
    return found


def sockets(pids: dict[int, str]) -> set[str]:
    """The inodes of their sockets."""
    found = set()
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except FileNotFoundError:
            # It has ended: the proxy of published ports does when there are none.
            continue
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def test_row_43_sockets_have_names_in_closed_directories(engine: EngineProcess, net: str) -> None:
    engine.ok("run", "-d", "--network", net, "busybox", "sleep", "1000")
    ours = sockets(processes(engine))
    named = set()
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[6] in ours:
            # An abstract name begins with @ and would be seen by every container on the host's network.
            assert not fields[7].startswith("@"), line
            # A shim's name is bound through a descriptor of its directory, since paths of sockets are short.
            name = os.path.basename(fields[7])
            named.add(f"{engine.config.shims}/{name}" if fields[7].startswith("/proc/self/fd/") else fields[7])
    assert any(path.startswith(engine.config.shims) for path in named), f"shims listen: {named}"
    assert {engine.socket, engine.config.resolver} <= named
    for path in named:
        mode = os.stat(path).st_mode
        assert stat.S_ISSOCK(mode) and os.stat(path).st_uid == 0
        if path == engine.socket:
            group = next((entry.gr_gid for entry in grp.getgrall() if entry.gr_name == "berth"), None)
            assert mode & 0o777 == (0o600 if group is None else 0o660)
            assert group is None or os.stat(path).st_gid == group
        else:
            assert mode & 0o777 == 0o600, path
    assert os.stat(engine.config.shims).st_mode & 0o777 == 0o700
    assert os.stat(engine.config.run).st_mode & 0o777 == 0o711


# Connect to each socket, say what would end whoever listens, and print what came back.
TALK = """
import os, socket
for folder in ("/shims", "/run-of-engine"):
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".sock") or name == "berth.sock":
            continue
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(10)
        try:
            sock.connect(folder + "/" + name)
            sock.send(b'{"v":1,"id":1,"op":"quit","kill":true}')
            print(name, "answered" if sock.recv(1000) else "closed")
        except (ConnectionResetError, BrokenPipeError):
            print(name, "closed")
        except PermissionError:
            print(name, "refused")
"""


def test_row_43_a_containers_root_that_has_the_sockets_is_not_heard(engine: EngineProcess, net: str) -> None:
    """Binds are mapped to the container's ids, so its root may open what the host's root owns: only the peer's ids tell."""
    engine.ok("run", "-d", "--name", "box", "--network", net, "-p", "80", "busybox", "sleep", "1000")
    binds = ("-v", f"{engine.config.shims}:/shims", "-v", f"{engine.config.run}:/run-of-engine")
    done = engine.python(TALK, *binds)
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    assert len(said) >= 4 and {"resolver.sock", "proxy.sock"} <= set(said), "two shims, the resolver and the proxy"
    assert set(said.values()) <= {"closed", "refused"}
    assert engine.ok("inspect", "-f", "{{.State.Running}}", "box") == "true"
    assert engine.ok("exec", "box", "nslookup", "box").count("box") >= 1, "the resolver goes on"


def test_row_49_the_engine_listens_on_no_network(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "busybox", "sleep", "1000")
    ours = sockets(processes(engine))
    assert ours
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{engine.process.pid}/net/{table}").read_text().splitlines()[1:]:  # type: ignore[union-attr]
            fields = line.split()
            assert not (fields[3] == "0A" and fields[9] in ours), f"it listens: {line}"
    script = "for port in 2375 2376 4243; do timeout 1 nc gateway $port </dev/null && echo open $port; done; true"
    for options in ((), ("--network=host", "--add-host=gateway:127.0.0.1")):
        host = options or ("--add-host=gateway:host-gateway",)
        assert engine.ok("run", "--rm", *host, "busybox", "sh", "-c", script) == ""


@pytest.mark.parametrize(
    "options", [(), ("-t",), ("-i",), ("--init",), ("--userns=host",), ("--privileged", "-t"), ("-u", "1000")]
)
def test_row_9_init_and_exec_have_three_descriptors(engine: EngineProcess, options: tuple[str, ...]) -> None:
    name = engine.ok("run", "-d", "--name", "box", *options, "busybox", "sleep", "1000")
    engine.ok("exec", "-d", name, "sleep", "1001")
    engine.ok("exec", "-d", "-t", "-w", "/tmp", name, "sleep", "1002")
    group = Path(f"/proc/{engine.ok('inspect', '-f', '{{.State.Pid}}', name)}/ns/pid").readlink()

    def members() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                line = (path / "cmdline").read_bytes()
                if (path / "ns/pid").readlink() == group and b"sleep\x00100" in line:
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    for pid in until(lambda: (pids := members()) and len(pids) >= 3 and pids):
        names = {entry.name: os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        assert set(names) == {"0", "1", "2"}, names
        for target in names.values():
            assert target.startswith(("pipe:[", "/dev/pts/", "/dev/null", "/dev/console")), names
        root = os.readlink(f"/proc/{pid}/cwd")
        assert root in ("/", "/tmp"), root


SAY_WHO = """
import socket, time
with socket.create_server(("0.0.0.0", 80)) as server:
    print("ready", flush=True)
    for _ in range(2):
        peer, address = server.accept()
        print(address[0], flush=True)
        peer.close()
    time.sleep(1000)
"""


def test_row_61_who_connects_to_a_published_port_is_never_the_loopback(engine: EngineProcess) -> None:
    """A program that trusts 127.0.0.1 must not trust everybody who comes through a published port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine.python(SAY_WHO, "-d", "--name", "box", "-p", f"{port}:80")
    until(lambda: "ready" in engine.ok("logs", "box"))
    gateway = engine.ok("inspect", "-f", "{{.NetworkSettings.Gateway}}", "box")
    for address in ("127.0.0.1", gateway):
        socket.create_connection((address, port), 10).close()
    said = until(lambda: len(lines := engine.ok("logs", "box").split()) == 3 and lines)
    assert said[0] == "ready" and not any(line.startswith("127.") for line in said[1:]), said


PEEK = (
    "while :; do for p in /proc/[0-9]*; do test $p = /proc/1 || (ls -l $p/fd; readlink $p/exe) 2>/dev/null |"
    " grep -E 'python|socket|memfd|/run/|/var/' >> /dev/shm/seen; done; done"
)


def test_row_1_an_init_that_joins_cannot_be_looked_into(engine: EngineProcess) -> None:
    """While another container joins its process namespace, one that may trace sees nothing of the joining init before execve."""
    engine.ok("run", "-d", "--name", "box", "--cap-add", "SYS_PTRACE", "--ipc", "shareable", "busybox", "sh", "-c", PEEK)
    for _ in range(15):
        engine.ok("run", "--rm", "--network=none", "--pid", "container:box", "busybox", "true")
        engine.ok("exec", "box", "true")
    assert engine.ok("exec", "box", "sh", "-c", "cat /dev/shm/seen 2>/dev/null; true") == ""


def test_row_2_what_enters_containers_runs_from_a_read_only_mount(engine: EngineProcess) -> None:
    """Launcher, shims and workers: the file of the interpreter cannot be opened for writing by way of their /proc/PID/exe."""
    engine.ok("run", "-d", "busybox", "sleep", "1000")
    assert engine.process is not None
    entering = [pid for pid in processes(engine) if pid != engine.process.pid]
    assert len(entering) >= 2, "launcher and shim"
    for pid in entering:
        assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY, pid
