"""tmpfs volumes: who uses one at the same time shares it, its content ends with the last of them, and nothing is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from berth.engine.idmap import can_idmap, kernel_version
from support.engine import SLOW, EngineProcess

pytestmark = pytest.mark.skipif(
    not can_idmap("tmpfs", kernel_version()), reason="Linux before 6.3 shows no tmpfs with a container's ids"
)


def holders(engine: EngineProcess) -> set[int]:
    """The processes that hold a volume of this engine: a tmpfs is mounted there in its run directory."""
    place = f" {engine.config.run}/volumes/mnt "
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if place in Path(f"/proc/{entry}/mountinfo").read_text():
                found.add(int(entry))
        except OSError:
            continue
    return found


def await_holders(engine: EngineProcess, count: int) -> set[int]:
    """Until there are so many."""
    deadline = time.monotonic() + 5 * SLOW
    while len(found := holders(engine)) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def create(engine: EngineProcess, name: str, options: str = "size=1m") -> None:
    engine.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", f"o={options}", name)


def run(engine: EngineProcess, *arguments: str) -> str:
    """A container that stays, with a sign of life."""
    return engine.ok("run", "-d", "--init", *arguments, "busybox", "sleep", "600")


def test_containers_share_a_tmpfs_until_the_last_has_ended(engine: EngineProcess) -> None:
    create(engine, "shared", "size=1m,uid=1000,mode=750,noexec")
    run(engine, "--name", "first", "-v", "shared:/a")
    engine.ok("exec", "-u", "1000", "first", "sh", "-c", "echo one > /a/f; mknod /a/p p")
    run(engine, "--name", "second", "-v", "shared:/b", "-v", "shared:/c:ro")
    told = engine.ok("exec", "second", "sh", "-c", "cat /b/f; stat -c '%u %g %a' /b /c/f; grep ' /b ' /proc/mounts; df -k /b")
    assert told.splitlines()[:3] == ["one", "1000 0 750", "1000 1000 644"] and "noexec" in told and " 1024 " in told
    assert "Read-only" in engine.docker("exec", "second", "touch", "/c/x").stderr
    assert f"{engine.root}/volumes/shared/_data" not in Path("/proc/mounts").read_text(), "mounted on the host"
    engine.ok("rm", "-f", "first")
    engine.ok("exec", "second", "sh", "-c", "echo two >> /b/f")
    assert engine.ok("run", "--rm", "-v", "shared:/d", "busybox", "cat", "/d/f").split() == ["one", "two"]
    engine.ok("rm", "-f", "second")
    assert engine.ok("run", "--rm", "-v", "shared:/d", "busybox", "ls", "/d") == ""
    await_holders(engine, 0)
    engine.ok("volume", "rm", "shared")


@pytest.mark.parametrize("options", [("--userns", "host"), ("--runtime", "runc"), ("--privileged",)], ids=lambda o: o[-1])
def test_a_tmpfs_is_shared_with_containers_of_other_kinds(engine: EngineProcess, options: tuple[str, ...]) -> None:
    create(engine, "shared")
    run(engine, "--name", "ours", "-v", "shared:/v")
    run(engine, "--name", "other", *options, "-v", "shared:/v")
    engine.ok("exec", "ours", "sh", "-c", "echo a > /v/f; chown 7:8 /v/f")
    assert engine.ok("exec", "other", "sh", "-c", "stat -c %u:%g /v/f; touch /v/g") == "7:8"
    engine.ok("rm", "-f", "ours")
    assert engine.ok("run", "--rm", *options, "-v", "shared:/v", "busybox", "ls", "/v").split() == ["f", "g"]
    engine.ok("rm", "-f", "other")
    engine.ok("volume", "rm", "shared")


def test_a_tmpfs_outlives_the_engine_with_its_users(own: EngineProcess) -> None:
    engine = own
    create(engine, "shared")
    run(engine, "--name", "first", "-v", "shared:/v")
    engine.ok("exec", "first", "touch", "/v/f")
    engine.kill()
    engine.start()
    run(engine, "--name", "second", "-v", "shared:/v")
    assert engine.ok("exec", "second", "ls", "/v") == "f"
    engine.ok("rm", "-f", "first")
    assert engine.ok("run", "--rm", "-v", "shared:/v", "busybox", "ls", "/v") == "f"
    pid = int(engine.ok("inspect", "-f", "{{.State.Pid}}", "second"))
    engine.kill()
    # The last user ends while there is no engine.
    await_holders(engine, 1)
    os.kill(pid, signal.SIGKILL)
    await_holders(engine, 0)
    engine.start()
    engine.ok("start", "second")
    assert engine.ok("exec", "second", "ls", "/v") == ""
    engine.ok("rm", "-f", "second")
    engine.ok("volume", "rm", "shared")
    assert os.listdir(f"{engine.config.run}/volumes") == ["mnt"]


def test_a_holder_that_is_killed_takes_nothing_from_its_users(engine: EngineProcess) -> None:
    create(engine, "shared")
    run(engine, "--name", "first", "-v", "shared:/v")
    engine.ok("exec", "first", "touch", "/v/f")
    os.kill(await_holders(engine, 1).pop(), signal.SIGKILL)
    assert engine.ok("exec", "first", "ls", "/v") == "f"
    assert engine.ok("run", "--rm", "-v", "shared:/v", "busybox", "ls", "/v") == ""
    engine.ok("rm", "-f", "first")
    engine.ok("volume", "rm", "shared")
    assert os.listdir(f"{engine.config.run}/volumes") == ["mnt"]


def test_starts_in_turns_and_at_once_find_one_filesystem(engine: EngineProcess) -> None:
    """Who starts when the last user ends gets a fresh one, never an error; those who start together one in common."""
    create(engine, "shared")
    for _ in range(20):
        assert engine.ok("run", "--rm", "-v", "shared:/v", "busybox", "sh", "-c", "ls /v; touch /v/f") == ""
    names = [f"c{number}" for number in range(6)]
    for name in names:
        script = f"touch /v/{name}; sleep 600"
        engine.ok("create", "--name", name, "--init", "--network", "none", "-v", "shared:/v", "busybox", "sh", "-c", script)
    engine.ok("start", *names)
    deadline = time.monotonic() + 5 * SLOW
    while engine.ok("exec", "c0", "ls", "/v").split() != names:
        assert time.monotonic() < deadline
    assert len(holders(engine)) == 1
    engine.ok("rm", "-f", *names)
    engine.ok("volume", "rm", "shared")


def test_options_that_the_kernel_refuses_are_told_as_docker_tells_them(engine: EngineProcess) -> None:
    create(engine, "bad", "size=bad")
    told = engine.docker("run", "--rm", "-v", "bad:/v", "busybox", "true")
    data = f"{engine.root}/volumes/bad/_data"
    words = f"error while mounting volume '{data}': failed to mount local volume: mount tmpfs:{data}, data: size=bad: "
    assert told.returncode == 125 and words + "invalid argument" in told.stderr
    await_holders(engine, 0)
    engine.ok("volume", "rm", "bad")
