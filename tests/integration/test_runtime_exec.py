"""Further processes in a running container, its freezing, and joining its namespaces."""

from __future__ import annotations

import os
import time

from berth.model.oci import Cpu, Memory, Pids, Resources
from berth.runtime import cgroup, launch
from berth.runtime.planner import NativePlanner
from support.launching import Bench, Running, Wish, started

pytest_plugins = ["support.launch_fixture"]

SLEEP = ["sleep", "1000"]


def test_exec_is_in_the_container(bench: Bench) -> None:
    def use(container: Running) -> str:
        return container.shell(
            "ps -o pid,args; hostname; cat /proc/self/cgroup; grep -E '^(Cap(Inh|Eff)|Seccomp:)' /proc/self/status"
        )

    out = bench.running(Wish(SLEEP), use)
    assert "1 sleep 1000" in out
    assert "inside" in out
    assert "CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n" in out
    assert all(line.endswith(":/") for line in out.splitlines() if line[0].isdigit() and ":" in line)


def test_exec_user_directory_and_errors(bench: Bench) -> None:
    def use(container: Running) -> list[object]:
        return [
            container.shell("id -u; pwd; echo $HOME; echo ok > /dev/stdout"),
            container.shell("id; pwd", user="0:tapes", cwd="/tmp"),
            container.exec(["nothing"]).failure,
            container.exec(["true"], cwd="/no/where").failure,
            container.exec(["true"], cwd="/proc/self/fd/3").failure,
            container.exec(["true"], user="x").failure,
            container.exec(["sh", "-c", "exit 5"]).code,
        ]

    out = bench.running(Wish(SLEEP, user="bob"), use)
    assert out[0] == "1000\n/\n/home/bob\nok\n", "the container's own user unless told otherwise"
    assert "uid=0(root) gid=26(tapes) groups=26(tapes)\n/tmp\n" in out[1]
    assert out[2] == ("execve", 2, "nothing")
    assert out[3] == ("chdir", 2, "/no/where")
    assert out[4] is not None and out[4][0] == "chdir"
    assert out[5] == ("user", 0, "unable to find user x: no matching entries in passwd file")
    assert out[6] == 5


def test_exec_terminal_and_privileged(bench: Bench) -> None:
    def use(container: Running) -> tuple[str, str]:
        terminal = container.exec(["sh", "-c", "tty; stty size; test -t 0 && echo yes"], terminal=True, height=30, width=100)
        return terminal.output, container.shell("grep -E '^(CapEff|Seccomp:)' /proc/self/status", privileged=True)

    terminal, privileged = bench.running(Wish(SLEEP), use)
    assert terminal == "/dev/pts/0\r\n30 100\r\nyes\r\n"
    assert privileged == "CapEff:\t000001ffffffffff\nSeccomp:\t0\n"


def test_exec_in_a_container_of_the_hosts_user_namespace(bench: Bench) -> None:
    wish = Wish(SLEEP, namespaces=("pid", "network", "mount", "ipc", "uts", "cgroup"))
    out = bench.running(wish, lambda container: container.shell("cat /proc/self/uid_map; grep CapEff /proc/self/status"))
    assert "4294967295" in out and "a80425fb" in out


def test_exec_after_the_end_fails(bench: Bench) -> None:
    def use(container: Running) -> object:
        state = {**container.started.state, "start_time": 1}
        try:
            launch.enter(state, container.bench.compiler.exec(_request()), (0, 1, 2))
        except launch.Failure as failure:
            return failure.step
        return None

    assert bench.running(Wish(SLEEP), use) == "enter"


def _request() -> object:
    from berth.contract.runtime import ExecRequest
    from berth.model.oci import Process, User

    return ExecRequest(id="e", process=Process(user=User(uid=0, gid=0), args=["true"]))


def test_freeze_thaw_and_pids(bench: Bench) -> None:
    script = "while true; do echo x >> /dev/shm/f; usleep 1000; done"

    def size(container: Running) -> int:
        return os.stat(f"/proc/{container.started.pid}/root/dev/shm/f").st_size

    def use(container: Running) -> list[object]:
        group = container.started.cgroup
        while not os.path.exists(f"/proc/{container.started.pid}/root/dev/shm/f"):
            time.sleep(0.01)
        cgroup.freeze(group, True)
        before = size(container)
        time.sleep(0.1)
        after = size(container)
        cgroup.freeze(group, False)
        deadline = time.monotonic() + 10
        while size(container) == after and time.monotonic() < deadline:
            time.sleep(0.01)
        return [before == after, size(container) > after, container.started.pid in cgroup.pids(group)]

    assert bench.running(Wish(["sh", "-c", script]), use) == [True, True, True]


def test_update_and_stats(bench: Bench) -> None:
    def use(container: Running) -> list[object]:
        planner = NativePlanner(bench.store, bench.base + "/run")
        group = container.started.cgroup
        first = planner.stats(group)
        planner.update(group, Resources(memory=Memory(limit=256 << 20), pids=Pids(limit=77), cpu=Cpu(shares=512)))
        second = planner.stats(group)
        planner.update(group, Resources(memory=Memory(limit=32 << 20)))
        return [first, second, planner.stats(group)]

    first, second, third = bench.running(Wish(SLEEP, resources=Resources(memory=Memory(limit=64 << 20))), use)
    assert first.memory_limit == 64 << 20 and first.memory_usage > 0 and first.cpu_total > 0
    assert second.memory_limit == 256 << 20 and second.pids_limit == 77 and second.pids_current == 1
    assert third.memory_limit == 32 << 20


def test_cleanup_kills_what_is_left(bench: Bench) -> None:
    # With the host's pid namespace the end of init does not end its children.
    def use(container: Running) -> list[int]:
        while len(cgroup.pids(container.started.cgroup)) < 2:
            time.sleep(0.01)
        return cgroup.pids(container.started.cgroup)

    names = ("network", "mount", "ipc", "uts", "cgroup")
    left = bench.running(Wish(["sh", "-c", "sleep 1000 & sleep 1000"], namespaces=names), use)
    assert len(left) >= 2
    assert not any(_runs(pid) for pid in left)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"sleep" in file.read()
    except OSError:
        return False


def test_namespaces_of_another_container(bench: Bench) -> None:
    def use(container: Running) -> list[str]:
        pid = container.started.pid
        paths = {
            kind: f"/proc/{pid}/ns/{file}"
            for kind, file in (("user", "user"), ("network", "net"), ("pid", "pid"), ("ipc", "ipc"))
        }
        mine = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("user", "net", "pid", "ipc", "uts")}
        script = (
            "for n in user net pid ipc uts; do readlink /proc/self/ns/$n; done; ps -o args | grep -c '^sleep'; id -u; touch /x"
        )
        request = bench.request(Wish(["sh", "-c", script], joined=paths))
        from support.launching import drain

        with started(bench, request) as second:
            out = drain(second.read).split()
        return [*out, *mine.values()]

    out = bench.running(Wish(SLEEP), use)
    theirs, found, uid, mine = out[:5], out[5], out[6], out[7:]
    assert theirs[:4] == mine[:4], "joined"
    assert theirs[4] != mine[4], "its own"
    assert int(found) >= 1 and uid == "0"


def test_plan_of_a_missing_namespace_fails_clearly(bench: Bench) -> None:
    outcome = bench.run(Wish(["true"], joined={"network": "/proc/1/ns/none"}))
    assert outcome.failure is not None and outcome.failure[1:] == (2, "/proc/1/ns/none")
    assert outcome.extra == []
