"""`--runtime runc` and `--runtime crun`: containers that another runtime's binary makes, with all that berth does around them."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import leak
from support.engine import SLOW, EngineProcess

RUNTIMES = ("runc", "crun")
SECONDS = 20.0 * SLOW


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """The name of an installed runtime."""
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (Debian package {name})")
    if subprocess.run([name, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{name} cannot be executed: a library that it needs is missing")
    return name


@pytest.fixture
def own_engine() -> Iterator[EngineProcess]:
    """An engine of the test's own, that it may kill."""
    process = EngineProcess()
    with leak.nothing_left(process.snapshot):
        try:
            process.start()
            process.add_busybox()
            yield process
        finally:
            process.shut_down()


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, a bounded time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def inspect(engine: EngineProcess, name: str, template: str) -> str:
    return engine.ok("inspect", "-f", template, name)


def kept(engine: EngineProcess, runtime: str) -> list[str]:
    """What the binary keeps of containers."""
    path = f"{engine.config.run}/oci/{runtime}"
    return os.listdir(path) if os.path.isdir(path) else []


def start(engine: EngineProcess, runtime: str, name: str, *arguments: str) -> None:
    """A container in the background; `arguments` are options, and the command after --."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[cut + 1 :] or ("sleep", "1000")
    engine.ok("run", "-d", "--runtime", runtime, "--name", name, *arguments[:cut], "busybox", *command)


def test_the_binary_runs_it_in_a_user_namespace_of_its_own(engine: EngineProcess, runtime: str) -> None:
    script = """
    id -un; id -G; pwd; echo $HOME $SEEN; hostname; cat /proc/self/uid_map; cat
    grep -E '^(Seccomp|CapEff|CapInh):' /proc/self/status; grep -c inside /etc/hosts
    cat /proc/keys | wc -c; echo x > /proc/sys/vm/swappiness || echo refused; echo error >&2; exit 7
    """
    options = ["--user", "worker", "--group-add", "extra", "-w", "/made/here", "-e", "SEEN=yes", "--hostname", "inside", "-i"]
    done = engine.docker("run", "--rm", "--runtime", runtime, *options, "busybox", "sh", "-c", script, input="typed\n")
    assert done.returncode == 7, done
    lines = done.stdout.splitlines()
    assert lines[:5] == ["worker", "1000 2000", "/made/here", "/home/worker yes", "inside"], lines
    first, base, count = lines[5].split()
    assert (first, count) == ("0", "65536")
    assert int(base) >= 65536
    assert lines[6] == "typed"
    status = dict(line.split() for line in lines[7:10])
    assert status == {"Seccomp:": "2", "CapEff:": "0" * 16, "CapInh:": "0" * 16}
    assert lines[10:] == ["1", "0", "refused"]
    assert done.stderr.splitlines()[-1] == "error"
    eventually(lambda: kept(engine, runtime) == [], "the runtime still keeps something of it")


def test_root_has_dockers_capabilities_and_the_host_gives_nothing_more(engine: EngineProcess, runtime: str) -> None:
    start(
        engine,
        runtime,
        "one",
        "--cap-drop",
        "CHOWN",
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "--security-opt",
        "no-new-privileges",
    )
    pid = int(inspect(engine, "one", "{{.State.Pid}}"))
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    assert int(status["Uid"][0]) >= 65536
    assert status["CapEff"] == status["CapBnd"] == ["00000000a80425fa"]
    assert status["NoNewPrivs"] == ["1"]
    assert engine.docker("exec", "one", "touch", "/file").returncode == 1
    assert engine.ok("exec", "one", "sh", "-c", "touch /scratch/file && ls /scratch") == "file"
    assert inspect(engine, "one", "{{.HostConfig.Runtime}}") == runtime


def test_its_life_from_start_to_removal(engine: EngineProcess, runtime: str) -> None:
    start(
        engine,
        runtime,
        "one",
        "-m",
        "64m",
        "--pids-limit",
        "50",
        "--",
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done",
    )
    eventually(lambda: engine.ok("logs", "one") == "up", "no output in the log")
    assert engine.docker("exec", "one", "sh", "-c", "exit 5").returncode == 5
    assert (
        engine.ok("exec", "-u", "worker", "-w", "/tmp", "-e", "A=b", "one", "sh", "-c", "id -un; pwd; echo $A")
        == "worker\n/tmp\nb"
    )
    assert engine.ok("exec", "-i", "one", "cat", input="through\n") == "through"
    assert "sleep" in engine.ok("top", "one")
    figures = json.loads(engine.ok("stats", "--no-stream", "--format", "{{json .}}", "one"))
    assert "64MiB" in figures["MemUsage"]
    assert int(figures["PIDs"]) >= 1
    engine.ok("update", "-m", "80m", "--memory-swap", "80m", "one")
    assert "80MiB" in engine.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "one")
    engine.ok("pause", "one")
    assert inspect(engine, "one", "{{.State.Status}}") == "paused"
    engine.ok("unpause", "one")
    engine.ok("stop", "one")
    assert inspect(engine, "one", "{{.State.ExitCode}} {{.State.OOMKilled}}") == "9 false"
    eventually(lambda: kept(engine, runtime) == [], "the runtime still keeps something of it")
    engine.ok("start", "one")
    engine.ok("kill", "one")
    eventually(lambda: inspect(engine, "one", "{{.State.Status}}") == "exited", "kill did not end it")
    assert inspect(engine, "one", "{{.State.ExitCode}}") == "137"
    engine.ok("restart", "one")
    engine.ok("rm", "-f", "one")
    eventually(lambda: kept(engine, runtime) == [], "the runtime still keeps something of it")


def test_a_terminal(engine: EngineProcess, runtime: str) -> None:
    script = "tty; stty size; read line; echo got $line; exit 4"
    master, slave = pty.openpty()
    command = ["docker", "run", "--rm", "-it", "--runtime", runtime, "busybox", "sh", "-c", script]
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=engine.environment(), start_new_session=True)
    os.close(slave)
    os.write(master, b"words\n")
    output = b""
    while b"got words" not in output:
        output += os.read(master, 4096)
    assert child.wait(SECONDS) == 4
    os.close(master)
    assert b"/dev/pts/0" in output
    start(engine, runtime, "one", "-t")
    # A terminal that nobody is at: output comes through it all the same.
    with engine.client as client:
        id = client.json("POST", "/containers/one/exec", body={"Cmd": ["tty"], "Tty": True, "AttachStdout": True})["Id"]
        client.json("POST", f"/exec/{id}/start", body={"Tty": True, "Detach": True})
        eventually(lambda: client.json("GET", f"/exec/{id}/json")["ExitCode"] == 0, "the exec with a terminal failed")


@pytest.mark.parametrize(("command", "code"), [("missing", 127), ("/no/such", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_run(engine: EngineProcess, runtime: str, command: str, code: int) -> None:
    done = engine.docker("run", "--rm", "--runtime", runtime, "busybox", command)
    assert done.returncode == code, done
    assert f'exec: "{command}"' in done.stderr
    eventually(lambda: kept(engine, runtime) == [], "the runtime still keeps something of it")
    start(engine, runtime, "one")
    done = engine.docker("exec", "one", command)
    assert done.returncode == code, done


def test_what_the_binary_refuses_is_the_starts_error(engine: EngineProcess, runtime: str) -> None:
    done = engine.docker("run", "--rm", "--runtime", runtime, "--sysctl", "net.ipv4.no_such_thing=1", "busybox", "true")
    assert done.returncode != 0, done
    assert "OCI runtime create failed" in done.stderr
    assert "no_such_thing" in done.stderr
    eventually(lambda: kept(engine, runtime) == [], "the runtime still keeps something of it")


def test_networks_names_and_published_ports(engine: EngineProcess, runtime: str) -> None:
    engine.ok("network", "create", "between")
    try:
        serve = "echo $HOSTNAME > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
        start(
            engine,
            runtime,
            "web",
            "--network",
            "between",
            "-p",
            "127.0.0.1::80",
            "--hostname",
            "web-host",
            "--",
            "sh",
            "-c",
            serve,
        )
        fetch = "until wget -qO- http://web/; do sleep 0.05; done; ip -4 addr show eth0 | grep -c inet"
        out = engine.ok(
            "run", "--rm", "--runtime", runtime, "--network", "between", "busybox", "timeout", "15", "sh", "-c", fetch
        )
        assert out.split() == ["web-host", "1"]
        host, port = engine.ok("port", "web", "80").rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in connection.recv(4096)
        # Joining: the same network and the same ids.
        joined = engine.ok(
            "run", "--rm", "--runtime", runtime, "--network", "container:web", "busybox", "wget", "-qO-", "http://127.0.0.1/"
        )
        assert joined == "web-host"
        assert (
            engine.ok(
                "run", "--rm", "--runtime", runtime, "--pid", "container:web", "busybox", "sh", "-c", "ps | grep -c '[h]ttpd'"
            )
            == "1"
        )
    finally:
        engine.docker("rm", "-f", "web")
        engine.ok("network", "rm", "between")


def test_files_are_owned_as_the_container_says(engine: EngineProcess, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "readable").mkdir()
    (tmp_path / "given").write_text("given")
    script = "touch /all/root /all/worker; chown worker /all/worker; cat /file; echo x > /file; touch /vol/x; touch /ro/x; true"
    mounts = ["-v", f"{tmp_path}:/all", "-v", f"{tmp_path}/given:/file", "-v", f"{tmp_path}/readable:/ro:ro", "-v", "/vol"]
    done = engine.docker("run", "--rm", "--runtime", runtime, *mounts, "busybox", "sh", "-c", script)
    assert done.returncode == 0, done
    assert done.stdout.startswith("given")
    assert "Read-only file system" in done.stderr
    assert [(tmp_path / name).stat().st_uid for name in ("root", "worker")] == [0, 1000]
    assert (tmp_path / "given").read_text() == "x\n"


def test_devices(engine: EngineProcess, runtime: str) -> None:
    look = "stat -c %t:%T /dev/mine /dev/full; head -c 3 /dev/mine | wc -c"
    wish = ["--device", "/dev/zero:/dev/mine:r"]
    for options in ([], ["--userns", "host"]):
        out = engine.ok("run", "--rm", "--runtime", runtime, *wish, *options, "busybox", "sh", "-c", look)
        assert out.split() == ["1:5", "1:7", "3"]


def test_control_groups_inside(engine: EngineProcess, runtime: str) -> None:
    id = engine.ok("create", "--runtime", runtime, "--cgroupns", "host", "busybox", "cat", "/proc/self/cgroup")
    assert id in engine.ok("start", "-a", id)
    # What a system of services in a container is given; the binary must still find the host's.
    bound = ("-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro", "-m", "40m")
    assert engine.ok("run", "--rm", "--runtime", runtime, *bound, "busybox", "sh", "-c", "ls /sys/fs/cgroup | wc -l") != "0"


def test_init_and_the_hosts_pid_namespace(engine: EngineProcess, runtime: str) -> None:
    if shutil.which("docker-init") or shutil.which("tini"):
        assert engine.ok("run", "--rm", "--init", "--runtime", runtime, "busybox", "cat", "/proc/1/comm") == "docker-init"
    start(engine, runtime, "host", "--pid", "host", "--", "sh", "-c", "(sleep 0.2 & ) ; echo left; sleep 1000")
    eventually(lambda: engine.ok("logs", "host") == "left", "no output")
    pid = int(inspect(engine, "host", "{{.State.Pid}}"))
    shim = int(next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid")).split()[1])
    # Orphans of the container are none of the shim's business: it would not reap them.
    children = Path(f"/proc/{shim}/task/{shim}/children")
    eventually(lambda: children.read_text().split() == [str(pid)], "the shim has children that it does not reap")
    engine.ok("rm", "-f", "host")


def test_a_restart_policy(engine: EngineProcess, runtime: str) -> None:
    start(engine, runtime, "again", "--restart", "on-failure:2", "--", "sh", "-c", "echo run; exit 3")
    eventually(
        lambda: inspect(engine, "again", "{{.State.Status}} {{.RestartCount}}") == "exited 2", "it was not restarted twice"
    )
    assert engine.ok("logs", "again").split() == ["run"] * 3


def test_a_process_that_takes_too_much_memory(engine: EngineProcess, runtime: str) -> None:
    eat = "head -c 60000000 /dev/zero | tail > /dev/null; echo survived $?; sleep 1000"
    start(engine, runtime, "hungry", "-m", "20m", "--memory-swap", "20m", "--", "sh", "-c", eat)
    eventually(lambda: "survived" in engine.ok("logs", "hungry"), "nothing was killed")
    engine.ok("kill", "hungry")
    assert inspect(engine, "hungry", "{{.State.OOMKilled}}") == "true"


def test_an_engine_that_was_killed_finds_it_again(own_engine: EngineProcess, runtime: str, tmp_path: Path) -> None:
    script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"
    start(own_engine, runtime, "counts", "--", "sh", "-c", script)
    wait = "until [ -e /mnt/end ]; do sleep 0.05; done; exit 6"
    start(own_engine, runtime, "ends", "-v", f"{tmp_path}:/mnt", "--", "sh", "-c", wait)
    pid = inspect(own_engine, "counts", "{{.State.Pid}}")
    ends = inspect(own_engine, "ends", "{{.State.Pid}}")
    own_engine.kill()
    (tmp_path / "end").touch()
    eventually(lambda: not os.path.exists(f"/proc/{ends}"), "it did not end while there was no engine")
    own_engine.start()
    assert inspect(own_engine, "ends", "{{.State.Status}} {{.State.ExitCode}}") == "exited 6"
    assert inspect(own_engine, "counts", "{{.State.Running}} {{.State.Pid}}") == f"true {pid}"
    assert own_engine.docker("exec", "counts", "sh", "-c", "exit 8").returncode == 8
    before = len(own_engine.ok("logs", "counts").split())
    eventually(lambda: len(own_engine.ok("logs", "counts").split()) > before, "it does not log any more")
    own_engine.ok("rm", "-f", "counts", "ends")
    eventually(lambda: kept(own_engine, runtime) == [], "the runtime still keeps something of it")


def test_a_killed_shim_takes_its_container_along(own_engine: EngineProcess, runtime: str) -> None:
    start(own_engine, runtime, "one")
    id = inspect(own_engine, "one", "{{.Id}}")
    state = json.loads(Path(f"{own_engine.config.run}/shims/{id}.json").read_text())
    os.kill(state["shim"], signal.SIGKILL)
    eventually(
        lambda: inspect(own_engine, "one", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137", "the end was not noticed"
    )
    eventually(lambda: kept(own_engine, runtime) == [], "the runtime still keeps something of it")
    own_engine.ok("start", "one")
    # Engine and shim gone together: the next engine ends what is left, and counts it as killed.
    state = json.loads(Path(f"{own_engine.config.run}/shims/{id}.json").read_text())
    own_engine.kill()
    os.kill(state["shim"], signal.SIGKILL)
    own_engine.start()
    assert inspect(own_engine, "one", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
    eventually(lambda: kept(own_engine, runtime) == [], "the runtime still keeps something of it")


def test_names_of_runtimes(engine: EngineProcess) -> None:
    done = engine.docker("run", "--rm", "--runtime", "no-such", "busybox", "true")
    assert done.returncode == 125
    assert "unknown or invalid runtime name: no-such" in done.stderr
    info = json.loads(engine.ok("info", "--format", "{{json .}}"))
    assert info["DefaultRuntime"] == "berth"
    assert set(info["Runtimes"]) >= {"berth", *(name for name in RUNTIMES if shutil.which(name))}
    for name in ("berth", "io.containerd.runc.v2"):
        assert engine.ok("run", "--rm", "--runtime", name, "busybox", "cat", "/proc/1/comm") == "cat"


def test_a_default_runtime_of_the_users_choice(tmp_path: Path) -> None:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("runc is not installed (Debian package runc)")
    process = EngineProcess("--add-runtime", f"mine={runc}", "--default-runtime", "mine")
    with leak.nothing_left(process.snapshot):
        try:
            process.start()
            process.add_busybox()
            process.ok("run", "-d", "--stop-signal", "KILL", "--name", "one", "busybox", "sleep", "1000")
            assert inspect(process, "one", "{{.HostConfig.Runtime}}") == "mine"
            assert kept(process, "runc") == [inspect(process, "one", "{{.Id}}")]
        finally:
            process.shut_down()
