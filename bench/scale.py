"""`make scale`: how an engine's answers grow with what it has.

Full size is 1,000 created and 300 running containers, 500 images and 100 networks; everything is measured at 10 %, 50 % and 100 %
of that. Two times of each: what the engine computes (CPU time of its process, which other work on the machine hardly changes;
median), and what a client waits (from the sending of the request to the answer's last byte, on a connection that is there
already; the least of the readings). The first may grow as fast as the things do, not faster: from half of them to all of them at
most `GROWTH` times, or by less than `SLIGHT_MS`. Needs root, and about 2 GB of memory.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.engine import BIN, Peer, berth, busybox
from berth.client.containers import CreateBody
from berth.client.engine import Engine
from berth.client.events import EventStream
from berth.client.exec import ExecConfig
from berth.client.networks import NetworkCreate
from berth.errors import BerthError
from berth.wire.container import HostConfig
from berth.wire.network import PortBinding

CREATED, RUNNING, IMAGES, NETWORKS = 1000, 300, 500, 100
SHARES = (0.1, 0.5, 1.0)
COUNT = 15
LIST_MS = 150.0
GROWTH = 2.6
SLIGHT_MS = 5.0
_IDLE = ["sleep", "100000"]


@dataclass(frozen=True)
class Reading:
    """Milliseconds: CPU time of the engine, and how long the client waited."""

    used: float
    waited: float

    def __str__(self) -> str:
        return f"{self.used:.1f} / {self.waited:.1f}"


@dataclass
class Crowd:
    """What the engine has been given."""

    peer: Peer
    created: int = 0
    running: int = 0
    images: int = 0
    networks: int = 0

    def grow(self, share: float) -> None:
        """To that share of everything."""
        with self.peer.client() as client:
            while self.networks < NETWORKS * share:
                client.networks.create(NetworkCreate(name=f"net{self.networks}"))
                self.networks += 1
            while self.images < IMAGES * share:
                for _ in client.images.import_tar(_layer(self.images), repo=f"many/image{self.images}", tag="v1"):
                    pass
                self.images += 1
            while self.created < CREATED * share:
                client.containers.create(self._body(self.created), name=f"created{self.created}")
                self.created += 1
            while self.running < RUNNING * share:
                name = f"running{self.running}"
                client.containers.create(self._body(self.running), name=name)
                client.containers.start(name)
                self.running += 1

    def _body(self, number: int) -> CreateBody:
        """Every third is in a network of a user's own, every tenth publishes a port."""
        host = HostConfig(network_mode=f"net{number % self.networks}" if number % 3 == 0 else "bridge")
        if number % 10 == 0:
            host.port_bindings = {"80/tcp": [PortBinding(host_ip="127.0.0.1", host_port="")]}
        return CreateBody(image="busybox", cmd=_IDLE, labels={"number": str(number)}, host_config=host)


def _layer(number: int) -> bytes:
    """A root filesystem that no other image has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        data = str(number).encode()
        info = tarfile.TarInfo("number")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Probes:
    """What is measured, by its name in the table: each gives seconds."""

    crowd: Crowd
    client: Engine

    def all(self) -> Mapping[str, Callable[[], float]]:
        """In the table's order."""
        now = str(time.time())
        return {
            "containers, all (`docker ps -a`)": lambda: self._ask("/containers/json?all=1"),
            "containers that run (`docker ps`)": lambda: self._ask("/containers/json"),
            "containers, filtered by label": lambda: self._ask('/containers/json?all=1&filters={"label":["number=7"]}'),
            "inspect of a container": lambda: self._ask("/containers/running0/json"),
            "images": lambda: self._ask("/images/json"),
            "images, with what they share": lambda: self._ask("/images/json?shared-size=1"),
            "inspect of an image": lambda: self._ask("/images/many/image0:v1/json"),
            "networks": lambda: self._ask("/networks"),
            "inspect of a network": lambda: self._ask("/networks/bridge"),
            "volumes": lambda: self._ask("/volumes"),
            "events of the past": lambda: self._ask(f"/events?since=0&until={now}"),
            "system info": lambda: self._ask("/info"),
            "system df": lambda: self._ask("/system/df"),
            "create": self._create,
            "start, default bridge": lambda: self._start("bridge"),
            "start, another network": lambda: self._start("net0"),
            "start to its event": self._event,
            "exec of true": self._exec,
            "stop": self._stop,
            "remove": self._remove,
            "network create": self._network,
        }

    def _ask(self, path: str) -> float:
        begun = time.perf_counter()
        path, _, query = path.partition("?")
        self.client.raw("GET", path, query=dict(pair.split("=", 1) for pair in query.split("&") if pair))
        return time.perf_counter() - begun

    def _new(self, network: str = "bridge") -> str:
        body = CreateBody(image="busybox", cmd=_IDLE, host_config=HostConfig(network_mode=network))
        return self.client.containers.create(body).id or ""

    def _timed(self, work: Callable[[], object], name: str) -> float:
        """And take the container away."""
        begun = time.perf_counter()
        work()
        spent = time.perf_counter() - begun
        self.client.containers.remove(name, force=True)
        return spent

    def _create(self) -> float:
        begun = time.perf_counter()
        name = self._new()
        spent = time.perf_counter() - begun
        self.client.containers.remove(name)
        return spent

    def _start(self, network: str) -> float:
        name = self._new(network)
        return self._timed(lambda: self.client.containers.start(name), name)

    def _event(self) -> float:
        """Until who listens has heard of it."""
        name = self._new()
        with self.crowd.peer.client() as listener:
            stream = EventStream(listener).open(filters={"event": ["start"], "container": [name]})

            def heard() -> None:
                self.client.containers.start(name)
                next(iter(stream))

            spent = self._timed(heard, name)
            stream.close()
        return spent

    def _exec(self) -> float:
        begun = time.perf_counter()
        identifier = self.client.execs.create("running0", ExecConfig(cmd=["true"], attach_stdout=True))
        with self.client.execs.start(identifier, tty=False) as stream:
            for _ in stream.frames():
                pass
        return time.perf_counter() - begun

    def _stop(self) -> float:
        name = self._new()
        self.client.containers.start(name)
        return self._timed(lambda: self.client.containers.stop(name, timeout=0), name)

    def _remove(self) -> float:
        name = self._new()
        begun = time.perf_counter()
        self.client.containers.remove(name)
        return time.perf_counter() - begun

    def _network(self) -> float:
        begun = time.perf_counter()
        self.client.networks.create(NetworkCreate(name="one-more"))
        spent = time.perf_counter() - begun
        self.client.networks.remove("one-more")
        return spent


def restart(peer: Peer) -> float:
    """Seconds from the start of a new engine, after a kill, until it answers."""
    peer.process.send_signal(signal.SIGKILL)
    peer.process.wait()
    begun = time.perf_counter()
    with open(f"{peer.directory}/log", "ab") as log:
        peer.process = subprocess.Popen(
            [str(BIN / "berthd"), "--root", f"{peer.directory}/root", "--socket", peer.socket],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    while True:
        try:
            with peer.client() as client:
                client.system.ping()
            return time.perf_counter() - begun
        except BerthError:
            if peer.process.poll() is not None:
                raise SystemExit(f"bench: the engine has ended: {Path(peer.directory, 'log').read_text()[-2000:]}") from None
            time.sleep(0.005)


def own_memory(pid: int) -> float:
    """The proportional set size of one process, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def computed(pid: int) -> float:
    """Seconds of CPU time that a process has used. The clock's number is that of clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def measured(crowd: Crowd, count: int) -> dict[str, Reading]:
    """By name, in the table's order."""
    found: dict[str, Reading] = {}
    with crowd.peer.client() as client:
        for name, probe in Probes(crowd, client).all().items():
            probe()
            used, waited = [], []
            for _ in range(count):
                before = computed(crowd.peer.process.pid)
                waited.append(probe())
                used.append(computed(crowd.peer.process.pid) - before)
            found[name] = Reading(statistics.median(used) * 1000, min(waited) * 1000)
    waited_for = restart(crowd.peer)
    found["engine restart after a kill"] = Reading(computed(crowd.peer.process.pid) * 1000, waited_for * 1000)
    found["memory: engine / all its processes (MiB)"] = Reading(
        own_memory(crowd.peer.process.pid), crowd.peer.memory() / (1 << 20)
    )
    return found


def faults(table: list[dict[str, Reading]]) -> list[str]:
    """What grows faster than it may, or takes too long."""
    wrong = []
    half, whole = table[-2], table[-1]
    for name, value in whole.items():
        if value.used > half[name].used * GROWTH and value.used - half[name].used > SLIGHT_MS:
            wrong.append(f"{name}: {half[name].used:.1f} with half of everything, {value.used:.1f} with all of it")
    listing = whole["containers, all (`docker ps -a`)"].used
    return [*wrong, *([f"the list of containers takes {listing:.0f} ms, more than {LIST_MS:.0f}"] if listing > LIST_MS else [])]


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT, help="readings of each")
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the full size")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root")
    crowd = Crowd(berth("scale"))
    table: list[dict[str, Reading]] = []
    try:
        with crowd.peer.client() as client:
            for _ in client.images.import_tar(busybox(), repo="busybox", tag="latest"):
                pass
        for share in SHARES:
            begun = time.perf_counter()
            crowd.grow(share * options.scale)
            print(f"{share * 100:.0f} % made in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
            table.append(measured(crowd, options.count))
    finally:
        begun = time.perf_counter()
        crowd.peer.stop()
        print(f"stopped with its containers in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    print("| ms computed / ms waited | " + " | ".join(f"{share * 100:.0f} %" for share in SHARES) + " |")
    print("|---|" + "---|" * len(SHARES))
    for name in table[0]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in table) + " |")
    wrong = faults(table)
    print("\n".join([*wrong, f"{len(wrong)} faults"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
