"""inspect: of a container, an image, or whatever has the name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from berth.cli.command import declare
from berth.cli.session import engine
from berth.cli.table import print_documents
from berth.client.engine import Engine
from berth.errors import BerthError, NotFound

_format = click.option("-f", "--format", "form", help="Format output using a custom template: 'json' or a Go template")


def _readers(target: Engine, size: bool, platform: str | None) -> dict[str, Callable[[str], Any]]:
    return {
        "container": lambda name: target.containers.inspect_raw(name, size=size),
        "image": lambda name: target.images.inspect_raw(name, platform=platform),
        "network": target.networks.inspect_raw,
        "volume": target.volumes.inspect_raw,
    }


def show(
    names: tuple[str, ...], kinds: tuple[str, ...], form: str | None, *, size: bool = False, platform: str | None = None
) -> None:
    """Print what is found; say what is not, and end with exit code 1 then."""
    readers = _readers(engine(), size, platform)
    documents, missing = [], []
    for name in names:
        for kind in kinds:
            try:
                documents.append(readers[kind](name))
                break
            except NotFound as error:
                last: BerthError = error
        else:
            missing.append(last.message if len(kinds) == 1 else f"No such object: {name}")
    print_documents(documents, form)
    for message in missing:
        print(f"berth: {message}", file=sys.stderr)
    if missing:
        sys.exit(1)


@declare("inspect")
@_format
@click.option("-s", "--size", is_flag=True, help="Display total file sizes if the type is container")
@click.option("--type", "kind", type=click.Choice(["container", "image", "network", "volume"]), help="Only look for this type")
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID...")
def inspect(names: tuple[str, ...], form: str | None, size: bool, kind: str | None) -> None:
    """Return low-level information on berth objects."""
    show(names, (kind,) if kind else ("container", "image", "network", "volume"), form, size=size)


@declare("inspect")
@_format
@click.option("-s", "--size", is_flag=True, help="Display total file sizes")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def inspect_container(names: tuple[str, ...], form: str | None, size: bool) -> None:
    """Display detailed information on one or more containers."""
    show(names, ("container",), form, size=size)


@declare("inspect")
@_format
@click.option("--platform", help="Inspect a specific platform of the image (os[/arch[/variant]])")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def inspect_image(names: tuple[str, ...], form: str | None, platform: str | None) -> None:
    """Display detailed information on one or more images."""
    show(names, ("image",), form, platform=platform)


COMMANDS = {"inspect": inspect, "container inspect": inspect_container, "image inspect": inspect_image}
