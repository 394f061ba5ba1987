"""`berthd`: start the engine, serve until told to stop.

Ready when GET /_ping answers 200; systemd is told (Type=notify). SIGTERM and SIGINT end the engine and
leave the containers running.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import sys

from berth import failpoint
from berth.api.host import warnings
from berth.api.options import parse_options
from berth.engine.config import EngineConfig
from berth.errors import BerthError
from berth.kernel.memory import share_one_arena


async def run(config: EngineConfig) -> None:
    """Serve until a signal, or until POST /berth/stop, says to stop."""
    # Imported here, so that `berthd --help` and a wrong option answer at once.
    from berth.api.application import build_application
    from berth.api.room import Accepting
    from berth.api.server import Listeners, serve
    from berth.engine import app as engine_app

    asyncio.get_running_loop().set_exception_handler(Accepting())
    stop: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def request_stop(stop_containers: bool) -> None:
        if not stop.done():
            stop.set_result(stop_containers)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, request_stop, False)
    listeners = Listeners(config)
    try:
        engine = await engine_app.start(config)
    except BaseException:
        listeners.close()
        raise
    log = logging.getLogger("berth")
    for warning in warnings(config.hosts, config.tls):
        log.warning("%s", warning.removeprefix("WARNING: "))
    try:
        runner = await serve(build_application(engine, request_stop), listeners.open())
        tell_service_manager("READY=1")
        log.info("berthd is ready on %s (root %s)", ", ".join([config.socket, *config.hosts]), config.root)
        stop_containers = await stop
        tell_service_manager("STOPPING=1")
        await runner.cleanup()
        listeners.remove()
    except BaseException:
        await engine.stop(stop_containers=False)
        raise
    await engine.stop(stop_containers=stop_containers)


def tell_service_manager(state: str) -> None:
    """sd_notify(3), where systemd has started us as a service of Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            logging.getLogger("berth").warning("systemd was not told %s: %s: %s", state, address, error.strerror)


def main() -> None:
    """The entry point."""
    try:
        config, level = parse_options(sys.argv[1:])
    except BerthError as error:
        sys.exit(f"berthd: {error.message}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if failpoint.enable():
        logging.getLogger("berth").warning("failpoints are on (%s): for tests only", failpoint.VARIABLE)
    if os.geteuid() != 0:
        sys.exit("berthd: must run as root, since it makes namespaces, mounts and network devices: use sudo")
    share_one_arena()
    # Each client and container takes descriptors; the soft limit of a login shell is for programs that use select(2).
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(run(config))
    except BerthError as error:
        sys.exit(f"berthd: {error.message}")
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        sys.exit(
            f"berthd: too many open files (the limit is {hard}): raise it (LimitNOFILE of the unit, ulimit -n) and start again; "
            "containers go on meanwhile"
        )
