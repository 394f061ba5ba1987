"""Streams through a real launcher and real shims: attach, terminals, half-close, back-pressure, detach, execs."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket

import pytest
from msgspec.structs import replace

from berth.contract.runtime import LaunchFailed
from berth.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from support.engine import SLOW
from support.shim_harness import Peer, exec_request, frames, with_place

TOTAL = 100 * 1024 * 1024


def texts(log):
    return "".join(json.loads(line)["log"] for line in log.splitlines())


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


async def eventually(condition, seconds=10.0):
    for _ in range(int(seconds * SLOW / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not become true")


def test_framed_streams_half_close_log_and_exit():
    async def test(place, engine):
        peer = Peer(stdin=True, stdout=True, stderr=True, framed=True, pending=b"pending ")
        script = "echo out; echo err >&2; cat; exit 7"
        request = place.request("sh", "-c", script, open_stdin=True, stdin_once=True)
        task = await engine.launch(request, [peer.stream])
        await peer.send(b"typed")
        peer.end()
        assert frames(await peer.rest()) == {1: b"out\npending typed", 2: b"err\n"}
        exit = await task.wait()
        assert (exit.code, exit.signal, exit.oom_killed) == (7, 0, False)
        records = [json.loads(line) for line in place.log(request).splitlines()]
        assert {(record["stream"], record["log"]) for record in records} == {
            ("stdout", "out\n"),
            ("stderr", "err\n"),
            ("stdout", "pending typed"),
        }
        with open(f"{request.directory}/exit.json") as file:
            assert json.load(file)["code"] == 7
        await task.delete()
        await task.delete()
        assert [id async for id in engine.tasks()] == []
        assert await engine.load(request.id) is not None, "the exit record tells of it"

    with_place(test)


def test_without_open_stdin_the_input_is_empty():
    async def test(place, engine):
        peer = Peer(stdin=True, stdout=True)
        task = await engine.launch(place.request("sh", "-c", "cat; echo end"), [peer.stream])
        assert await peer.rest() == b"end\n"
        assert (await task.wait()).code == 0

    with_place(test)


def test_a_terminal_with_size_resize_and_detach():
    async def test(place, engine):
        peer = Peer(stdin=True, stdout=True, framed=True, detach_keys=b"\x10\x11")
        request = place.request(
            "sh", "-c", "stty size; read x; stty size; read y; echo got $y", terminal=True, open_stdin=True, height=40, width=100
        )
        task = await engine.launch(request, [peer.stream])
        await peer.until(b"40 100\r\n")
        await task.resize(50, 120)
        await peer.send(b"\n")
        await peer.until(b"50 120\r\n")
        await peer.send(b"\x10\x11")
        assert await peer.rest() == b"", "a client that detaches is closed"
        second = Peer(stdin=True, stdout=True)
        await task.attach(second.stream)
        await second.send(b"again\n")
        assert (await second.rest()).endswith(b"got again\r\n")
        assert (await task.wait()).code == 0
        assert "got again\r\n" in texts(place.log(request))

    with_place(test)


def test_without_a_terminal_there_is_nothing_to_resize():
    async def test(place, engine):
        task = await engine.launch(place.request("sleep", "60"))
        with pytest.raises(InvalidArgument):
            await task.resize(1, 1)

    with_place(test)


def test_100_mb_pass_with_back_pressure_and_flat_memory():
    async def test(place, engine):
        peer = Peer(stdout=True, framed=True)
        request = place.request("head", "-c", str(TOTAL), "/dev/zero", log={"driver": "none"})
        task = await engine.launch(request, [peer.stream])
        shim = parent(task.pid)
        before = resident(shim)
        await asyncio.sleep(0.3)
        assert task.exit is None, "the client has not read, so the process cannot have ended"
        received, largest = 0, 0
        loop = asyncio.get_running_loop()
        while part := await loop.sock_recv(peer.sock, 1 << 20):
            received += len(part)
            largest = max(largest, resident(shim)) if task.exit is None else largest
        peer.sock.close()
        assert received > TOTAL
        assert largest - before < 2048, f"the shim grew from {before} to {largest} kB"
        assert (await task.wait()).code == 0

    with_place(test)


def test_output_goes_to_the_log_with_flat_memory_and_nothing_is_lost():
    async def test(place, engine):
        request = place.request("sh", "-c", "yes | head -n 300000; seq 1 100000", log={"max_size": 0})
        task = await engine.launch(request)
        shim = parent(task.pid)
        largest = 0
        while task.exit is None:
            try:
                largest = max(largest, resident(shim))
            except (OSError, StopIteration):
                break
            await asyncio.sleep(0.02)
        assert (await task.wait()).code == 0
        assert texts(place.log(request)) == "y\n" * 300000 + "".join(f"{number}\n" for number in range(1, 100001))
        assert largest < 30000

    with_place(test)


def test_a_client_that_vanishes_does_not_stall_the_container():
    async def test(place, engine):
        peer = Peer(stdout=True)
        request = place.request("sh", "-c", "head -c 3000000 /dev/zero; echo done", log={"driver": "none"})
        task = await engine.launch(request, [peer.stream])
        await peer.read(100)
        peer.sock.close()
        assert (await task.wait()).code == 0

    with_place(test)


def test_exit_is_reported_although_a_client_never_reads():
    async def test(place, engine):
        peer = Peer(stdout=True)
        size = 300_000
        request = place.request("head", "-c", str(size), "/dev/zero")
        task = await engine.launch(request, [peer.stream])
        assert (await asyncio.wait_for(task.wait(), 10)).code == 0
        await task.delete()
        assert len(await peer.rest()) == size, "what was written is still sent after the task has been deleted"

    with_place(test)


def test_a_grandchild_that_holds_the_output_delays_the_exit_only_for_a_while():
    async def test(place, engine):
        peer = Peer(stdout=True)
        task = await engine.launch(place.request("sh", "-c", "echo begin; sleep 6 & exit 4"), [peer.stream])
        assert (await asyncio.wait_for(task.wait(), 5)).code == 4
        assert await asyncio.wait_for(peer.rest(), 1) == b"begin\n"

    with_place(test)


def test_a_signal_counts_as_docker_counts():
    async def test(place, engine):
        task = await engine.launch(place.request("sleep", "60"))
        await task.kill(15)
        exit = await task.wait()
        assert (exit.code, exit.signal) == (143, 15)
        with pytest.raises(NotFound):
            await task.kill(9)
        with pytest.raises(Conflict):
            await task.resize(1, 1)

    with_place(test)


def test_a_program_that_does_not_exist_leaves_nothing_and_closes_the_clients():
    async def test(place, engine):
        peer = Peer(stdin=True, stdout=True)
        await peer.send(b"never read")
        request = place.request("no-such-program", open_stdin=True)
        with pytest.raises(LaunchFailed, match="executable file not found in") as caught:
            await engine.launch(request, [peer.stream])
        assert (caught.value.step, caught.value.errno) == ("execve", 2)
        assert await peer.rest() == b""
        assert [id async for id in engine.tasks()] == []
        assert await engine.load(request.id) is None

    with_place(test)


def test_a_log_that_cannot_be_opened_fails_the_launch():
    async def test(place, engine):
        request = place.request("true")
        os.mkdir(request.io.log.path)
        with pytest.raises(LaunchFailed, match="is a directory"):
            await engine.launch(request)
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def test_execs_have_streams_and_exits_of_their_own():
    async def test(place, engine):
        task = await engine.launch(place.request("sleep", "60"))
        peer = Peer(stdin=True, stdout=True, stderr=True, framed=True)
        exec = await task.exec(exec_request("sh", "-c", "cat; echo err >&2; exit 5"), [peer.stream])
        await peer.send(b"input")
        peer.end()
        assert frames(await peer.rest()) == {1: b"input", 2: b"err\n"}
        assert (await exec.wait()).code == 5
        with pytest.raises(NotFound):
            await exec.kill(9)

        terminal = Peer(stdin=True, stdout=True)
        exec = await task.exec(
            exec_request("sh", "-c", "stty size; read x; stty size", terminal=True, height=10, width=20), [terminal.stream]
        )
        await terminal.until(b"10 20\r\n")
        await exec.resize(11, 21)
        await terminal.send(b"\n")
        assert (await terminal.rest()).endswith(b"11 21\r\n")
        assert (await exec.wait()).code == 0

        detached = await task.exec(exec_request("sleep", "60"))
        assert detached.pid > 0
        await detached.kill(9)
        assert (await detached.wait()).code == 137
        with pytest.raises(LaunchFailed):
            await task.exec(exec_request("no-such-program"))
        assert task.exit is None

    with_place(test)


def test_an_exec_whose_child_holds_the_output_ends_and_the_child_may_still_write():
    async def test(place, engine):
        task = await engine.launch(place.request("sleep", "60"))
        peer = Peer(stdout=True)
        flag = f"{place.base}/flag"
        exec = await task.exec(exec_request("sh", "-c", f"(sleep 3; echo late && echo fine > {flag}) & echo now"), [peer.stream])
        assert (await asyncio.wait_for(exec.wait(), 2.9)).code == 0
        assert await peer.rest() == b"now\n"
        await eventually(lambda: os.path.exists(flag))

    with_place(test)


def test_fifty_launches_at_once_and_no_descriptor_is_left():
    async def test(place, engine):
        before = len(os.listdir("/proc/self/fd"))
        launcher_before = len(os.listdir(f"/proc/{engine._server.pid}/fd"))
        requests = [place.request("sh", "-c", f"echo {number}; exit {number}") for number in range(50)]
        peers = [Peer(stdout=True) for _ in requests]
        tasks = await asyncio.gather(
            *(engine.launch(request, [peer.stream]) for request, peer in zip(requests, peers, strict=True))
        )
        for number, (task, peer) in enumerate(zip(tasks, peers, strict=True)):
            assert await peer.rest() == f"{number}\n".encode()
            assert (await task.wait()).code == number
        await asyncio.gather(*(task.delete() for task in tasks))
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(os.listdir(f"/proc/{engine._server.pid}/fd")) == launcher_before
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def test_a_shim_keeps_no_descriptor_of_clients_and_execs_that_have_gone():
    async def test(place, engine):
        task = await engine.launch(place.request("cat", open_stdin=True))
        shim = f"/proc/{parent(task.pid)}/fd"
        # A shim that has slept so far opens what it needs.
        with pytest.raises(InvalidArgument):
            await task.resize(1, 1)
        before = len(os.listdir(shim))
        for number in range(5):
            peer = Peer(stdin=True, stdout=True)
            await task.attach(peer.stream)
            await peer.send(b"x\n")
            await peer.until(b"x\n")
            peer.sock.close()
            terminal = number % 2 == 0
            exec = await task.exec(exec_request("echo", "x", terminal=terminal), [Peer(stdout=True).stream])
            await exec.wait()
            with pytest.raises(LaunchFailed):
                await task.exec(exec_request("no-such-program"))
        # One less when birth had not ended yet.
        await eventually(lambda: len(os.listdir(shim)) <= before)

    with_place(test)


def test_a_container_that_runs_is_not_launched_again_nor_deleted():
    async def test(place, engine):
        request = place.request("sleep", "60")
        task = await engine.launch(request)
        with pytest.raises(AlreadyExists):
            await engine.launch(request)
        with pytest.raises(Conflict):
            await task.delete()
        await task.kill(9)
        await task.wait()
        again = await engine.launch(request)
        assert again.pid != task.pid
        assert again.exit is None

    with_place(test)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return {int(child) for child in file.read().split()}


def private_dirty(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))


def test_a_shim_sleeps_and_stays_small_until_something_happens_to_it():
    async def test(place, engine):
        request = place.request("sh", "-c", "sleep 1; echo woken; exec sleep 60")
        task = await engine.launch(request)
        shim = parent(task.pid)
        await eventually(lambda: not children(shim) - {task.pid})
        await asyncio.sleep(0.1)
        asleep = private_dirty(shim)
        assert asleep < 1000, f"{asleep} kB of its own"
        # As if the engine had gone, but not the launcher, whose memory the shim shares.
        task.let_go()
        engine._deleted(request.id)
        await asyncio.sleep(0.2)
        assert private_dirty(shim) < asleep + 100, "an engine that goes is no reason to wake up"
        await eventually(lambda: "woken" in texts(place.log(request)))
        assert private_dirty(shim) > asleep
        found = await engine.load(request.id)
        await found.kill(9)
        assert (await found.wait()).code == 137

    with_place(test)


def test_a_launch_that_is_cancelled_leaves_nothing():
    async def test(place, engine):
        request = place.request("sleep", "60")
        unheard = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context["message"]))
        # It has been asked for, and cannot be there yet.
        launcher = engine._server.pid
        assert launcher
        os.kill(launcher, signal.SIGSTOP)
        try:
            work = asyncio.create_task(engine.launch(request))
            await asyncio.sleep(0.02)
            work.cancel()
        finally:
            os.kill(launcher, signal.SIGCONT)
        with pytest.raises(asyncio.CancelledError):
            await work
        await eventually(lambda: not engine._abandoned)
        assert [id async for id in engine.tasks()] == []
        del work
        gc.collect()
        assert unheard == []

    with_place(test)


def test_hundreds_of_reserved_sockets_are_held_until_the_task_is_deleted():
    async def test(place, engine):
        sockets = [socket.socket() for _ in range(400)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        request = replace(place.request("sleep", "60"), reserved=tuple(one.detach() for one in sockets))
        task = await engine.launch(request)
        with socket.socket() as probe, pytest.raises(OSError, match="Address already in use"):
            probe.bind(("127.0.0.1", ports[-1]))
        await task.kill(9)
        await task.wait()
        await task.delete()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", ports[-1]))

    with_place(test)
