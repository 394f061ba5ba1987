"""engine: start and stop berthd."""

from __future__ import annotations

import os
import select
import socket
import struct

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.client.address import Address
from berth.client.engine import connect
from berth.errors import DeadlineExceeded, NotFound, Unavailable

_STOP_SECONDS = 60.0


@declare("start")
def start() -> None:
    """Start the engine, if it does not run."""
    engine().system.ping()
    click.echo("berthd runs")


@declare("stop")
@click.option("--containers", is_flag=True, help="Stop the containers too, and remove bridges and firewall rules")
def stop(containers: bool) -> None:
    """Stop the engine. Containers go on, unless --containers is given."""
    host = (click.get_current_context().find_root().obj or {}).get("host")
    try:
        target = connect(host, autostart=False)
        process = _process(target.address)
        target.request("POST", "/berth/stop", query={"containers": containers or None}, versioned=False).read()
    except NotFound as error:
        raise NotFound("this engine is not berthd: stop it by its own means") from error
    except Unavailable:
        click.echo("berthd does not run")
        return
    _wait(process)
    click.echo("berthd stopped" + (", and its containers" if containers else "; its containers go on"))


def _process(address: Address) -> int | None:
    """A descriptor of the process that listens on the unix socket; None for an engine on another host."""
    if address.path is None:
        return None
    with address.open() as sock:
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return os.pidfd_open(pid)


def _wait(process: int | None) -> None:
    """Until the process has ended: it stops to answer before it has cleaned up."""
    if process is None:
        return
    poll = select.poll()
    poll.register(process, select.POLLIN)
    ended = poll.poll(_STOP_SECONDS * 1000)
    os.close(process)
    if not ended:
        raise DeadlineExceeded(f"berthd has not ended after {_STOP_SECONDS:.0f} seconds; its log says what it waits for")


COMMANDS = {"engine start": start, "engine stop": stop}
