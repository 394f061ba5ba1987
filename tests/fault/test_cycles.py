"""Hundreds of containers, execs and attached clients, ten at a time: afterwards the host and the engine are as before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from berth.client.containers import CreateBody
from berth.client.engine import Engine
from berth.client.exec import ExecConfig
from berth.wire.container import HostConfig
from support import leak
from support.engine import EngineProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
AT_ONCE = 10
MEGABYTES = 12
# Pools of threads fill up as they are used; one thread per cycle would be far more.
POOLS = 8


def figures(pid: int) -> tuple[int, int, int]:
    """Open descriptors, threads, and resident kB of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = {name: rest.split() for name, _, rest in (line.partition(":") for line in text.splitlines())}
    return len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"][0]), int(fields["VmRSS"][0])


def launcher(pid: int) -> int:
    """The engine's launcher."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if stat[1] == str(pid) and b"launcher" in Path(f"/proc/{name}/cmdline").read_bytes():
                    return int(name)
            except OSError:
                continue
    raise AssertionError("no launcher")


@pytest.fixture
def flat(shared_engine: EngineProcess) -> Iterator[Callable[[Callable[[int], None], int], None]]:
    """Runs a cycle once per thread to warm up and then so many times; at the end nothing may have grown."""
    engine = shared_engine
    assert engine.process is not None
    pid = engine.process.pid

    def run(cycle: Callable[[int], None], times: int) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(cycle, range(AT_ONCE * 3)))
            engine.await_slots()
            time.sleep(1)
            before = {"engine": figures(pid), "launcher": figures(launcher(pid))}
            kinds, netns = leak.descriptors(pid), engine.network_namespaces()
            with leak.nothing_left(engine.snapshot):
                list(pool.map(cycle, range(times)))
        deadline = time.monotonic() + 8
        while True:
            after = {"engine": figures(pid), "launcher": figures(launcher(pid))}
            grown = [name for name in after if after[name][0] > before[name][0] or after[name][1] > before[name][1] + POOLS]
            new = engine.network_namespaces() - netns if not grown else set()
            if not grown and not new:
                break
            assert time.monotonic() < deadline, (before, after, leak.descriptors(pid) - kinds, new)
            time.sleep(0.1)
        for name, (_, _, kilobytes) in after.items():
            assert kilobytes - before[name][2] < MEGABYTES << 10, (name, before, after)

    engine.ok("run", "--rm", "busybox", "true")
    yield run
    left = engine.ok("ps", "-aq").split()
    if left:
        engine.ok("rm", "-fv", *left)


def test_two_hundred_containers_that_are_killed_or_end(
    shared_engine: EngineProcess, flat: Callable[[Callable[[int], None], int], None]
) -> None:
    def cycle(number: int) -> None:
        with shared_engine.client as client:
            script = "echo begun; sleep 1000" if number % 2 else "echo begun; exit 3"
            ports = {"80/tcp": []} if number % 5 == 0 else None
            body = CreateBody(image="busybox", cmd=["sh", "-c", script], exposed_ports=ports and {"80/tcp": {}})
            body.host_config = HostConfig(publish_all_ports=bool(ports), auto_remove=number % 3 == 0)
            made = client.containers.create(body).id
            waiting = shared_engine.client
            result = waiting.containers.begin_wait(made, condition="removed" if number % 3 == 0 else "next-exit")
            client.containers.start(made)
            if number % 2:
                client.containers.kill(made)
            ended = waiting.containers.finish_wait(result)
            waiting.close()
            assert ended.status_code == (137 if number % 2 else 3)
            if number % 3:
                client.containers.remove(made, force=True)

    flat(cycle, 200)
    assert shared_engine.ok("ps", "-aq") == ""


def run_exec(client: Engine, container: str, command: list[str]) -> tuple[str, int | None]:
    """Output and exit code."""
    made = client.execs.create(container, ExecConfig(cmd=command, attach_stdout=True, attach_stderr=True))
    with client.execs.start(made, tty=False) as stream:
        output = b"".join(payload for _, payload in stream.frames())
    return output.decode(), client.execs.inspect(made).exit_code


def test_two_hundred_execs(shared_engine: EngineProcess, flat: Callable[[Callable[[int], None], int], None]) -> None:
    shared_engine.ok("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
    shim = int(Path(f"/proc/{shared_engine.ok('inspect', '-f', '{{.State.Pid}}', 'busy')}/stat").read_text().split()[3])

    def cycle(number: int) -> None:
        with shared_engine.client as client:
            assert run_exec(client, "busy", ["sh", "-c", f"echo {number}; exit {number % 7}"]) == (f"{number}\n", number % 7)

    list(map(cycle, range(20)))
    before = figures(shim)
    flat(cycle, 200)
    time.sleep(0.5)
    after = figures(shim)
    assert after[0] <= before[0] and after[1] <= before[1], (before, after)
    assert after[2] - before[2] < 4 << 10
    assert shared_engine.ok("exec", "busy", "ps", "-o", "args").count("sleep 1000") == 1


def test_row_59_clients_that_attach_and_go(
    shared_engine: EngineProcess, flat: Callable[[Callable[[int], None], int], None]
) -> None:
    script = "while :; do echo tick; sleep 0.05; done"
    shared_engine.ok("run", "-d", "-i", "--name", "ticking", "busybox", "sh", "-c", script)
    shim = int(Path(f"/proc/{shared_engine.ok('inspect', '-f', '{{.State.Pid}}', 'ticking')}/stat").read_text().split()[3])

    def cycle(number: int) -> None:
        with (
            shared_engine.client as client,
            client.containers.attach("ticking", tty=False, stdin=bool(number % 2)) as stream,
        ):
            # Some go with output on its way, some without having read anything.
            if number % 3:
                assert next(iter(stream.frames()))[1]

    list(map(cycle, range(6)))
    time.sleep(0.3)
    before = figures(shim)
    flat(cycle, 100)
    time.sleep(0.5)
    after = figures(shim)
    assert after[0] <= before[0] and after[1] <= before[1], (before, after)
    assert after[2] - before[2] < 4 << 10
    assert shared_engine.ok("inspect", "-f", "{{.State.Running}}", "ticking") == "true"
