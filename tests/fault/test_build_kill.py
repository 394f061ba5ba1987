"""kill -9 of the engine in the middle of a build: nothing is left, and the cache is whole."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import EngineProcess


@pytest.fixture
def own_engine() -> Iterator[EngineProcess]:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts and network devices are made")
    own = EngineProcess()
    own.start()
    own.add_busybox()
    yield own
    own.shut_down()


def test_a_step_ends_with_the_engine_that_ran_it(own_engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo kept > /kept\nRUN echo begun; sleep 7531\n")
    client = subprocess.Popen(
        ["docker", "build", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=own_engine.environment()
    )
    assert client.stdout is not None
    while b"begun" not in client.stdout.readline():
        pass
    own_engine.kill()
    client.wait()
    client.stdout.close()
    assert _left(own_engine)
    own_engine.start()
    deadline = time.monotonic() + 10
    while (_running() or _left(own_engine)) and time.monotonic() < deadline:
        time.sleep(0.1)
    # Also without a further build.
    assert not _running() and not _left(own_engine)
    done = own_engine.docker("build", "-", input="FROM busybox\nRUN echo kept > /kept\n")
    assert done.returncode == 0 and "Using cache" in done.stdout
    assert not _left(own_engine)


def _left(engine: EngineProcess) -> list[str]:
    builds = [name for name in os.listdir(f"{engine.root}/build") if name.startswith(("context-", "step-"))]
    return builds + os.listdir(f"{engine.root}/containers")


def _running() -> bool:
    found = subprocess.run(["pgrep", "-fx", "sleep 7531"], capture_output=True, check=False)
    return found.returncode == 0
