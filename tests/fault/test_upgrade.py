"""A newer engine on what an older one left, on disk and running; and an engine that is too old for what it finds."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from berth.errors import BerthError
from berth.kernel.process import start_time
from berth.runtime import channel, record
from berth.runtime.native import NativeRuntime
from berth.storage.database import MIGRATIONS
from support import audit, leak
from support.engine import SLOW, EngineProcess
from support.platforms import OTHER
from support.shim_harness import Place, with_place
from support.store_fixture import DATA, restore

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="runs containers: needs root")
# What databases out there have been through: a change of one of these would part them from new ones.
RELEASED = (
    "3331cecba87a6d58", "3503cb057384ee02", "31bbe5d15a8d699b", "26ff0b8fb942e3d0", "9981ac2857e828b7", "14c9eaae5247b9da",
)  # fmt: skip
PROGRAM = "trap 'echo bye; exit 5' TERM; echo begun; sleep 1000 & wait"


def test_migrations_that_were_released_stay_as_they_are() -> None:
    digests = tuple(hashlib.sha256(script.encode()).hexdigest()[:16] for script in MIGRATIONS)
    assert digests[: len(RELEASED)] == RELEASED
    assert len(digests) == len(RELEASED), "a new one: add its digest, and keep a store of it (support/store_fixture.py)"


def test_every_schema_has_the_same_tables_in_the_end(tmp_path: Path) -> None:
    """A database that was migrated, from whatever schema, is like a new one."""
    from berth.storage.database import Database

    def tables(schema: int) -> list[Any]:
        path = tmp_path / f"from-{schema}"
        with closing(sqlite3.connect(path)) as database:
            for script in MIGRATIONS[:schema]:
                database.executescript(script)
            database.execute(f"PRAGMA user_version={schema}")
        Database(str(path)).close()
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
            return database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()

    new = tables(0)
    assert all(tables(schema) == new for schema in range(1, len(MIGRATIONS) + 1))


@contextmanager
def engine_on(root: str) -> Iterator[EngineProcess]:
    """An engine, and nothing left of it."""
    engine = EngineProcess("--pool-size", "0", root=root)
    with leak.nothing_left(engine.snapshot):
        try:
            engine.start()
            yield engine
            if left := engine.ok("ps", "-aq").split():
                engine.ok("rm", "-fv", *left)
        finally:
            engine.shut_down()


@needs_root
@pytest.mark.parametrize(("kept", "schema"), [(3, 1), (3, 2), (3, 3), (4, 4), (5, 5), (6, 6)])
def test_an_older_store_is_taken_over(tmp_path: Path, kept: int, schema: int) -> None:
    root = str(tmp_path / "root")
    restore(DATA / f"store-{kept}", root, schema)
    with engine_on(root) as engine:
        audit.await_consistency(engine)
        names = set(engine.ok("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines())
        assert names == {"wrote exited", "failed exited", "made created", "anonymous created"}
        assert engine.ok("inspect", "-f", "{{.State.ExitCode}} {{.Config.Labels.x}}", "failed") == "3 y"
        assert engine.ok("inspect", "-f", "{{.HostConfig.Runtime}}", "failed") == "berth", "runc is the binary's name now"
        assert engine.ok("logs", "wrote") == "said"
        tags = set(engine.ok("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines())
        assert tags == {"imported:1", "imported:2", "built:1", *(["multi:latest"] if kept > 4 else [])}
        if kept > 4:
            shown = engine.ok("image", "inspect", "--platform", f"linux/{OTHER}", "-f", "{{.Architecture}}", "multi")
            assert shown == OTHER
        assert engine.ok("image", "inspect", "-f", "{{.Config.Labels.made}}", "built:1") == "before"
        tagged = engine.ok("image", "inspect", "-f", "{{.Metadata.LastTagTime}}", "built:1")
        assert tagged.startswith("2026-12-01 " if kept > 5 else "0001-01-01 "), "kept since schema 6"
        assert "vessel" in engine.ok("volume", "ls", "-q").splitlines()
        assert engine.ok("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "net") == "10.213.7.0/24"
        died = ("--filter", "event=die", "--format", "{{.Actor.Attributes.name}}")
        names = set(engine.ok("events", "--since", "1", "--until", "0s", *died).splitlines())
        assert names == ({"wrote", "failed"} if kept > 3 else set()), "kept on disk since schema 4"
        # And all of it works.
        assert engine.docker("start", "-a", "failed").returncode == 3
        engine.ok("start", "-a", "wrote")
        assert engine.ok("start", "-a", "made") == "begun\none"
        shell = ("-v", "/bin/busybox:/bin/busybox:ro", "-v", "vessel:/v", "built:1", "/bin/busybox")
        assert engine.ok("run", "--rm", *shell, "cat", "/v/file", "/first", "/second") == "kept\nonetwo"
        context = b"FROM built:1\nLABEL more=x\n"
        assert engine.docker("build", "-t", "again:1", "-", input=context).returncode == 0
        engine.ok("rmi", "again:1", "imported:2")
        engine.kill()
        engine.start()
        audit.await_consistency(engine)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20 * SLOW
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def run_file(engine: EngineProcess, name: str) -> Path:
    return Path(engine.config.run, "shims", engine.ok("inspect", "-f", "{{.Id}}", name) + ".json")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    with engine_on(str(tmp_path / "root")) as found:
        found.add_busybox()
        found.ok("run", "-d", "--name", "one", "busybox", "sh", "-c", PROGRAM)
        yield found


def as_of_a_newer_berth(engine: EngineProcess) -> None:
    """The engine is killed; the next finds a shim that says it speaks version 99."""
    path = run_file(engine, "one")
    engine.kill()
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "v": 99, "something": {"new": True}}))
    engine.start()


@needs_root
def test_a_container_of_a_newer_shim_runs_on_and_can_be_stopped(engine: EngineProcess) -> None:
    pid = engine.ok("inspect", "-f", "{{.State.Pid}}", "one")
    as_of_a_newer_berth(engine)
    assert "was started by a newer berth (its shim speaks version 99, this engine 1)" in engine.log_text()
    assert engine.ok("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", "one") == f"running {pid}"
    assert engine.ok("logs", "one") == "begun"
    assert "sleep" in engine.ok("top", "one")
    # Of a refused attach the docker CLI tells the number only.
    assert "received 503" in engine.docker("attach", "--no-stdin", "one").stderr
    for done in engine.docker("exec", "one", "true"), engine.berth("attach", "--no-stdin", "one"):
        assert done.returncode != 0 and "was started by a newer berth" in done.stderr, done
        assert "upgrade berth again" in done.stderr, done
    engine.ok("pause", "one")
    engine.ok("unpause", "one")
    engine.ok("stop", "one")
    assert engine.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one") == "exited 5"
    assert engine.ok("logs", "one") == "begun\nbye"
    engine.ok("start", "one")
    assert engine.ok("exec", "one", "echo", "hi") == "hi", "started by this engine"


@needs_root
def test_a_container_of_a_newer_shim_ends_by_itself_or_is_restarted_or_removed(engine: EngineProcess) -> None:
    engine.ok("run", "-d", "--name", "two", "busybox", "sh", "-c", "sleep 4; exit 7")
    path = run_file(engine, "two")
    path.write_text(json.dumps({**json.loads(path.read_text()), "v": 99}))
    as_of_a_newer_berth(engine)
    assert engine.ok("wait", "two") == "7"
    engine.ok("restart", "one")
    assert engine.ok("exec", "one", "echo", "hi") == "hi"
    as_of_a_newer_berth(engine)
    engine.ok("rm", "-f", "one")
    engine.ok("rm", "two")


@needs_root
def test_a_newer_shim_that_is_killed_takes_its_container_along(engine: EngineProcess) -> None:
    as_of_a_newer_berth(engine)
    os.kill(json.loads(run_file(engine, "one").read_text())["shim"], 9)
    wait_until(lambda: engine.ok("inspect", "-f", "{{.State.Status}}", "one") == "exited")
    assert engine.ok("inspect", "-f", "{{.State.ExitCode}}", "one") == "137"


# As the shims of the first berth had it in their run files and said it, on 25 November 2026.
GROUP = {"path": "/none", "roots": {}, "v2": None, "enabled": []}
EXIT = {"code": 5, "signal": 0, "oom_killed": False}


class OldShim:
    """A shim by what it says: it knows nothing of what has come since. `more` are members that nobody knows yet."""

    def __init__(self, place: Place, more: dict[str, Any]) -> None:
        self.id, self._more = secrets.token_hex(32), more
        self.init = subprocess.Popen(["sleep", "1000"])
        self._run = place.run
        self._directory = f"{place.root}/containers/{self.id}"
        os.makedirs(self._directory)
        self.started_at = time.time() - 100
        self._listener = record.listen(place.run, self.id)
        self._listener.setblocking(True)
        document = {
            "v": 1, "shim": os.getpid(), "shim_start": start_time(os.getpid()), "pid_start": start_time(self.init.pid),
            "id": self.id, "pid": self.init.pid, "started_at": self.started_at, "cgroup": GROUP, "state": {},
            "directory": self._directory, "resolver": None, **more,
        }  # fmt: skip
        record.write(record.state_path(place.run, self.id), document)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        sock = socket.socket(fileno=fd)
        self.asked = []
        with sock:
            while received := channel.receive(sock):
                message, fds = received
                channel.close_all(fds)
                self.asked.append(message["op"])
                if message["op"] == "state":
                    pidfd = os.pidfd_open(self.init.pid)
                    result = {
                        "pid": self.init.pid, "started_at": self.started_at, "cgroup": GROUP, "directory": self._directory,
                        "exit": None, "execs": {}, "log_bytes_lost": 0, **self._more,
                    }  # fmt: skip
                    channel.send(sock, {"id": message["id"], "result": result, **self._more}, [pidfd])
                    os.close(pidfd)
                elif message["op"] == "quit":
                    channel.send(sock, {"id": message["id"], "result": {}})
                else:
                    channel.send(sock, {"id": message["id"], "error": {"kind": "Unheard", "message": "not known here"}})
                    self.init.kill()
                    self.init.wait()
                    channel.send(sock, {"event": "weather", **self._more})
                    channel.send(sock, {"event": "exit", "exit": {**EXIT, "at": self.started_at + 7, **self._more}, **self._more})

    def close(self) -> None:
        """It has gone."""
        self._thread.join(10)
        self._listener.close()


@needs_root
@pytest.mark.parametrize("more", [{}, {"surprise": {"of": ["a", "later", "berth"]}}])
def test_a_shim_of_another_version_that_speaks_the_same_protocol(more: dict[str, Any]) -> None:
    async def test(place: Place, engine: NativeRuntime) -> None:
        shim = OldShim(place, more)
        task = await engine.load(shim.id)
        assert task is not None and (task.pid, task.exit) == (shim.init.pid, None)
        assert 99 < task.running_for() < 160, "it did not say since when by a clock that nobody sets"
        with pytest.raises(BerthError, match="not known here"):
            await task.resize(1, 1)
        ended = await asyncio.wait_for(task.wait(), 10)
        assert (ended.code, ended.ran_for) == (5, None)
        await task.delete()
        await asyncio.to_thread(shim.close)
        assert shim.asked == ["state", "resize", "quit"]

    with_place(test)


@needs_root
def test_a_request_of_a_newer_engine_is_answered_in_words() -> None:
    async def test(place: Place, engine: NativeRuntime) -> None:
        task = await engine.launch(place.request("sleep", "60"))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        record.at_socket(place.run, task.id, sock.connect)
        with sock:
            sock.settimeout(10)
            for request in {"v": 2, "id": 7, "op": "state"}, {"v": 1, "id": 8, "op": "dance"}, {"v": 1, "id": 9, "op": "state"}:
                await asyncio.to_thread(sock.sendall, json.dumps(request).encode())
                answer, fds = await asyncio.to_thread(lambda: channel.receive(sock)) or ({}, [])
                channel.close_all(fds)
                assert answer["id"] == request["id"]
                if request["v"] == 2:
                    assert "a message of version 2: this side speaks version 1" in answer["error"]["message"]
                elif request["op"] == "dance":
                    assert "does not know how to dance" in answer["error"]["message"]
                else:
                    assert answer["result"]["pid"] == task.pid

    with_place(test)
