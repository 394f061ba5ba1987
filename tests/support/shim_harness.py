"""A NativeRuntime over the fake launch module, in directories of its own: what tests of shims and streams drive."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import struct
import tempfile
from contextlib import asynccontextmanager

from berth.contract.runtime import AttachStream, ExecRequest, IOPlan, LaunchRequest, LogPlan, Stats
from berth.model.oci import Linux, Process, Root, Spec, User
from berth.model.rootfs import Overlay
from berth.runtime import fork_server
from berth.runtime.native import NativeRuntime
from support.engine import SLOW

FAKE = {"cgroup": {"path": "/none", "roots": {}, "v2": None, "enabled": []}, "state": {}}


class FakePlanner:
    """Only arguments and environment matter to the fake launch module."""

    def __init__(self):
        self.extra = {}

    def launch_plan(self, request):
        return {"args": request.spec.process.args, "size": [request.io.height, request.io.width], **FAKE, **self.extra}

    def exec_plan(self, request):
        return {"args": request.process.args, "size": [request.height, request.width]}

    def update(self, group, resources):
        raise AssertionError("the fake launch module has no limits")

    def stats(self, group):
        return Stats(pids_current=1)


class Place:
    """The directories of one engine, and engines on them one after another."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="berth-shim-")
        self.root = f"{self.base}/root"
        self.run = f"{self.base}/run"
        self.package = f"{self.base}/package"
        os.mkdir(self.root)
        os.mkdir(self.package)
        os.symlink(os.path.join(fork_server.package_root(), "berth"), f"{self.package}/berth")
        shutil.copy(os.path.join(os.path.dirname(__file__), "fake_launch.py"), self.package)
        self.planner = FakePlanner()
        self._real_root = fork_server.package_root

    async def engine(self):
        fork_server.package_root = lambda: self.package
        try:
            return await NativeRuntime.start(
                root=self.root, run=self.run, name="berth-shim-test", planner=self.planner, launch_module="fake_launch"
            )
        finally:
            fork_server.package_root = self._real_root

    def request(self, *args, id=None, **io):
        id = id or secrets.token_hex(32)
        directory = f"{self.root}/containers/{id}"
        os.makedirs(directory, exist_ok=True)
        log = LogPlan(path=f"{directory}/log", **io.pop("log", {}))
        return LaunchRequest(
            id=id,
            spec=Spec(process=Process(user=User(uid=0, gid=0), args=list(args)), root=Root(path="rootfs"), linux=Linux()),
            rootfs=Overlay(store=self.root, layers=()),
            directory=directory,
            io=IOPlan(log=log, **io),
        )

    def log(self, request):
        with open(request.io.log.path, "rb") as file:
            return file.read()

    def remove(self):
        shutil.rmtree(self.base)


def exec_request(*args, terminal=False, height=0, width=0):
    return ExecRequest(
        id=secrets.token_hex(32),
        process=Process(user=User(uid=0, gid=0), args=list(args), terminal=terminal),
        terminal=terminal,
        height=height,
        width=width,
    )


@asynccontextmanager
async def engine_over(engine):
    """An engine that ends everything it started, whatever the test left running."""
    try:
        yield engine
    finally:
        async for id in engine.tasks():
            await engine.remove_leftovers(id)
        await engine.close()


def with_place(test):
    """Run an async test with a place and an engine; afterwards nothing may be left."""

    async def main():
        place = Place()
        try:
            async with engine_over(await place.engine()) as engine:
                await asyncio.wait_for(test(place, engine), 60 * SLOW)
        finally:
            place.remove()

    asyncio.run(main())


class Peer:
    """The client's end of an attached stream."""

    def __init__(self, **flags):
        self.sock, other = socket.socketpair()
        self.sock.setblocking(False)
        self.stream = AttachStream(fd=other.detach(), **flags)

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def end(self):
        self.sock.shutdown(socket.SHUT_WR)

    async def read(self, size):
        data = b""
        while len(data) < size:
            part = await asyncio.get_running_loop().sock_recv(self.sock, size - len(data))
            if not part:
                break
            data += part
        return data

    async def until(self, text):
        data = b""
        while text not in data:
            part = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            if not part:
                raise AssertionError(f"the end came before {text!r}: {data!r}")
            data += part
        return data

    async def rest(self):
        data = []
        while part := await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20):
            data.append(part)
        self.sock.close()
        return b"".join(data)


def frames(data):
    """Docker's framed output as {1: bytes, 2: bytes}."""
    found = {1: b"", 2: b""}
    while data:
        number, size = struct.unpack(">B3xI", data[:8])
        assert len(data) >= 8 + size, "a frame was cut"
        found[number] += data[8 : 8 + size]
        data = data[8 + size :]
    return found
