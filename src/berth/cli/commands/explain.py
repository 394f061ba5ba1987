"""explain: why a container died, or is in the state it is in."""

from __future__ import annotations

import sys
from typing import Any

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.cli.table import print_documents
from berth.client.engine import Engine
from berth.errors import NotFound


@declare("explain")
@click.option("-f", "--format", "form", help="Format output using a custom template: 'json' or a Go template")
@click.option("-n", "--tail", default=10, type=click.IntRange(0), help="Number of log lines to show", show_default=True)
@click.argument("name", metavar="CONTAINER")
def explain(name: str, form: str | None, tail: int) -> None:
    """Tell why a container is in the state it is in.

    Who or what ended it, what its exit code means, its last output, and what to do.
    """
    target = engine()
    found = target.containers.explain(name)
    if form:
        print_documents([found], form)
        return
    click.echo(found["Summary"])
    for text in found["Details"]:
        click.echo(f"  - {text}")
    if tail and found["Status"] != "created":
        _show_log(target, name, tail)
    if found["Advice"]:
        click.echo("What to do:")
    for text in found["Advice"]:
        click.echo(f"  - {text}")


def _show_log(target: Engine, name: str, tail: int) -> None:
    try:
        config: dict[str, Any] = target.containers.inspect_raw(name)
        if (config["HostConfig"].get("LogConfig") or {}).get("Type") == "none":
            return
        output = b"".join(data for _, data in target.containers.logs(name, tty=bool(config["Config"].get("Tty")), tail=str(tail)))
    except NotFound:
        # It has been removed meanwhile (--rm).
        return
    if not output:
        click.echo("It has written nothing.")
        return
    click.echo("Its last output:")
    sys.stdout.flush()
    for line in output.splitlines()[-tail:]:
        sys.stdout.buffer.write(b"  | " + line.rstrip(b"\r") + b"\n")
    sys.stdout.buffer.flush()


COMMANDS = {"explain": explain}
