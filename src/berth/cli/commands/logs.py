"""logs."""

from __future__ import annotations

import sys

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.client.stream import STDERR
from berth.model.instant import for_api


@declare("logs")
@click.option("--details", is_flag=True, help="Show extra details provided to logs")
@click.option("-f", "--follow", is_flag=True, help="Follow log output")
@click.option("--rotate", is_flag=True, help="Begin a new log file, and show nothing; the old one counts as rotated")
@click.option("--since", help="Show logs since timestamp (2013-01-02T13:23:37Z) or relative (42m)")
@click.option("--until", help="Show logs before a timestamp (2013-01-02T13:23:37Z) or relative (42m)")
@click.option("-n", "--tail", default="all", help="Number of lines to show from the end of the logs")
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps")
@click.argument("name", metavar="CONTAINER")
def logs(
    name: str, details: bool, follow: bool, rotate: bool, since: str | None, until: str | None, tail: str, timestamps: bool
) -> None:
    """Fetch the logs of a container."""
    target = engine()
    if rotate:
        target.containers.rotate_log(name)
        return
    tty = bool(target.containers.inspect_raw(name)["Config"].get("Tty"))
    frames = target.containers.logs(
        name,
        tty=tty,
        follow=follow,
        tail=tail,
        since=for_api(since),
        until=for_api(until),
        timestamps=timestamps,
        details=details,
    )
    for stream, data in frames:
        out = sys.stderr.buffer if stream == STDERR else sys.stdout.buffer
        out.write(data)
        out.flush()


COMMANDS = {"logs": logs}
