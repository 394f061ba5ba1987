"""Starting berthd from a client."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from berth.client.address import Address, listens
from berth.client.autostart import start_engine
from berth.client.engine import Engine
from berth.errors import Unavailable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine")


def test_the_engine_answers_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    socket, root = str(tmp_path / "s"), str(tmp_path / "root")
    start_engine(socket=socket, root=root)
    try:
        with Engine(Address(path=socket)) as engine:
            assert engine.system.version().components
        assert (tmp_path / "root/berthd.log").stat().st_size > 0
        ours = [
            pid
            for pid in os.listdir("/proc")
            if pid.isdigit() and root.encode() in _command(pid) and b"--socket" in _command(pid)
        ]
        assert [os.getsid(int(pid)) for pid in ours] == [int(ours[0])]
    finally:
        with Engine(Address(path=socket)) as engine:
            engine.request("POST", "/berth/stop", query={"containers": True}, versioned=False).read()
    deadline = time.monotonic() + 20
    while listens(socket) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listens(socket)


def test_an_engine_that_does_not_come_up_is_told_with_its_log(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "berth.db").mkdir(parents=True)
    with pytest.raises(Unavailable, match="its log is") as caught:
        start_engine(socket=str(tmp_path / "s"), root=str(root), wait=15)
    assert "berthd" in str(caught.value)


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot start berthd"):
        start_engine(socket=str(tmp_path / "s"), root=str(tmp_path / "file"))


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
