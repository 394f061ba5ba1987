"""Many clients at once while the engine is killed. `make chaos` is the same for three minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.engine import SLOW
from support.event_order import disorder

_PROGRAM = Path(__file__).parent.parent.parent / "scripts/chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: an engine with containers")
def test_24_clients_and_two_kills() -> None:
    command = [sys.executable, str(_PROGRAM), "--seconds", "21", "--every", "7", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200 * SLOW, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "24 clients, 2 kills" in done.stdout and "\n0 faults" in done.stdout


@pytest.mark.parametrize(
    ("actions", "fault"),
    [
        ("create start kill die destroy", ""),
        ("create start pause unpause die start die destroy", ""),
        ("create attach start exec_create exec_start die exec_die stop rename destroy", ""),
        ("start die", "start of a container that is unknown"),
        ("create die", "die of a container that is down"),
        ("create start start", "start of a container that is up"),
        ("create start pause pause", "pause of a container that is paused"),
        ("create start destroy", "destroy of a container that is up"),
        ("create destroy rename", "rename after destroy"),
        ("create start exec_die", "exec_die without exec_start"),
        ("create exec_start", "exec_start of a container that is down"),
    ],
)
def test_what_cannot_have_happened_is_noticed(actions: str, fault: str) -> None:
    events = [
        {"Type": "container", "Action": action, "Actor": {"ID": "1" * 64, "Attributes": {"execID": "e"}}, "timeNano": number}
        for number, action in enumerate(actions.split())
    ]
    found = disorder(events)
    assert (not found) if not fault else fault in "\n".join(found)
