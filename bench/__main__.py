"""`make bench`: berth against Debian's dockerd, interleaved in one run; medians and ratios.

Machines are shared and noisy: only the ratios of one run count. Calls are at least 0.1 s apart, since back-to-back calls hide
the wait for an RCU grace period that a join of a version 1 control group costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from bench.engine import Peer, berth, busybox, dockerd
from berth.client.containers import CreateBody
from berth.client.exec import ExecConfig
from berth.wire.container import HostConfig

SPACING = 0.1
IDLE_CONTAINERS = 100
Measure = Callable[[Peer], float]


def life_cycle(peer: Peer) -> float:
    """Raw API: create, start, wait, remove of `true` on the default bridge; seconds."""
    with peer.client() as client:
        client.system.ping()
        begun = time.perf_counter()
        name = client.containers.create(CreateBody(image="busybox", cmd=["true"])).id or ""
        waiting = client.containers.begin_wait(name, condition="next-exit")
        client.containers.start(name)
        client.containers.finish_wait(waiting)
        client.containers.remove(name)
        return time.perf_counter() - begun


def command_line(peer: Peer) -> float:
    """The docker CLI's `run --rm busybox true`; seconds."""
    begun = time.perf_counter()
    environment = os.environ | {"DOCKER_HOST": f"unix://{peer.socket}"}
    subprocess.run(["docker", "run", "--rm", "busybox", "true"], check=True, env=environment)
    return time.perf_counter() - begun


def execution(peer: Peer) -> float:
    """Raw API: exec of `true` in a running container; seconds."""
    with peer.client() as client:
        client.system.ping()
        begun = time.perf_counter()
        identifier = client.execs.create("bench-exec", ExecConfig(cmd=["true"], attach_stdout=True))
        with client.execs.start(identifier, tty=False) as stream:
            for _ in stream.frames():
                pass
        return time.perf_counter() - begun


def interleaved(peers: list[Peer], measure: Measure, count: int) -> dict[str, list[float]]:
    """`count` readings of each, taken in turns."""
    readings: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for peer in peers:
        measure(peer)  # The first of each pays for what is made once.
    for _ in range(count):
        for peer in peers:
            time.sleep(SPACING)
            readings[peer.name].append(measure(peer))
    return readings


def idle_memory(peer: Peer) -> tuple[int, int]:
    """(all engine processes without containers, with IDLE_CONTAINERS idle ones), in bytes."""
    before = peer.memory()
    names = []
    with peer.client() as client:
        for _ in range(IDLE_CONTAINERS):
            body = CreateBody(image="busybox", cmd=["sleep", "100000"], host_config=HostConfig())
            names.append(client.containers.create(body).id or "")
            client.containers.start(names[-1])
        time.sleep(2)
        after = peer.memory()
        for name in names:
            client.containers.remove(name, force=True)
    return before, after


def show(title: str, readings: dict[str, list[float]], results: dict[str, object]) -> None:
    """A line for each engine, and the ratio."""
    medians = {name: statistics.median(values) * 1000 for name, values in readings.items()}
    print(f"\n{title}")
    for name, values in readings.items():
        print(f"  {name:<10} median {medians[name]:8.1f} ms   worst {max(values) * 1000:8.1f} ms   n={len(values)}")
    if "dockerd" in medians:
        print(f"  berth is {medians['dockerd'] / medians['berth']:.1f} times as fast")
    results[title] = medians


def run(peers: list[Peer], count: int) -> dict[str, object]:
    """All measurements."""
    results: dict[str, object] = {}
    for peer in peers:
        with peer.client() as client:
            list(client.images.import_tar(busybox(), repo="busybox", tag="latest"))
    show("raw API: create, start, wait, remove, default bridge", interleaved(peers, life_cycle, count), results)
    show("docker CLI: run --rm busybox true", interleaved(peers, command_line, max(5, count // 2)), results)
    for peer in peers:
        with peer.client() as client:
            client.containers.create(CreateBody(image="busybox", cmd=["sleep", "100000"]), name="bench-exec")
            client.containers.start("bench-exec")
    show("raw API: exec of true", interleaved(peers, execution, count), results)
    for peer in peers:
        with peer.client() as client:
            client.containers.remove("bench-exec", force=True)
    print(f"\nmemory (PSS) of all engine processes, without and with {IDLE_CONTAINERS} idle containers")
    memory = {peer.name: idle_memory(peer) for peer in peers}
    for name, (before, after) in memory.items():
        each = (after - before) / IDLE_CONTAINERS
        print(
            f"  {name:<10} {before / 2**20:7.1f} MiB   {after / 2**20:7.1f} MiB   each further container {each / 2**20:.2f} MiB"
        )
    if "dockerd" in memory:
        print(f"  berth needs {memory['berth'][1] / memory['dockerd'][1] * 100:.0f} % of dockerd's")
    results["memory"] = memory
    return results


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="readings of each kind (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the medians to a file")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("make bench: needs root", file=sys.stderr)
        return 1
    ours = berth()
    peers = [ours]
    try:
        other = dockerd()
        if other is None:
            print("dockerd is not installed: berth alone is measured (apt-get install docker.io)")
        else:
            peers.append(other)
        results = run(peers, options.count)
    finally:
        with ours.client() as client:
            client.request("POST", "/berth/stop", query={"containers": True}, versioned=False).read()
        ours.process.wait(60)
        for peer in peers:
            peer.stop()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
