"""Many clients do everything at once while the engine is killed: chaos.py [--seconds S] [--clients N] [--every S] [--seed N].

The exit status is 1 when anything is wrong: a status of 500 and above other than 501 and 503, a request without an answer, a name
or an id that two containers have, events that cannot have happened in their order, an exit code that was lost, an error in the
engine's log, or something that is left behind. Needs root.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from berth.kernel.mount import make_private
from berth.kernel.namespace import CLONE_NEWNS, unshare
from support.chaos import Chaos
from support.engine import EngineProcess
from support.engine_check import changed, ready


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--every", type=float, default=20.0, help="seconds from one kill of the engine to the next")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # What others mount meanwhile is not ours.
    unshare(CLONE_NEWNS)
    make_private()
    engine = EngineProcess()
    before, _ = ready(engine)
    started = time.monotonic()
    chaos = Chaos(engine, options.seed, options.clients)
    wrong = chaos.run(options.seconds, options.every)
    wrong += changed(engine, before)
    print("\n".join(wrong))
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(chaos.statuses.items()))
    print(f"{options.clients} clients, {chaos.kills} kills, {time.monotonic() - started:.0f} s; {counts}")
    slowest = max(chaos.restart_seconds, default=0.0)
    print(f"{chaos.lives} containers watched from create to removal, {chaos.events} events, slowest engine start {slowest:.1f} s")
    print(f"{len(wrong)} faults")
    if engine.process is not None and engine.process.poll() is None:
        engine.shut_down()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
