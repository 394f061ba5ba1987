"""context: the one engine that is in use, as far as scripts ask for it. Contexts are not kept: --host and DOCKER_HOST choose."""

from __future__ import annotations

import os

import click

from berth.cli.command import declare
from berth.cli.table import print_documents, print_rows
from berth.client.engine import address
from berth.errors import NotFound

COLUMNS = [("Name", "NAME"), ("Description", "DESCRIPTION"), ("DockerEndpoint", "DOCKER ENDPOINT"), ("Error", "ERROR")]


def _endpoint() -> str:
    return str(address((click.get_current_context().find_root().obj or {}).get("host")))


@declare("ls")
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("-q", "--quiet", is_flag=True, help="Only show context names")
def ls(form: str | None, quiet: bool) -> None:
    """List contexts."""
    named = os.environ.get("BERTH_HOST") or os.environ.get("DOCKER_HOST")
    text = f"The engine at {named}" if named else "berth's own engine"
    row = {"Name": "default", "Description": text, "DockerEndpoint": _endpoint(), "Error": ""}
    if form in (None, "", "table") and not quiet:
        row["Name"] = "default *"  # the mark of the one in use
    print_rows([row | {"Current": True}], COLUMNS, form=form, quiet="Name" if quiet else "")


@declare("show")
def show() -> None:
    """Print the name of the current context."""
    click.echo("default")


@declare("inspect")
@click.option("-f", "--format", "form", help="Format output using a custom template: 'json' or a Go template")
@click.argument("names", nargs=-1, metavar="[CONTEXT...]")
def inspect(names: tuple[str, ...], form: str | None) -> None:
    """Display detailed information on the context."""
    for name in names:
        if name != "default":
            raise NotFound(f'context "{name}" not found: there is only "default"; --host and DOCKER_HOST choose another engine')
    docker = {"Host": _endpoint(), "SkipTLSVerify": False}
    print_documents([{"Name": "default", "Metadata": {}, "Endpoints": {"docker": docker}, "TLSMaterial": {}}], form)


COMMANDS = {"context ls": ls, "context show": show, "context inspect": inspect}
