"""engine: start and stop berthd."""

from __future__ import annotations

import time

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.client.engine import connect
from berth.errors import BerthError, DeadlineExceeded, NotFound, Unavailable

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
        target.request("POST", "/berth/stop", query={"containers": containers or None}, versioned=False).read()
    except NotFound as error:
        raise NotFound("this engine is not berthd: stop it by its own means") from error
    except Unavailable:
        click.echo("berthd does not run")
        return
    _wait(host)
    click.echo("berthd stopped" + (", and its containers" if containers else "; its containers go on"))


def _wait(host: str | None) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            connect(host, autostart=False).system.ping()
        except BerthError:
            return
        time.sleep(0.05)
    raise DeadlineExceeded(f"berthd still answers after {_STOP_SECONDS:.0f} seconds")


COMMANDS = {"engine start": start, "engine stop": stop}
