"""Killing the parts of the runtime one by one: engine, launcher, shim, in every order that matters."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess

import pytest
from msgspec.structs import replace

from berth.errors import Conflict, Internal
from berth.model.endpoint import NetworkPlan
from berth.runtime import channel, record, remains
from support.shim_harness import Peer, engine_over, exec_request, frames, with_place


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


def test_a_container_its_client_and_its_exec_survive_the_engine():
    async def test(place, engine):
        first = await place.engine()
        request = place.request("sh", "-c", "cat; exit 3", open_stdin=True, stdin_once=True)
        peer = Peer(stdin=True, stdout=True, framed=True)
        task = await first.launch(request, [peer.stream])
        exec_peer = Peer(stdin=True, stdout=True)
        exec = await task.exec(exec_request("sh", "-c", "cat; exit 4"), [exec_peer.stream])
        # What the kernel does when an engine is killed: every descriptor is closed, nothing is said.
        await first.close()
        await peer.send(b"meanwhile ")
        assert (await peer.read(18))[8:] == b"meanwhile "

        found = await engine.load(request.id)
        assert (found.pid, found.started_at, found.exit) == (task.pid, task.started_at, None)
        again = found.find_exec(exec.id)
        assert again.pid == exec.pid
        await exec_peer.send(b"x")
        exec_peer.end()
        assert await exec_peer.rest() == b"x"
        assert (await again.wait()).code == 4
        await peer.send(b"and after")
        peer.end()
        assert frames(await peer.rest())[1] == b"and after"
        assert (await found.wait()).code == 3
        log = "".join(json.loads(line)["log"] for line in place.log(request).splitlines())
        assert log == "meanwhile and after"
        await found.delete()
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def test_an_exit_without_an_engine_is_found_by_the_next_one_and_the_shim_has_left():
    async def test(place, engine):
        first = await place.engine()
        request = place.request("sh", "-c", "read x; exit 9", open_stdin=True, stdin_once=True)
        peer = Peer(stdin=True)
        task = await first.launch(request, [peer.stream])
        shim = parent(task.pid)
        await first.close()
        await peer.send(b"\n")
        await peer.rest()
        await eventually(lambda: not alive(shim))
        assert request.id in [id async for id in engine.tasks()]
        found = await engine.load(request.id)
        exit = await found.wait()
        assert (exit.code, found.pid) == (9, task.pid)
        assert exit.at >= found.started_at > 0
        with pytest.raises(Conflict):
            await found.exec(exec_request("true"))
        await found.delete()
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def test_the_launcher_is_replaced_and_containers_do_not_notice():
    async def test(place, engine):
        task = await engine.launch(place.request("sleep", "60"))
        old = engine._server.pid
        os.kill(old, signal.SIGKILL)
        second = await engine.launch(place.request("sleep", "60"))
        assert engine._server.pid not in (0, old)
        assert task.exit is None and second.exit is None
        await task.kill(9)
        assert (await task.wait()).code == 137

    with_place(test)


def test_many_launches_while_the_launcher_is_killed_all_work_or_say_why():
    async def test(place, engine):
        async def one(number):
            try:
                task = await engine.launch(place.request("sh", "-c", f"exit {number}"))
            except Internal:
                return None
            return (await task.wait()).code == number

        launches = [asyncio.create_task(one(number)) for number in range(30)]
        await asyncio.sleep(0.02)
        os.kill(engine._server.pid, signal.SIGKILL)
        results = await asyncio.gather(*launches)
        assert False not in results
        assert results.count(True) >= 28
        assert await one(1) is True

    with_place(test)


def test_a_killed_shim_ends_its_container_and_counts_as_killed():
    async def test(place, engine):
        request = place.request("sleep", "60", open_stdin=True)
        peer = Peer(stdout=True)
        task = await engine.launch(request, [peer.stream])
        exec = await task.exec(exec_request("sleep", "60"))
        os.kill(parent(task.pid), signal.SIGKILL)
        exit = await asyncio.wait_for(task.wait(), 10)
        assert (exit.code, exit.signal) == (137, 9)
        assert (await exec.wait()).code == 137
        await eventually(lambda: not alive(task.pid))
        assert await peer.rest() == b""
        os.kill(exec.pid, signal.SIGKILL)
        await task.delete()
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def test_a_shim_killed_while_there_is_no_engine_is_found_out_by_load():
    async def test(place, engine):
        first = await place.engine()
        request = place.request("sleep", "60")
        task = await first.launch(request)
        shim = parent(task.pid)
        await first.close()
        os.kill(shim, signal.SIGKILL)
        await eventually(lambda: not alive(shim))
        assert alive(task.pid), "the fake container has no death signal"
        found = await engine.load(request.id)
        assert (await found.wait()).code == 137
        assert not alive(task.pid)
        # The record that the shim could not write is there now.
        with open(f"{request.directory}/exit.json") as file:
            assert json.load(file)["code"] == 137

    with_place(test)


def test_a_shim_killed_during_the_launch_fails_it_and_leaves_nothing():
    async def test(place, engine):
        place.planner.extra = {"kill_shim": True}
        peer = Peer(stdout=True)
        with pytest.raises(Internal, match="cannot be started"):
            await engine.launch(place.request("true"), [peer.stream])
        assert await peer.rest() == b""
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def test_leftovers_are_ended_and_removed():
    async def test(place, engine):
        first = await place.engine()
        requests = [place.request("sleep", "60") for _ in range(3)]
        tasks = [await first.launch(request) for request in requests]
        await first.close()
        os.kill(parent(tasks[1].pid), signal.SIGKILL)
        os.kill(parent(tasks[2].pid), signal.SIGSTOP)
        stopped = parent(tasks[2].pid)
        assert {request.id for request in requests} <= {id async for id in engine.tasks()}
        for request in requests[:2]:
            await engine.remove_leftovers(request.id)
            await engine.remove_leftovers(request.id)
        # A shim that does not answer is killed; here without the patience that a busy machine deserves.
        await asyncio.to_thread(remains.remove, place.run, "berth-shim-test", requests[2].id)
        assert not alive(stopped)
        assert not any(alive(task.pid) for task in tasks)
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def test_a_pid_that_belongs_to_another_process_is_not_signalled():
    async def test(place, engine):
        first = await place.engine()
        request, other = place.request("sleep", "60"), place.request("sleep", "60")
        task = await first.launch(request)
        # Start times have a resolution of 10 ms; no pid comes round again that fast.
        await asyncio.sleep(0.05)
        innocent = await first.launch(other)
        shim = parent(task.pid)
        await first.close()
        os.kill(shim, signal.SIGKILL)
        os.kill(task.pid, signal.SIGKILL)
        await eventually(lambda: not alive(shim) and not alive(task.pid))
        path = record.state_path(place.run, request.id)
        state = record.read(path)
        record.write(path, {**state, "pid": innocent.pid, "shim": parent(innocent.pid)})
        await engine.load(request.id)
        await engine.remove_leftovers(request.id)
        assert alive(innocent.pid)
        assert (await engine.load(other.id)).exit is None

    with_place(test)


def test_a_process_that_is_not_root_cannot_talk_to_a_shim():
    async def test(place, engine):
        request = place.request("sleep", "60")
        await engine.launch(request)
        path = record.socket_path(place.run, request.id)
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert os.stat(record.shims(place.run)).st_mode & 0o777 == 0o700
        # Even with the modes out of the way the shim closes the connection.
        for entry in place.base, place.run, record.shims(place.run):
            os.chmod(entry, 0o755)
        os.chmod(path, 0o666)
        assert await asyncio.to_thread(_answer_to_nobody, path) == b""

    with_place(test)


def _answer_to_nobody(path):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(path)
            try:
                sock.send(b'{"v":1,"id":0,"op":"state"}')
                answer = sock.recv(4096)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            os.write(writing, answer)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return data


def test_a_worker_is_spawned_with_site_packages_and_loses_its_power_when_it_leaves_root():
    async def test(place, engine):
        near, far = socket.socketpair()
        near.setblocking(False)
        pid = await engine.spawn("support.shim_worker", ["one", "two"], [far.fileno()])
        far.close()
        answer = json.loads(await asyncio.get_running_loop().sock_recv(near, 4096))
        assert (answer["pid"], answer["arguments"]) == (pid, ["one", "two"])
        assert answer["mnt"] != os.stat("/proc/self/ns/mnt").st_ino
        assert int(answer["effective"], 16) > 0
        assert int(answer["dropped"], 16) == 0
        # It outlives launcher and engine, and ends when its socket closes.
        os.kill(engine._server.pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
        assert alive(pid)
        near.close()
        await eventually(lambda: not alive(pid))

    with_place(test)


class Resolver:
    """What the shims hand their sockets to."""

    def __init__(self, path):
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)
        self.listener.bind(path)
        self.listener.listen()

    async def handed_over(self):
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(self.listener), 8)
        connection.setblocking(True)
        message, fds = await asyncio.to_thread(channel.receive, connection)
        count = len(fds)
        channel.close_all(fds)
        return connection, message, count

    def close(self):
        self.listener.close()
        os.unlink(self.path)


@pytest.mark.parametrize("there_from_the_beginning", [True, False])
def test_the_resolver_gets_the_sockets_again_when_it_comes_back(there_from_the_beginning):
    async def test(place, engine):
        path = f"{place.base}/resolver.sock"
        resolver = Resolver(path) if there_from_the_beginning else None
        place.planner.extra = {"resolver_fds": True}
        request = replace(place.request("sleep", "60"), network=NetworkPlan(resolver=path))
        task = await engine.launch(request)
        resolver = resolver or Resolver(path)
        for _ in range(2):
            connection, message, count = await resolver.handed_over()
            assert message == {"v": 1, "op": "serve", "container": request.id}
            assert count == 2
            resolver.close()
            connection.close()
            resolver = Resolver(path)
        connection, _, _ = await resolver.handed_over()
        await task.kill(9)
        await task.wait()
        assert await asyncio.to_thread(connection.recv, 10) == b"", "the end of the container is the end of the connection"
        connection.close()
        resolver.close()

    with_place(test)


def test_two_engines_on_one_place_see_the_same_container():
    async def test(place, engine):
        request = place.request("sleep", "60")
        task = await engine.launch(request)
        async with engine_over(await place.engine()) as other:
            found = await other.load(request.id)
            assert found.pid == task.pid
            await found.kill(9)
            assert (await found.wait()).code == (await task.wait()).code == 137

    with_place(test)


def test_the_process_that_makes_the_container_is_killed():
    async def test(place, engine):
        place.planner.extra = {"kill_birth": True}
        with pytest.raises(Internal, match="cannot be started"):
            await engine.launch(place.request("true"))
        assert [id async for id in engine.tasks()] == []

    with_place(test)


def fill(path):
    with open(path, "ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_stops_neither_the_container_nor_the_news_of_its_exit():
    async def test(place, engine):
        script = "for i in 1 2 3; do read x; echo line $i; done; exit 8"
        request = place.request("sh", "-c", script, open_stdin=True, stdin_once=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", request.directory], check=True)
        try:
            peer = Peer(stdin=True, stdout=True)
            task = await engine.launch(request, [peer.stream])
            filler = f"{request.directory}/filler"
            fill(filler)
            await peer.send(b"\n")
            await peer.until(b"line 1\n")
            await peer.send(b"\n")
            await peer.until(b"line 2\n")
            os.unlink(filler)
            await peer.send(b"\n")
            await peer.rest()
            assert (await task.wait()).code == 8
            texts = [json.loads(line)["log"] for line in place.log(request).splitlines()]
            assert texts[0].startswith("berth: 14 bytes of output were lost here")
            assert texts[1:] == ["line 3\n"]

            # And once more, full to the end: the exit record goes to the run directory.
            await task.delete()
            fill(filler)
            os.unlink(f"{request.directory}/exit.json")
            fill(filler)
            peer = Peer(stdin=True)
            first = await place.engine()
            await first.launch(request, [peer.stream])
            await first.close()
            await peer.send(b"\n\n\n")
            await peer.rest()
            found = await engine.load(request.id)
            assert (await found.wait()).code == 8
        finally:
            subprocess.run(["umount", request.directory], check=True)

    with_place(test)
