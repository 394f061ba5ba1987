"""An engine that starts waits for launches of the one before, and for nothing else."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator

import pytest

from berth.errors import BerthError
from support import leak
from support.engine import SLOW, EngineProcess

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers are started")


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    engine = EngineProcess()
    with leak.nothing_left(engine.snapshot):
        engine.start()
        engine.add_busybox()
        yield engine
        engine.shut_down()


def answers(engine: EngineProcess) -> bool:
    try:
        with engine.client as client:
            client.system.ping()
        return True
    except BerthError:
        return False


def test_a_launch_under_way_is_waited_for(engine: EngineProcess) -> None:
    engine.kill()
    with open(f"{engine.config.run}/launches", "rb") as launches:
        fcntl.flock(launches, fcntl.LOCK_SH)
        engine.spawn()
        time.sleep(2 * SLOW)
        assert not answers(engine)
    deadline = time.monotonic() + 10 * SLOW
    while not answers(engine):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_containers_their_execs_slots_and_workers_are_not(engine: EngineProcess) -> None:
    engine.ok("network", "create", "net")
    engine.ok("run", "-d", "--name", "one", "--init", "--network", "net", "busybox", "sleep", "1000")
    engine.ok("run", "-d", "--name", "two", "busybox", "sleep", "1000")
    engine.ok("exec", "-d", "two", "sleep", "1000")
    engine.await_slots()
    engine.kill()
    deadline = time.monotonic() + 5 * SLOW
    with open(f"{engine.config.run}/launches", "rb") as launches:
        while True:
            try:
                fcntl.flock(launches, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    engine.start()
    engine.ok("rm", "-f", "one", "two")
    engine.ok("network", "rm", "net")
    engine.await_slots()
