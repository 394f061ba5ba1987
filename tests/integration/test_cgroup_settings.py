"""Engines in other surroundings: no control groups, a subtree of their own, a parent and ulimits by setting."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.runtime import cgroup_host, cgroup_layout
from support import leak
from support.control_group import Groups, group_of, mount_point, pure_v2, remove_groups
from support.engine import EngineProcess

MB = 1 << 20
NO_GROUPS = "umount -l -R /sys/fs/cgroup; exec \"$@\""
READ_ONLY = "for m in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,bind,ro $m; done; exec \"$@\""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and network devices are made")


@contextmanager
def running(*options: str, prefix: tuple[str, ...] = ()) -> Iterator[EngineProcess]:
    engine = EngineProcess(*options, prefix=prefix)
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            engine.add_busybox()
            yield engine
            # Their processes ignore SIGTERM: the engine's end would wait for each.
            engine.ok("rm", "-f", *engine.ok("ps", "-aq").split())
        finally:
            engine.shut_down()


@pytest.mark.parametrize("script", [NO_GROUPS, READ_ONLY], ids=["no-groups", "read-only"])
def test_an_engine_without_control_groups_says_so_and_runs_containers(script: str) -> None:
    with running(prefix=("unshare", "-m", "sh", "-c", script, "sh")) as engine:
        note = "No control group hierarchy is mounted that may be written: containers run without limits."
        assert note in engine.log_text()
        info = json.loads(engine.ok("info", "-f", "{{json .}}"))
        assert info["CgroupDriver"] == "none" and info["MemoryLimit"] is False and info["PidsLimit"] is False
        assert f"WARNING: {note}" in info["Warnings"] and "WARNING: No memory limit support" in info["Warnings"]
        assert engine.ok("run", "--rm", "busybox", "echo", "runs") == "runs"
        limited = engine.docker("run", "-d", "--name", "one", "-m", "64m", "--pids-limit", "9", "busybox", "sleep", "1000")
        assert limited.returncode == 0, limited.stderr
        assert "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded." in (
            limited.stderr
        )
        assert "Your kernel does not support PIDs limit capabilities" in limited.stderr
        refused = engine.docker("run", "--rm", "--cpus", "1", "busybox", "true")
        assert refused.returncode == 125 and "NanoCPUs can not be set, as your kernel does not support" in refused.stderr
        assert len(engine.ok("top", "one").splitlines()) == 2
        paused = engine.docker("pause", "one")
        assert paused.returncode == 1 and "no freezer control group" in paused.stderr
        assert "0B" in engine.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "one")
        # Nothing keeps the list of allowed devices, so nobody who is root of the host may make a node.
        made = engine.docker("run", "--rm", "--userns", "host", "busybox", "mknod", "/dev/it", "c", "1", "11")
        assert made.returncode == 1 and "Operation not permitted" in made.stderr
        engine.ok("run", "-d", "--name", "two", "--userns", "host", "busybox", "sleep", "1000")
        made = engine.docker("exec", "two", "mknod", "/dev/it", "c", "1", "11")
        assert made.returncode == 1 and "Operation not permitted" in made.stderr


def test_ulimits_and_a_parent_by_setting() -> None:
    parent = f"berth-test-parent-{os.getpid()}"
    try:
        ulimits = ("--default-ulimit", "nofile=200:300", "--default-ulimit", "core=0")
        with running(*ulimits, "--cgroup-parent", f"/{parent}") as engine:
            script = "ulimit -n; ulimit -Hn; ulimit -c"
            assert engine.ok("run", "--rm", "busybox", "sh", "-c", script).split() == ["200", "300", "0"]
            own = ("--ulimit", "nofile=50:60")
            identifier = engine.ok("run", "-d", "--name", "one", *own, "-m", "64m", "busybox", "sleep", "1000")
            assert engine.ok("exec", "one", "sh", "-c", script).split() == ["50", "60", "0"]
            groups = Groups(engine, "one")
            assert group_of(groups.pid, "memory") == f"{mount_point('memory')}/{parent}/{engine.config.name}/{identifier}"
            assert groups.read("memory", "memory.limit_in_bytes", "memory.max") == str(64 * MB)
            # What a killed engine left is found there by the next one.
            engine.kill()
            engine.start()
            assert engine.ok("inspect", "-f", "{{.State.Running}}", "one") == "true"
    finally:
        remove_groups(f"/{parent}")


@pytest.fixture
def unified() -> Iterator[Callable[[str], str]]:
    """Makes groups on cgroup2, which are removed again."""
    top = mount_point("")
    if not top or not os.access(top, os.W_OK):
        pytest.skip("this host has no cgroup2 that may be written")
    made: list[str] = []

    def make(name: str) -> str:
        path = f"{top}/{name}-{os.getpid()}"
        os.mkdir(path)
        made.append(path.removeprefix(top))
        return path

    yield make
    for path in made:
        remove_groups(path)


def test_processes_make_room_in_a_subtree(unified: Callable[[str], str]) -> None:
    path = unified("berth-test-subtree")
    os.setxattr(path, "trusted.delegate", b"1")
    below, _, name = path.rpartition("/")
    assert cgroup_layout.subtree(below, f"/{name}") == "", "a unit without a subgroup"
    assert cgroup_layout.subtree(below, f"/{name}/{cgroup_host.LEAF}") == f"/{name}"
    assert cgroup_layout.subtree(below, "/elsewhere") == ""
    pid = os.fork()
    if pid == 0:
        Path(path, "cgroup.procs").write_text(str(os.getpid()))
        found = cgroup_layout.Layout({}, path, [])
        moved = (cgroup_host.settle(found), cgroup_host.settle(found))
        os._exit(0 if moved == (True, False) and cgroup_layout.own_group("/") == f"/{name}/{cgroup_host.LEAF}" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert Path(path, "cgroup.procs").read_text() == ""


@pytest.mark.skipif(not pure_v2(), reason="subtrees are delegated on pure cgroup2 only")
def test_an_engine_stays_in_the_subtree_that_was_delegated_to_it(unified: Callable[[str], str]) -> None:
    path = unified("berth-test.service")
    os.setxattr(path, "trusted.delegate", b"1")
    leaf = f"{path}/{cgroup_host.LEAF}"
    os.mkdir(leaf)
    with running(prefix=("sh", "-c", f"echo $$ > {leaf}/cgroup.procs; exec \"$@\"", "sh")) as engine:
        identifier = engine.ok("run", "-d", "--name", "one", "-m", "64m", "busybox", "sleep", "1000")
        groups = Groups(engine, "one")
        assert group_of(groups.pid, "") == f"{path}/{engine.config.name}/{identifier}"
        assert groups.read("memory", "", "memory.max") == str(64 * MB)
        assert engine.process is not None
        assert group_of(engine.process.pid, "") == f"{path}/{cgroup_host.LEAF}"
        assert not os.path.exists(f"{mount_point('')}/{engine.config.name}")
        assert "Delegate" not in engine.log_text()


@pytest.mark.skipif(not pure_v2(), reason="what is the top of a namespace may be the root of a hierarchy on cgroup v1")
def test_an_engine_in_a_cgroup_namespace_of_its_own(unified: Callable[[str], str]) -> None:
    """As in a container: the top of what it sees holds processes, and is not the root."""
    path = unified("berth-test-outer")
    # The host's mount shows all of it, and forbids a second one in its place.
    inner = "umount /sys/fs/cgroup && mount -t cgroup2 c /sys/fs/cgroup && exec \"$@\""
    script = f"echo $$ > {path}/cgroup.procs; exec unshare -m -C sh -c '{inner}' sh \"$@\""
    with running(prefix=("sh", "-c", script, "sh")) as engine:
        identifier = engine.ok("run", "-d", "--name", "one", "--pids-limit", "9", "busybox", "sleep", "1000")
        pid = Groups(engine, "one").pid
        assert Path(path, engine.config.name, identifier, "pids.max").read_text() == "9\n"
        assert group_of(pid, "") == f"{path}/{engine.config.name}/{identifier}"
