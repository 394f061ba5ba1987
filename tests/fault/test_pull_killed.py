"""kill -9 of the engine in the middle of a pull: nothing half is shown afterwards, and the next pull goes on."""

from __future__ import annotations

import asyncio
import glob
import os
import threading
import time
from collections.abc import Iterator

import pytest

from support.engine import EngineProcess
from unit.images.twins import tar_of
from unit.registry.fake import FakeRegistry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CUT = 3_000_000


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """The fake registry in a thread; its first blob download stops after CUT bytes and hangs."""
    registry = FakeRegistry(cut_after=CUT, cuts=1, hang=True)
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with registry.serve():
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield registry
    done.set()
    thread.join(10)


@pytest.fixture
def own_engine() -> Iterator[EngineProcess]:
    """An engine that may be killed."""
    engine = EngineProcess()
    engine.start()
    yield engine
    engine.shut_down()


def test_a_pull_goes_on_where_the_engine_was_killed(fake: FakeRegistry, own_engine: EngineProcess) -> None:
    big = tar_of(big=os.urandom(3_000_000).hex())
    fake.put_image("app", "1", [tar_of(small="x"), big])
    name = f"{fake.host}/app:1"
    client = threading.Thread(target=own_engine.docker, args=("pull", name))
    client.start()
    deadline = time.monotonic() + 20
    while not any(os.stat(part).st_size >= CUT // 2 for part in glob.glob(f"{own_engine.root}/ingest/*.part")):
        assert time.monotonic() < deadline, own_engine.log_text()
        time.sleep(0.02)
    own_engine.kill()
    client.join(10)
    own_engine.start()
    assert own_engine.ok("images", "-q") == ""
    assert "Downloaded newer image" in own_engine.ok("pull", name)
    assert len(fake.ranges) == 1 and CUT // 2 <= fake.ranges[0] <= CUT
    assert own_engine.ok("images", "--format", "{{.Repository}}:{{.Tag}}") == name
    assert os.listdir(f"{own_engine.root}/ingest") == []
    own_engine.ok("rmi", name)
    assert os.listdir(f"{own_engine.root}/blobs/sha256") == []
