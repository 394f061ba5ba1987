"""Other engines with berth-runtime as their runtime: podman, containerd and Docker's daemon, each with everything of its own."""

from __future__ import annotations

import glob
import os
import pty
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.runtime import cgroup_layout
from support.bundle import Bundle, wait_for

pytest_plugins = ["support.bundle_fixture"]

SECONDS = 60
# What the engines make for control groups of theirs, and leave.
PARENTS = ("libpod_parent", "berth-oci-engines", "docker")
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program() -> str:
    """The installed command."""
    import sys

    path = os.path.join(os.path.dirname(sys.executable), "berth-runtime")
    if not os.path.exists(path) or Path(path).read_bytes()[:9] != b"#!/bin/sh":
        pytest.skip("berth-runtime is not installed beside this interpreter: make setup")
    return path


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: sockets below have room for 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="boe-"))
    yield made
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        where = line.split(" ")[4]
        if where.startswith(f"{made}/"):
            subprocess.run(["umount", "-l", where], check=True)
    shutil.rmtree(made)
    roots, v2, _ = cgroup_layout.layout().parts()
    hierarchies = {*roots.values(), *([v2] if v2 else []), *glob.glob("/sys/fs/cgroup/systemd")}
    for top in (f"{hierarchy}/{name}" for hierarchy in hierarchies for name in PARENTS):
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                # somebody else's containers are there
                break


def asker(*command: str) -> Ask:
    def ask(*words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    ask.command = command  # type: ignore[attr-defined]
    return ask


@contextmanager
def daemon(place: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server with its output in a file, ended at the end."""
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


def on_terminal(command: list[str]) -> tuple[int, bytes]:
    """Run a command on a terminal of its own: its code, and what came."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    output = b""
    while select.select([master], [], [], SECONDS)[0]:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output


# --- podman ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def podman(place: Path, program: str) -> Iterator[Ask]:
    if not shutil.which("podman") or not shutil.which("conmon"):
        pytest.skip("needs the packages podman and conmon")
    dirs = ["--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp"]
    ways = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", program]
    ask = asker("podman", *dirs, *ways)
    yield ask
    ask("rm", "--all", "--force", "--time", "0")


def podman_run(bundle: Bundle, *flags: str) -> list[str]:
    return ["run", "--network", "none", *LIMITS, *flags, "--rootfs", str(bundle.rootfs)]


def test_podman_in_the_foreground(podman: Ask, bundle: Bundle) -> None:
    done = podman(*podman_run(bundle, "--rm"), "sh", "-c", "echo out; echo err >&2; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")
    assert podman(*podman_run(bundle, "--rm"), "nope").returncode == 127
    assert podman(*podman_run(bundle, "--rm"), "/etc").returncode == 126
    code, output = on_terminal([*podman.command, *podman_run(bundle, "--rm", "-it"), "sh", "-c", "tty; exit 5"])  # type: ignore[attr-defined]
    assert code == 5 and b"/dev/pts/0" in output


def test_podman_in_the_background(podman: Ask, bundle: Bundle) -> None:
    script = "echo began; trap 'exit 3' TERM; while :; do sleep 0.1; done"
    podman(*podman_run(bundle, "--detach", "--name", "web"), "sh", "-c", script, check=True)
    wait_for(lambda: podman("logs", "web").stdout == "began\n")
    done = podman("exec", "--user", "5", "web", "sh", "-c", "id -u; exit 6")
    assert (done.returncode, done.stdout) == (6, "5\n")
    assert podman("exec", "web", "nope").returncode == 127
    for words, status in ((["pause"], "paused"), (["unpause"], "running")):
        podman(*words, "web", check=True)
        assert podman("inspect", "--format", "{{.State.Status}}", "web").stdout.strip() == status
    podman("stop", "--time", "20", "web", check=True)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", "web").stdout.strip() == "3"
    podman("start", "web", check=True)
    podman("kill", "web", check=True)
    assert podman("wait", "web").stdout.strip() == "137"
    podman("rm", "web", check=True)


def test_podman_with_a_copy_on_a_tmpfs(podman: Ask, bundle: Bundle) -> None:
    (bundle.rootfs / "tmp/kept").write_text("kept")
    done = podman(
        *podman_run(bundle, "--rm", "--read-only", "--tmpfs", "/tmp"), "sh", "-c", "cat /tmp/kept; touch /tmp/x; touch /x"
    )
    assert done.stdout == "kept" and "Read-only file system" in done.stderr, done.stderr


# --- containerd --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ctr(place: Path) -> Iterator[Ask]:
    if not shutil.which("containerd") or not shutil.which("ctr"):
        pytest.skip("needs the package containerd")
    (place / "config.toml").write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    address = f"{place}/sock"
    dirs = ["--root", f"{place}/root", "--state", f"{place}/state", "--address", address]
    with daemon(place, "containerd", "--config", f"{place}/config.toml", *dirs):
        ask = asker("ctr", "--address", address, "--namespace", "berth-oci-engines")
        wait_for(lambda: ask("version").returncode == 0)
        yield ask
        for name in ask("container", "list", "--quiet").stdout.split():
            ask("task", "delete", "--force", name)
            ask("container", "delete", name)


def test_containerd(ctr: Ask, bundle: Bundle, program: str) -> None:
    ways = ["--runc-binary", program, "--rootfs", str(bundle.rootfs)]
    done = ctr("run", "--rm", *ways, "one", "sh", "-c", "echo out; exit 4")
    assert (done.returncode, done.stdout) == (4, "out\n"), done.stderr
    ctr("run", "--detach", *ways, "two", "sleep", "600", check=True)
    done = ctr("task", "exec", "--exec-id", "e", "two", "sh", "-c", "echo in; exit 6")
    assert (done.returncode, done.stdout) == (6, "in\n"), done.stderr
    for words, status in (("pause", "PAUSED"), ("resume", "RUNNING")):
        ctr("task", words, "two", check=True)
        assert status in ctr("task", "list").stdout
    ctr("task", "kill", "--signal", "KILL", "two", check=True)
    wait_for(lambda: "STOPPED" in ctr("task", "list").stdout)
    failed = ctr("run", "--rm", *ways, "three", "nope")
    assert failed.returncode != 0 and "executable file not found in $PATH" in failed.stderr


# --- Docker ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def docker(place: Path, program: str) -> Iterator[Ask]:
    if not shutil.which("dockerd") or not shutil.which("docker"):
        pytest.skip("needs the package docker.io")
    (place / "none.json").write_text("{}")
    host = f"unix://{place}/sock"
    dirs = ["--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/pid", "-H", host]
    net = ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]
    runtime = ["--config-file", f"{place}/none.json", "--add-runtime", f"berth={program}"]
    with daemon(place, "dockerd", *dirs, *net, *runtime):
        ask = asker("docker", "-H", host)
        wait_for(lambda: ask("version").returncode == 0)
        yield ask
        for name in ask("ps", "--all", "--quiet").stdout.split():
            ask("rm", "--force", name)


def test_docker(docker: Ask, bundle: Bundle, place: Path) -> None:
    subprocess.run(["tar", "-C", str(bundle.rootfs), "-cf", f"{place}/busybox.tar", "."], check=True)
    docker("import", f"{place}/busybox.tar", "busybox", check=True)
    ways = ["--runtime", "berth", "--network", "none"]
    done = docker("run", "--rm", *ways, "busybox", "sh", "-c", "echo out; echo err >&2; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")
    for program, code in (("nope", 127), ("/etc", 126)):
        assert docker("run", "--rm", *ways, "busybox", program).returncode == code
    code, output = on_terminal([*docker.command, "run", "--rm", "-it", *ways, "busybox", "sh", "-c", "tty; exit 5"])  # type: ignore[attr-defined]
    assert code == 5 and b"/dev/pts/0" in output
    script = "echo began; trap 'exit 3' TERM; while :; do sleep 0.1; done"
    docker("run", "--detach", "--name", "web", *ways, "--memory", "64m", "busybox", "sh", "-c", script, check=True)
    wait_for(lambda: docker("logs", "web").stdout == "began\n")
    done = docker("exec", "web", "sh", "-c", "echo in; exit 6")
    assert (done.returncode, done.stdout) == (6, "in\n"), done.stderr
    assert "echo began" in docker("top", "web").stdout
    for words, status in (("pause", "paused"), ("unpause", "running")):
        docker(words, "web", check=True)
        assert docker("inspect", "--format", "{{.State.Status}}", "web").stdout.strip() == status
    docker("stop", "--time", "20", "web", check=True)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", "web").stdout.strip() == "3"
