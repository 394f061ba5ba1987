"""Send an engine requests that nobody would send: fuzz_api.py [--requests N] [--seconds S] [--seed N].

The engine runs in namespaces of its own with the machine's files read-only (tests/support/sandbox.py). The outcome is
printed, and the exit status is 1 when a request was answered with a status of 500 and above other than 501 and 503, or not
at all, when the engine has ended or logged an error, or when something is left behind. Needs root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.api_fuzz import Fuzzer, Outcome
from support.engine import EngineProcess
from support.engine_check import changed, ready
from support.sandbox import enter


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return in_place(lambda: _fuzz(options.requests, options.seconds, options.seed))


def in_place(work: Callable[[], list[str]]) -> int:
    """Work in a throwaway place; 1 when it finds something wrong."""
    place = tempfile.mkdtemp(prefix="berth-fuzz-")
    child = os.fork()
    if child == 0:
        enter(place)
        os.environ["TMPDIR"] = tempfile.tempdir = place
        sys.exit(1 if work() else 0)
    _, status = os.waitpid(child, 0)
    shutil.rmtree(place, ignore_errors=True)
    return os.waitstatus_to_exitcode(status)


def _fuzz(requests: int, seconds: float, seed: int) -> list[str]:
    """What is wrong, printed."""
    engine = EngineProcess()
    before, descriptors = ready(engine)
    started = time.monotonic()
    outcome = Fuzzer(engine, seed).run(requests, seconds)
    wrong = [f"request {fault.number}: {fault.what}\n    {fault.request}" for fault in outcome.faults]
    wrong += changed(engine, before, descriptors)
    _report(outcome, time.monotonic() - started, wrong)
    if engine.process is not None and engine.process.poll() is None:
        engine.shut_down()
    return wrong


def _report(outcome: Outcome, seconds: float, wrong: list[str]) -> None:
    statuses = ", ".join(f"{status or 'left'}: {count}" for status, count in sorted(outcome.statuses.items()))
    print("\n".join(wrong))
    print(f"{outcome.requests} requests in {seconds:.0f} s, slowest answer {outcome.slowest:.1f} s; {statuses}")
    print(f"{len(wrong)} faults")


if __name__ == "__main__":
    sys.exit(main())
