"""The diagnosis as a program of its own: `berth doctor` starts it and shows what it prints, a `wire.doctor.Report` in JSON.

It is apart from the command line because it looks at the host and into the data root with the engine's own code, which
the client side never imports.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import sys

import msgspec

from berth.client.engine import Engine, connect
from berth.doctor.check import Running, Scene
from berth.doctor.host import Host
from berth.doctor.probe import KernelProbes
from berth.doctor.registry import choose, listing, report
from berth.engine.config import DEFAULT_ROOT, EngineConfig
from berth.errors import BerthError, NotFound


def look(host: str | None, root: str | None) -> Scene:
    """The machine and its engine, which is not started for this. `root` for an engine that does not answer."""
    engine = connect(host, autostart=False)
    running: Running | None = None
    refusal: BerthError | None = None
    try:
        running = _ask(engine)
    except BerthError as error:
        refusal = error
    found = root or str((running.info if running else {}).get("DockerRootDir") or DEFAULT_ROOT)
    config = EngineConfig(root=os.path.abspath(found))
    return Scene(
        host=Host(),
        probes=KernelProbes(),
        root=config.root,
        run=config.run,
        address=str(engine.address),
        socket=engine.address.path or "",
        engine=running,
        refusal=refusal,
        named=bool(host or os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST")),
    )


def _ask(engine: Engine) -> Running:
    with engine:
        info = engine.system.info()
        found = []
        for summary in engine.containers.list():
            try:
                found.append(engine.containers.inspect(summary.id or ""))
            except NotFound:
                # It has ended since it was listed.
                continue
    return Running(info=info, pid=_process(engine), containers=tuple(found))


def _process(engine: Engine) -> int:
    """The process that listens on the unix socket."""
    if engine.address.path is None:
        return 0
    with engine.address.open() as sock:
        pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def main() -> None:
    """The entry point. Exit code 1 and a line on stderr for a wrong name; findings do not count here."""
    parser = argparse.ArgumentParser(prog="berth doctor")
    parser.add_argument("--host")
    parser.add_argument("--root")
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    try:
        if options.list:
            sys.stdout.write(msgspec.json.encode(listing()).decode())
            return
        scene = look(options.host, options.root)
        checks = choose(options.names, deep=options.deep, remote=not scene.socket)
        sys.stdout.write(msgspec.json.encode(report(scene, checks)).decode())
    except BerthError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
