"""system verify: whether the files of images are still those that were unpacked."""

from __future__ import annotations

import sys
from typing import Any

import click

from berth.cli.command import declare
from berth.cli.session import engine

_MOST = 20


@declare("verify")
@click.option("--repair", is_flag=True, help="Put back the files that differ, from the content that their layer came in")
def verify(repair: bool) -> None:
    """Check the files of all images.

    Reads every layer, and unpacks beside it what it was pulled or loaded as; containers may run meanwhile. Exits with 1 when
    something is damaged that was not repaired.
    """
    count = damaged = mended = 0
    for message in engine().system.verify(repair=repair):
        if "Layer" not in message:
            count = int(message["Layers"])
            continue
        damaged += 1
        mended += bool(message["Mended"])
        _show(message)
    if not damaged:
        click.echo(f"{count} layers: all files are what they should be")
        return
    click.echo(f"{count} layers: {damaged} damaged, {mended} of them repaired")
    sys.exit(mended < damaged)


def _show(found: dict[str, Any]) -> None:
    names = ", ".join(found["Images"]) or "no image"
    click.echo(f"layer {found['Layer']} of {names}: {_state(found)}")
    for name in found["Files"][:_MOST]:
        click.echo(f"  {name}")
    if len(found["Files"]) > _MOST:
        click.echo(f"  and {len(found['Files']) - _MOST} more")


def _state(found: dict[str, Any]) -> str:
    if found["Error"]:
        return f"could not be checked: {found['Error']}"
    if found["Mended"]:
        return "repaired (containers that run see it when they open the files again)"
    if found["Source"]:
        return "differs from what was unpacked: berth system verify --repair"
    return "differs from what was made here: load the image from an archive of it, or remove it and build it again"


COMMANDS = {"system verify": verify}
