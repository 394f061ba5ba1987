"""Requests that nobody would send: each is answered, none with a status that is a defect's, and the engine goes on with nothing
left behind. `make fuzz` is the same with 20,000 requests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.engine import SLOW

_PROGRAM = Path(__file__).parent.parent.parent / "scripts/fuzz_api.py"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the engine gets namespaces of its own")
def test_requests_that_nobody_would_send(tmp_path_factory: pytest.TempPathFactory) -> None:
    # The time is what is given, the number what a quiet machine can do in it.
    command = [sys.executable, str(_PROGRAM), "--requests", "1000", "--seconds", "30", "--seed", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100 * SLOW, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "\n0 faults" in done.stdout
