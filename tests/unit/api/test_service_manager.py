"""sd_notify(3): what systemd is told, and that nothing goes wrong without it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from berth.api.main import tell_service_manager


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{path}" if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
        tell_service_manager("READY=1")
        assert manager.recv(100, socket.MSG_DONTWAIT) == b"READY=1"


def test_one_that_is_gone_or_was_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell_service_manager("READY=1")
    assert not caplog.records
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/nobody")
    tell_service_manager("READY=1")
    assert "systemd was not told READY=1" in caplog.text
