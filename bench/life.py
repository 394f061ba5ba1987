"""What clients do with an engine, timed from the client's side. Every measure gives seconds."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from bench.engine import Peer
from berth.client.containers import CreateBody
from berth.client.exec import ExecConfig

T = TypeVar("T")
CLIENTS = 8
EXEC_CONTAINER = "bench-exec"
_IDLE = ["sleep", "100000"]


def life_cycle(peer: Peer) -> float:
    """Raw API: create, start, wait, remove of `true` on the default bridge, on one kept connection (a second one waits)."""
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
    """The docker CLI's `run --rm busybox true`, from its start to its end."""
    environment = os.environ | {"DOCKER_HOST": f"unix://{peer.socket}"}
    begun = time.perf_counter()
    subprocess.run(["docker", "run", "--rm", "busybox", "true"], check=True, env=environment, stdin=subprocess.DEVNULL)
    return time.perf_counter() - begun


def execution(peer: Peer) -> float:
    """Raw API: exec of `true` in the running container, until its output has ended."""
    with peer.client() as client:
        client.system.ping()
        begun = time.perf_counter()
        identifier = client.execs.create(EXEC_CONTAINER, ExecConfig(cmd=["true"], attach_stdout=True))
        with client.execs.start(identifier, tty=False) as stream:
            for _ in stream.frames():
                pass
        return time.perf_counter() - begun


def start_exec_container(peer: Peer) -> None:
    """What `execution` needs."""
    with peer.client() as client:
        client.containers.create(CreateBody(image="busybox", cmd=_IDLE), name=EXEC_CONTAINER)
        client.containers.start(EXEC_CONTAINER)


def remove(peer: Peer, names: list[str]) -> None:
    """Force their removal, by several clients at once."""

    def some(share: list[str]) -> None:
        with peer.client() as client:
            for name in share:
                client.containers.remove(name, force=True)

    _in_parallel(some, [names[i::CLIENTS] for i in range(CLIENTS)])


def start_idle(peer: Peer, count: int) -> list[str]:
    """Start idle containers one after another; their ids."""
    names = []
    with peer.client() as client:
        for _ in range(count):
            names.append(client.containers.create(CreateBody(image="busybox", cmd=_IDLE)).id or "")
            client.containers.start(names[-1])
    return names


def crowd(peer: Peer, count: int) -> float:
    """Seconds until `count` idle containers run that CLIENTS clients create and start at once. They are removed again."""
    names: list[str] = []

    def some(share: int) -> None:
        names.extend(start_idle(peer, share))

    begun = time.perf_counter()
    _in_parallel(some, [len(range(i, count, CLIENTS)) for i in range(CLIENTS)])
    spent = time.perf_counter() - begun
    if len(names) != count:
        raise SystemExit(f"bench: only {len(names)} of {count} containers started on {peer.name}")
    remove(peer, names)
    return spent


def _in_parallel(work: Callable[[T], None], shares: list[T]) -> None:
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
