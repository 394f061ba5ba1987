"""The shipped unit under systemd as process 1, where that may be changed: in the guest (`--init systemd`)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import BIN, SLOW, busybox_tar

UNIT = Path(__file__).parents[2] / "packaging" / "berthd.service"
INSTALLED = Path("/etc/systemd/system/berthd.service")
pytestmark = pytest.mark.skipif(
    not os.path.isdir("/run/systemd/system") or not os.environ.get("BERTH_GUEST"),
    reason='needs a machine of its own with systemd: GUEST="--init systemd" make test-guest',
)


def run(*command: str, input: bytes | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, input=input, capture_output=True, check=False, timeout=60 * SLOW)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode().strip(), done.stderr.decode().strip())


def ok(*command: str, input: bytes | None = None) -> str:
    done = run(*command, input=input)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{journal()}"
    return done.stdout


def journal() -> str:
    return run("journalctl", "--no-pager", "-u", "berthd", "-n", "40").stdout


def pid_of(container: str) -> int:
    return int(ok("docker", "inspect", "-f", "{{.State.Pid}}", container))


def group_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """The unit as shipped; the commands are where its comment says."""
    os.environ["DOCKER_HOST"] = "unix:///run/berth/berth.sock"
    for name in ("berthd", "berth", "berth-runtime"):
        link = Path("/usr/local/bin", name)
        link.unlink(missing_ok=True)
        link.symlink_to(BIN / name)
    INSTALLED.write_text(UNIT.read_text())
    assert run("systemd-analyze", "verify", str(INSTALLED)).stderr == ""
    patience = Path(f"{INSTALLED}.d", "patience.conf")
    patience.parent.mkdir(exist_ok=True)
    patience.write_text(f"[Service]\nTimeoutStartSec={60 * SLOW}\n")
    ok("systemctl", "daemon-reload")
    ok("systemctl", "start", "berthd")
    # Type=notify: it has returned when the API answers.
    ok("docker", "import", "-c", 'CMD ["sh"]', "-", "busybox", input=busybox_tar())
    yield
    ids = ok("docker", "ps", "-aq").split()
    if ids:
        ok("docker", "rm", "-f", *ids)
    ok("berth", "engine", "stop", "--containers")
    run("systemctl", "stop", "berthd")


@pytest.mark.parametrize("drop_in", ["", "[Service]\nDelegate=yes\n"], ids=["as-shipped", "delegated"])
def test_containers_survive_a_restart_of_the_service(drop_in: str) -> None:
    directory = Path(f"{INSTALLED}.d")
    directory.mkdir(exist_ok=True)
    (directory / "delegate.conf").write_text(drop_in)
    ok("systemctl", "daemon-reload")
    ok("systemctl", "restart", "berthd")
    identifier = ok("docker", "run", "-d", "--name", "web", "-m", "64m", "busybox", "sh", "-c", "echo began; exec sleep 6000")
    pid = pid_of("web")
    assert group_of(pid) == f"/berth/{identifier}"
    engine = ok("systemctl", "show", "-P", "MainPID", "berthd")
    ok("systemctl", "restart", "berthd")
    assert ok("systemctl", "show", "-P", "MainPID", "berthd") not in ("0", engine)
    assert pid_of("web") == pid and ok("docker", "logs", "web") == "began"
    assert ok("docker", "exec", "web", "cat", "/sys/fs/cgroup/memory.max") == str(64 << 20)
    ok("systemctl", "stop", "berthd")
    os.kill(pid, 0)
    # What systemd does to groups that it does not know.
    ok("systemctl", "daemon-reload")
    ok("systemctl", "start", "berthd")
    assert Path(f"/sys/fs/cgroup/berth/{identifier}/memory.max").read_text().strip() == str(64 << 20)
    assert ok("docker", "rm", "-f", "web") == "web"
    assert ("DelegateSubgroup=engine" in journal()) == bool(drop_in)


def test_an_engine_that_is_killed_is_started_again() -> None:
    ok("docker", "run", "-d", "--name", "web", "busybox", "sleep", "6000")
    pid, engine = pid_of("web"), ok("systemctl", "show", "-P", "MainPID", "berthd")
    os.kill(int(engine), 9)
    deadline = time.monotonic() + 30 * SLOW
    while ok("systemctl", "show", "-P", "MainPID", "berthd") in ("0", engine) or run("docker", "ps").returncode:
        assert time.monotonic() < deadline, journal()
        time.sleep(0.5)
    assert pid_of("web") == pid
    assert ok("docker", "rm", "-f", "web") == "web"


def test_a_slice_as_the_parent() -> None:
    refused = run("docker", "run", "--rm", "--cgroup-parent", "test-web.slice", "busybox", "true")
    assert refused.returncode == 125 and "systemctl start test-web.slice" in refused.stderr
    ok("systemctl", "start", "test-web.slice")
    ok("systemctl", "set-property", "--runtime", "test-web.slice", "MemoryMax=128M")
    identifier = ok("docker", "run", "-d", "--name", "web", "--cgroup-parent", "test-web.slice", "--pids-limit", "20",
                    "busybox", "sleep", "6000")  # fmt: skip
    assert group_of(pid_of("web")) == f"/test.slice/test-web.slice/berth/{identifier}"
    top = Path("/sys/fs/cgroup/test.slice/test-web.slice")
    group = top / "berth" / identifier
    assert (top / "memory.max").read_text().strip() == str(128 << 20)
    assert (group / "pids.max").read_text().strip() == "20"
    ok("systemctl", "daemon-reload")
    assert (group / "pids.max").read_text().strip() == "20", "systemd took the controller from the slice"
    ok("docker", "rm", "-f", "web")
    assert not group.exists()
    ok("systemctl", "stop", "test-web.slice")
    assert not top.exists()
