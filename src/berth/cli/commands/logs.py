"""logs."""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.client.stream import STDERR
from berth.errors import InvalidArgument
from berth.model.units import parse_duration


def moment(text: str | None) -> str | None:
    """A point in time for the API: RFC 3339, seconds of the epoch, or a duration back from now (10m)."""
    if not text:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    try:
        return f"{time.time() - parse_duration(text) / 1e9:.9f}"
    except InvalidArgument:
        pass
    try:
        return f"{datetime.fromisoformat(text).timestamp():.9f}"
    except ValueError:
        raise InvalidArgument(
            f"invalid time {text!r}: give a duration such as 10m, or a time such as 2026-01-31T12:00:00"
        ) from None


@declare("logs")
@click.option("--details", is_flag=True, help="Show extra details provided to logs")
@click.option("-f", "--follow", is_flag=True, help="Follow log output")
@click.option("--since", help="Show logs since timestamp (2013-01-02T13:23:37Z) or relative (42m)")
@click.option("--until", help="Show logs before a timestamp (2013-01-02T13:23:37Z) or relative (42m)")
@click.option("-n", "--tail", default="all", help="Number of lines to show from the end of the logs")
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps")
@click.argument("name", metavar="CONTAINER")
def logs(name: str, details: bool, follow: bool, since: str | None, until: str | None, tail: str, timestamps: bool) -> None:
    """Fetch the logs of a container."""
    target = engine()
    tty = bool(target.containers.inspect_raw(name)["Config"].get("Tty"))
    frames = target.containers.logs(
        name, tty=tty, follow=follow, tail=tail, since=moment(since), until=moment(until), timestamps=timestamps, details=details
    )
    for stream, data in frames:
        out = sys.stderr.buffer if stream == STDERR else sys.stdout.buffer
        out.write(data)
        out.flush()


COMMANDS = {"logs": logs}
