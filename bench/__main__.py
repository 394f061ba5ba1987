"""`make bench`: berth against Debian's dockerd, runc and crun, interleaved in one run; medians, ratios, and what is asked for.

Machines are shared and noisy: only the ratios of one run count. Calls are at least 0.1 s apart, since back-to-back calls hide
the wait for an RCU grace period that a join of a version 1 control group costs; the back-to-back figure stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from bench import life
from bench.bundle import Bundle, CrunView, remove_groups, runtimes
from bench.engine import Peer, berth, busybox, dockerd
from bench.launch import TracedEngine
from bench.result import FULL_COUNT, Bar, Line, Readings, Result
from bench.streams import GIB, measure_streams

SPACING = 0.1
SLOT, COLD, SLOTS = "berth-slot", "berth-cold", 2
CROWD, CROWD_ROUNDS = 200, 3
IDLE = 100
STREAM_ROUNDS = 3
SETTLE_SECONDS = 3.0
MIB = 1 << 20


def interleaved(measures: Mapping[str, Callable[[], float]], count: int, spacing: float = SPACING) -> Readings:
    """`count` readings of each, taken in turns, with a pause before each."""
    readings: Readings = {name: [] for name in measures}
    for measure in measures.values():
        measure()  # The first of each pays for what is made once.
    for _ in range(count):
        for name, measure in measures.items():
            time.sleep(spacing)
            readings[name].append(measure())
    return readings


def back_to_back(measures: Mapping[str, Callable[[], float]], count: int) -> Readings:
    """`count` readings of each without a pause, one subject after the other."""
    found: Readings = {}
    for name, measure in measures.items():
        measure()
        found[name] = [measure() for _ in range(count)]
    return found


def _of(peers: list[Peer], measure: Callable[[Peer], float]) -> dict[str, Callable[[], float]]:
    return {peer.name: partial(measure, peer) for peer in peers}


def measure_lives(result: Result, peers: list[Peer], count: int) -> None:
    """Rows 1 to 3."""
    say("rows 1 to 3: life cycle, docker run, exec")
    for peer in peers:
        life.start_exec_container(peer)
    for row, title, measure, limit in (
        ("1", "raw API create + start + wait + remove", life.life_cycle, 15),
        ("2", "docker run --rm busybox true", life.command_line, 8),
        ("3", "raw API exec of true", life.execution, 4),
    ):
        measures = _of(peers, measure)
        result.compare(row, title, interleaved(measures, count), "berth", "dockerd", Bar(limit))
        result.compare("", f"{title}, back to back", back_to_back(measures, count), "berth", "dockerd")
    for peer in peers:
        life.remove(peer, [life.EXEC_CONTAINER])


def measure_runtimes(result: Result, directory: str, count: int) -> None:
    """Row 4: launches in the engine, and the same bundle by berth-runtime, runc and crun from the shell."""
    say("row 4: launches in the engine, and a bundle by berth-runtime, runc and crun")
    bundle = Bundle(f"{directory}/bundle")
    commands = runtimes(directory)
    measures: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        view = stack.enter_context(CrunView())
        for name, command in commands.items():
            measures[name] = partial(bundle.run, command, view if name.startswith("crun") else None)
        for name, slots in ((SLOT, SLOTS), (COLD, 0)):
            engine = TracedEngine(name, slots)
            stack.callback(engine.close)
            give_busybox(engine.peer)
            measures[name] = engine.measure
        readings = interleaved(measures, count)
    remove_groups()
    result.compare("4", "launch in the engine, from a warm slot", readings, SLOT, "crun", Bar(1 / 6, times=False), "crun run")
    result.compare("4", "launch in the engine, cold", readings, COLD, "crun", Bar(2 / 3, times=False), "crun run")
    result.compare("4", "run of a bundle from the shell", readings, "berth-runtime", "runc", Bar(1))
    result.compare("", "run of a bundle from the shell", readings, "berth-runtime", "crun", note="crun without control groups")
    result.compare("", "run of a bundle from the shell", readings, "berth-runtime", "crun-cgroups", note="crun with them")


def measure_crowd(result: Result, peers: list[Peer], count: int) -> None:
    """Row 5."""
    size = max(life.CLIENTS, CROWD * min(count, FULL_COUNT) // FULL_COUNT)
    say(f"row 5: {size} containers by {life.CLIENTS} clients at once")
    readings: Readings = {peer.name: [] for peer in peers}
    for _ in range(CROWD_ROUNDS if count >= FULL_COUNT else 1):
        for peer in peers:
            readings[peer.name].append(size / life.crowd(peer, size))
            time.sleep(1)
    title = f"{size} containers by {life.CLIENTS} clients"
    result.readings[title] = readings
    rates = {name: statistics.median(values) for name, values in readings.items()}
    # A rate: more is better, so the sides change places.
    bar = Bar(8, more=True)
    result.lines.append(Line("5", title, "/s", rates["berth"], "dockerd", rates.get("dockerd"), bar, len(readings["berth"])))


def measure_memory(result: Result, peers: list[Peer], count: int) -> None:
    """Row 6: all processes of an engine but the containers' own, warm slots included."""
    idle = max(5, IDLE * min(count, FULL_COUNT) // FULL_COUNT)
    say(f"row 6: memory with {idle} idle containers")
    empty, full, more = {}, {}, {}
    for peer in peers:
        time.sleep(SETTLE_SECONDS)
        empty[peer.name] = peer.memory()
        names = life.start_idle(peer, idle)
        time.sleep(SETTLE_SECONDS)
        full[peer.name] = peer.memory()
        names += life.start_idle(peer, idle // 5)
        time.sleep(SETTLE_SECONDS)
        more[peer.name] = (peer.memory() - full[peer.name]) / (idle // 5)
        life.remove(peer, names)
    result.readings["memory, bytes"] = {name: [empty[name], full[name], more[name]] for name in empty}

    def line(row: str, title: str, values: Mapping[str, float], bar: Bar | None = None, note: str = "") -> None:
        theirs = values["dockerd"] / MIB if "dockerd" in values else None
        result.lines.append(Line(row, title, "MiB", values["berth"] / MIB, "dockerd", theirs, bar, note=note))

    line("6", f"memory (PSS) with {idle} idle containers", full, Bar(0.4, times=False), "a fifth is the goal")
    line("", "memory (PSS) without containers", empty)
    each = more["berth"] / MIB
    result.lines.append(Line("6", "memory (PSS) of each further container", "MiB", each, "the limit", 1.0, Bar(1, times=False)))


def give_busybox(peer: Peer) -> None:
    """The image that everything runs."""
    with peer.client() as client:
        list(client.images.import_tar(busybox(), repo="busybox", tag="latest"))


def say(text: str) -> None:
    """Progress, beside what is asked for on standard output."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run(peers: list[Peer], count: int) -> Result:
    """All measurements."""
    result = Result(count)
    for peer in peers:
        give_busybox(peer)
    measure_lives(result, peers, count)
    with tempfile.TemporaryDirectory(prefix="berth-bench-bundle-") as directory:
        os.chmod(directory, 0o711)  # The container's root is another user out here.
        measure_runtimes(result, directory, count)
    measure_memory(result, peers, count)
    measure_crowd(result, peers, count)
    result.lines.sort(key=lambda line: line.row or "~")
    return result


def run_streams(peers: list[Peer], count: int) -> Result:
    """What flows through; less of it in a short run."""
    result = Result(count)
    for peer in peers:
        give_busybox(peer)
    full = count >= FULL_COUNT
    say("streams: flows by the docker CLI")
    measure_streams(result, peers, STREAM_ROUNDS if full else 1, GIB if full else GIB // 8)
    return result


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    what = ("launches", "streams")
    parser.add_argument("what", nargs="?", choices=what, default=what[0], help="what to measure (%(default)s)")
    parser.add_argument("--count", type=int, default=FULL_COUNT, help="readings of each kind; fewer for a try (%(default)s)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="what to print (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the JSON document to a file")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("make bench: needs root", file=sys.stderr)
        return 1
    ours = berth()
    peers = [ours]
    try:
        other = dockerd()
        if other is None:
            say("dockerd is not installed: berth alone is measured (apt-get install docker.io)")
        else:
            peers.append(other)
        result = (run_streams if options.what == "streams" else run)(peers, options.count)
    finally:
        for peer in peers:
            peer.stop()
    document = json.dumps(result.document(), indent=2)
    print(document if options.format == "json" else result.table())
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(document + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
