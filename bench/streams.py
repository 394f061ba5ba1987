"""`python -m bench streams`: what goes through an engine from a container to the docker CLI and back, against Debian's dockerd.

The engines take turns, flow by flow. What arrives is counted, and the memory of every process of the engine is looked at while
it flows: how much the one that grew most did since it was first seen.
"""

from __future__ import annotations

import fcntl
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.engine import Peer
from bench.result import Bar, Line, Result

MIB = 1 << 20
GIB = 1 << 30
LINE = "0123456789" * 7 + "012345678"
_SAMPLE_SECONDS = 0.1
_RUN = ("run", "--rm", "--network", "none")
# Rotated, since six bytes are logged for a zero, and Docker's log has no limit of its own.
_LOGGED = ("--log-opt", "max-size=32m")
_UNLOGGED = ("--log-driver", "none")
_TALKER, _LOGS = "bench-talker", "bench-logs"


@dataclass(frozen=True)
class Flow:
    """Arguments of the docker CLI, and how many bytes come out of it; with `sends` how many go in, which `dd` tells in MiB."""

    title: str
    arguments: tuple[str, ...]
    size: int
    sends: bool = False


def flows(size: int) -> list[Flow]:
    """All of them, the greatest with `size` bytes."""
    few = max(MIB, size // 16)

    def shell(command: str) -> tuple[str, ...]:
        return ("busybox", "sh", "-c", command)

    def zeros(amount: int) -> tuple[str, ...]:
        return shell(f"dd if=/dev/zero bs=65536 count={amount // 65536} 2>/dev/null")

    def lines(amount: int) -> tuple[str, ...]:
        # By large writes: what the container's own programs do to make small ones is not the engine's.
        loop = f"i=0; while [ $i -lt {amount // MIB} ]; do cat /lines; i=$((i+1)); done"
        return shell(f"yes {LINE} | head -c {MIB} >/lines; {loop}")

    def yes(amount: int) -> tuple[str, ...]:
        return shell(f"yes | head -c {amount}")

    return [
        Flow("zeros in 64 KiB writes", (*_RUN, *_LOGGED, *zeros(size)), size),
        Flow("zeros in 64 KiB writes, no log", (*_RUN, *_UNLOGGED, *zeros(size)), size),
        Flow("80-byte lines", (*_RUN, *_LOGGED, *lines(size)), size),
        Flow("80-byte lines, no log", (*_RUN, *_UNLOGGED, *lines(size)), size),
        Flow("yes", (*_RUN, *_LOGGED, *yes(few)), few),
        Flow("yes, no log", (*_RUN, *_UNLOGGED, *yes(few)), few),
        Flow("machine code", (*_RUN, *_LOGGED, *shell(f"while cat /bin/busybox; do :; done | head -c {few}")), few),
        # Counted by the MiB: a program that looks at every byte, as `wc`, would be what is measured.
        Flow("standard input from a pipe", (*_RUN, "-i", *shell("dd of=/dev/null bs=1M iflag=fullblock 2>&1")), size, sends=True),
        Flow("exec, zeros", ("exec", _TALKER, *zeros(size)[1:]), size),
        Flow("logs of 80-byte lines", ("logs", _LOGS), few),
    ]


def prepare(peer: Peer, size: int) -> None:
    """The containers that some of the flows need."""
    _docker(peer, "run", "-d", "--name", _TALKER, "--network", "none", "busybox", "sleep", "100000")
    written = next(flow for flow in flows(size) if flow.arguments == ("logs", _LOGS)).size
    command = f"yes {LINE} | head -c {written}"
    # A log that is kept whole: berth's are bounded if nobody says otherwise.
    kept = ("--log-opt", "max-size=1g")
    _docker(peer, "run", "--name", _LOGS, "--network", "none", *kept, "busybox", "sh", "-c", command)


def clean(peer: Peer) -> None:
    """Remove them."""
    _docker(peer, "rm", "-f", _TALKER, _LOGS)


def _environment(peer: Peer) -> dict[str, str]:
    return os.environ | {"DOCKER_HOST": f"unix://{peer.socket}"}


def _docker(peer: Peer, *arguments: str) -> None:
    command, nothing = ["docker", *arguments], subprocess.DEVNULL
    subprocess.run(command, check=True, env=_environment(peer), stdin=nothing, stdout=nothing)


def flow_through(peer: Peer, flow: Flow) -> float:
    """Bytes a second, from the start of the CLI to its end."""
    begun = time.perf_counter()
    source = subprocess.Popen(["head", "-c", str(flow.size), "/dev/zero"], stdout=subprocess.PIPE) if flow.sends else None
    client = subprocess.Popen(
        ["docker", *flow.arguments], env=_environment(peer), stdout=subprocess.PIPE,
        stdin=source.stdout if source else subprocess.DEVNULL,
    )  # fmt: skip
    assert client.stdout is not None
    fcntl.fcntl(client.stdout, fcntl.F_SETPIPE_SZ, MIB)
    received, first = 0, b""
    while piece := os.read(client.stdout.fileno(), MIB):
        received, first = received + len(piece), first or piece[:32]
    status = client.wait()
    client.stdout.close()
    if source is not None:
        assert source.stdout is not None
        source.stdout.close()
        source.wait()
        received = int(first.split(b"+")[0]) * MIB
    spent = time.perf_counter() - begun
    if status or received != flow.size:
        raise SystemExit(f"bench: {flow.title} on {peer.name}: {received} of {flow.size} bytes arrived, exit status {status}")
    return flow.size / spent


@contextmanager
def growth(peer: Peer, found: list[int]) -> Iterator[None]:
    """Append by how many bytes that process of the engine grew which grew most; the containers' own are not among them."""
    first: dict[int, int] = {}
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(_SAMPLE_SECONDS):
            for pid in peer.processes():
                size = _anonymous(pid)
                if size:
                    most = max(most, size - first.setdefault(pid, size))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found.append(most)


def _anonymous(pid: int) -> int:
    """Resident bytes that are the process's own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def measure_streams(result: Result, peers: list[Peer], rounds: int, size: int) -> None:
    """Every flow, `rounds` times on each engine."""
    for peer in peers:
        prepare(peer, size)
    for flow in flows(size):
        rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
        grown: dict[str, list[int]] = {peer.name: [] for peer in peers}
        for _ in range(rounds):
            for peer in peers:
                with growth(peer, grown[peer.name]):
                    rates[peer.name].append(flow_through(peer, flow))
        result.readings[flow.title] = rates
        result.lines.append(_line(flow, rates, grown))
    for peer in peers:
        clean(peer)


def _line(flow: Flow, rates: dict[str, list[float]], grown: dict[str, list[int]]) -> Line:
    middle = {name: statistics.median(values) / MIB for name, values in rates.items()}
    memory = " and ".join(f"{max(values) / MIB:.0f}" for values in grown.values())
    note = f"{flow.size // MIB} MiB; memory grew by {memory} MiB"
    ours, theirs, bar = rates["berth"], middle.get("dockerd"), Bar(1, more=True)
    return Line("", flow.title, "MiB/s", middle["berth"], "dockerd", theirs, bar, len(ours), min(ours) / MIB, note)
