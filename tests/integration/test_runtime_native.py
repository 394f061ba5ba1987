"""The whole runtime with real containers: engine's side, launcher, shim, launch."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal

import pytest
from msgspec.structs import replace

from berth.contract.runtime import ExecRequest, LaunchFailed, LogPlan
from berth.model.oci import DeviceRule, Memory, Pids, Process, Resources, User
from berth.runtime import cgroup, remains
from berth.runtime.native import NativeRuntime
from support.launching import CAPABILITIES, PARENT, Bench, Wish, capabilities
from support.shim_harness import Peer, engine_over, frames

pytest_plugins = ["support.launch_fixture"]

NO_DEVICES = [DeviceRule(allow=False, access="rwm")]


def request_for(bench: Bench, *args: str, **wish):
    io = {key: wish.pop(key) for key in ("open_stdin", "stdin_once") if key in wish}
    request = bench.request(Wish(list(args), **wish))
    id = secrets.token_hex(32)
    linux = replace(request.spec.linux, cgroups_path=f"/{PARENT}/{id}")
    log = LogPlan(path=f"{request.directory}/log")
    return replace(request, id=id, spec=replace(request.spec, linux=linux), io=replace(request.io, log=log, **io))


def exec_for(*args: str, **values):
    process = Process(user=User(uid=0, gid=0), args=list(args), env=["PATH=/bin"], capabilities=capabilities(CAPABILITIES))
    return ExecRequest(id=secrets.token_hex(32), process=process, **values)


def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def eventually(condition, seconds=10.0):
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not become true")


async def engine_for(bench):
    return await NativeRuntime.start(root=bench.store, run=f"{bench.base}/run", name=PARENT)


def with_engine(bench, test):
    async def main():
        async with engine_over(await engine_for(bench)) as engine:
            await asyncio.wait_for(test(engine), 60)

    asyncio.run(main())


def test_a_container_from_launch_to_delete(bench: Bench) -> None:
    async def test(engine):
        peer = Peer(stdin=True, stdout=True, stderr=True, framed=True)
        request = request_for(bench, "sh", "-c", "echo $$; cat; echo end >&2; exit 6", open_stdin=True, stdin_once=True)
        task = await engine.launch(request, [peer.stream])
        await peer.send(b"typed\n")
        inside = Peer(stdout=True)
        exec = await task.exec(exec_for("sh", "-c", "hostname; exit 3"), [inside.stream])
        assert await inside.rest() == b"inside\n"
        assert (await exec.wait()).code == 3
        sleeper = await task.exec(exec_for("sleep", "100"))
        assert {task.pid, sleeper.pid} <= set(await task.pids())
        stats = await task.stats()
        assert stats.pids_current == 3 and stats.memory_usage > 0 and stats.cpu_total > 0
        peer.end()
        assert frames(await peer.rest()) == {1: b"1\ntyped\n", 2: b"end\n"}
        assert (await task.wait()).code == 6
        assert (await sleeper.wait()).code == 137, "execs end with the container"
        with open(request.io.log.path) as file:
            assert [json.loads(line)["log"] for line in file] == ["1\n", "typed\n", "end\n"]
        await task.delete()
        assert not any(os.path.exists(path) for path in cgroup.directories(remains.group_of(PARENT, request.id)))

    with_engine(bench, test)


def test_freezing_new_limits_and_killing_while_frozen(bench: Bench) -> None:
    async def test(engine):
        task = await engine.launch(request_for(bench, "sh", "-c", "while true; do echo x; sleep 0.01; done"))
        await task.pause()
        before = (await task.stats()).cpu_total
        await asyncio.sleep(0.2)
        assert (await task.stats()).cpu_total == before
        await task.resume()
        await task.update(Resources(memory=Memory(limit=64 << 20), pids=Pids(limit=50)))
        stats = await task.stats()
        assert (stats.memory_limit, stats.pids_limit) == (64 << 20, 50)
        await task.pause()
        await task.kill(signal.SIGKILL)
        assert (await asyncio.wait_for(task.wait(), 10)).code == 137

    with_engine(bench, test)


def test_running_out_of_memory_is_told(bench: Bench) -> None:
    async def test(engine):
        limits = Resources(memory=Memory(limit=16 << 20, swap=16 << 20), devices=NO_DEVICES)
        task = await engine.launch(request_for(bench, "tail", "/dev/zero", resources=limits))
        exit = await asyncio.wait_for(task.wait(), 30)
        assert (exit.code, exit.oom_killed) == (137, True)

    with_engine(bench, test)


@pytest.mark.parametrize(
    ("args", "wish", "text", "step"),
    [
        (["nothing"], {}, "executable file not found in $PATH", "execve"),
        (["/etc/passwd"], {}, "permission denied", "execve"),
        (["true"], {"user": "nobody-here"}, "unable to find user nobody-here: no matching entries in passwd file", "user"),
    ],
)
def test_a_launch_that_fails_says_why_and_leaves_nothing(bench: Bench, args, wish, text, step) -> None:
    async def test(engine):
        request = request_for(bench, *args, **wish)
        with pytest.raises(LaunchFailed) as caught:
            await engine.launch(request)
        assert text in caught.value.message
        assert caught.value.step == step
        assert [id async for id in engine.tasks()] == []

    with_engine(bench, test)


def test_a_container_dies_with_its_shim_although_there_is_no_engine(bench: Bench) -> None:
    async def test(engine):
        first = await engine_for(bench)
        request = request_for(bench, "sleep", "1000")
        task = await first.launch(request)
        shim = parent(task.pid)
        await first.close()
        os.kill(shim, signal.SIGKILL)
        await eventually(lambda: not alive(task.pid))
        found = await engine.load(request.id)
        assert (await found.wait()).code == 137
        await found.delete()
        assert [id async for id in engine.tasks()] == []

    with_engine(bench, test)


def test_an_init_that_lost_its_death_signal_is_ended_by_the_engine(bench: Bench) -> None:
    async def test(engine):
        # Changing ids, as images that step down from root do, clears the death signal.
        request = request_for(bench, "su", "bob", "-c", "exec sleep 1000")
        task = await engine.launch(request)
        await eventually(lambda: b"sleep" in open(f"/proc/{task.pid}/cmdline", "rb").read())
        os.kill(parent(task.pid), signal.SIGKILL)
        assert (await asyncio.wait_for(task.wait(), 10)).code == 137
        assert not alive(task.pid)

    with_engine(bench, test)


def test_a_container_survives_engine_and_launcher_and_is_taken_over(bench: Bench) -> None:
    async def test(engine):
        first = await engine_for(bench)
        request = request_for(bench, "cat", open_stdin=True, stdin_once=True)
        task = await first.launch(request)
        await first.close()
        found = await engine.load(request.id)
        assert (found.pid, found.exit) == (task.pid, None)
        peer = Peer(stdin=True, stdout=True)
        await found.attach(peer.stream)
        await peer.send(b"hello")
        peer.end()
        assert await peer.rest() == b"hello"
        inside = await found.wait()
        assert inside.code == 0

    with_engine(bench, test)


def test_many_launches_at_once(bench: Bench) -> None:
    async def test(engine):
        requests = [request_for(bench, "sh", "-c", f"exit {number}") for number in range(20)]
        tasks = await asyncio.gather(*(engine.launch(request) for request in requests))
        for number, task in enumerate(tasks):
            assert (await task.wait()).code == number
        await asyncio.gather(*(task.delete() for task in tasks))
        assert [id async for id in engine.tasks()] == []

    with_engine(bench, test)
