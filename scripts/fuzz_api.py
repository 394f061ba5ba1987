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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import leak
from support.api_fuzz import Fuzzer, Outcome
from support.engine import EngineProcess
from support.sandbox import enter

_DESCRIPTORS_MORE = 20


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    place = tempfile.mkdtemp(prefix="berth-fuzz-")
    child = os.fork()
    if child == 0:
        enter(place)
        os.environ["TMPDIR"] = tempfile.tempdir = place
        sys.exit(1 if _fuzz(options.requests, options.seconds, options.seed) else 0)
    _, status = os.waitpid(child, 0)
    shutil.rmtree(place, ignore_errors=True)
    return os.waitstatus_to_exitcode(status)


def _fuzz(requests: int, seconds: float, seed: int) -> list[str]:
    """What is wrong, printed."""
    engine = EngineProcess()
    engine.start()
    engine.add_busybox()
    engine.ok("run", "--rm", "-p", "80", "busybox", "true")
    assert engine.process is not None
    before, descriptors = engine.snapshot(), len(os.listdir(f"/proc/{engine.process.pid}/fd"))
    started = time.monotonic()
    outcome = Fuzzer(engine, seed).run(requests, seconds)
    wrong = [f"request {fault.number}: {fault.what}\n    {fault.request}" for fault in outcome.faults]
    wrong += _state(engine, before, descriptors)
    _report(outcome, time.monotonic() - started, wrong)
    if engine.process.poll() is None:
        engine.shut_down()
    return wrong


def _state(engine: EngineProcess, before: set[str], descriptors: int) -> list[str]:
    """What is wrong with the engine when everything has been taken away again."""
    assert engine.process is not None
    if engine.process.poll() is not None:
        return [f"the engine has ended with {engine.process.returncode}:\n{engine.log_text()}"]
    log = Path(engine.log).read_text(errors="replace")
    bad = ("internal error", "Traceback", " ERROR ")
    wrong = [f"the engine's log: {line}" for line in log.splitlines() if any(word in line for word in bad)]
    if wrong:
        wrong.append(log[-8000:])
    if left := engine.ok("ps", "-aq").split():
        engine.ok("rm", "-fv", *left)
    engine.ok("network", "prune", "-f")
    deadline = time.monotonic() + 15
    while (more := engine.snapshot() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    # Mounts of other tests on the machine are seen here under new names when their directories are renamed.
    wrong += [f"left behind: {item}" for item in sorted(more) if not item.startswith("mount /tmp/pytest-of-")]
    now = len(os.listdir(f"/proc/{engine.process.pid}/fd"))
    if now > descriptors + _DESCRIPTORS_MORE:
        wrong.append(f"{now} descriptors are open in the engine, {descriptors} before: {leak.descriptors(engine.process.pid)}")
    return wrong


def _report(outcome: Outcome, seconds: float, wrong: list[str]) -> None:
    statuses = ", ".join(f"{status or 'left'}: {count}" for status, count in sorted(outcome.statuses.items()))
    print("\n".join(wrong))
    print(f"{outcome.requests} requests in {seconds:.0f} s, slowest answer {outcome.slowest:.1f} s; {statuses}")
    print(f"{len(wrong)} faults")


if __name__ == "__main__":
    sys.exit(main())
