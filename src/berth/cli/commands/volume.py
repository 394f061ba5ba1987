"""volume: create, ls, inspect, rm, prune."""

from __future__ import annotations

from functools import partial

import click

from berth.cli.command import declare
from berth.cli.commands.inspect import show
from berth.cli.commands.prune import confirm, report
from berth.cli.run.request import pairs
from berth.cli.session import each, engine, filters
from berth.cli.table import print_rows
from berth.client.volumes import VolumeCreate

COLUMNS = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")]


@declare("ls")
@click.option("-f", "--filter", "filter_", multiple=True, help='Provide filter values (e.g. "dangling=true")')
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("-q", "--quiet", is_flag=True, help="Only display volume names")
def ls(filter_: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List volumes."""
    rows = [
        {
            "Driver": v.driver or "",
            "Name": v.name or "",
            "Scope": v.scope or "",
            "Mountpoint": v.mountpoint or "",
            "Labels": ",".join(f"{k}={x}" for k, x in sorted((v.labels or {}).items())),
            "Label": partial(_label, v.labels),
            "Availability": "N/A",
            "Group": "N/A",
            "Status": "N/A",
            "Links": "N/A",
            "Size": "N/A",
        }
        for v in sorted(engine().volumes.list(filters=filters(filter_)), key=lambda v: v.name or "")
    ]
    print_rows(rows, COLUMNS, form=form, quiet="Name" if quiet else "")


def _label(labels: dict[str, str] | None, name: str) -> str:
    return (labels or {}).get(name, "")


@declare("create")
@click.option("-d", "--driver", default="local", show_default=True, help="Specify volume driver name")
@click.option("--label", multiple=True, help="Set metadata for a volume")
@click.option("-o", "--opt", multiple=True, help="Set driver specific options")
@click.option("--name", "option_name", hidden=True)
@click.argument("name", required=False, metavar="[VOLUME]")
def create(name: str | None, option_name: str | None, driver: str, label: tuple[str, ...], opt: tuple[str, ...]) -> None:
    """Create a volume."""
    body = VolumeCreate(name=name or option_name, driver=driver, driver_opts=pairs(opt) or None, labels=pairs(label) or None)
    click.echo(engine().volumes.create(body).name)


@declare("inspect")
@click.option("-f", "--format", "form", help="Format output using a custom template: 'json' or a Go template")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
def inspect(names: tuple[str, ...], form: str | None) -> None:
    """Display detailed information on one or more volumes."""
    show(names, ("volume",), form)


@declare("rm")
@click.option("-f", "--force", is_flag=True, help="Force the removal of one or more volumes")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
def rm(names: tuple[str, ...], force: bool) -> None:
    """Remove one or more volumes."""
    target = engine()
    each(names, lambda name: target.volumes.remove(name, force=force))


@declare("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Remove all unused volumes, not just anonymous ones")
@click.option("--filter", "filter_", multiple=True, help='Provide filter values (e.g. "label=<label>")')
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")
def prune(every: bool, filter_: tuple[str, ...], force: bool) -> None:
    """Remove unused local volumes."""
    which = "all local volumes" if every else "anonymous local volumes"
    if confirm(f"This will remove {which} not used by at least one container.", force):
        wanted = filters(filter_) | ({"all": ["true"]} if every else {})
        done = engine().volumes.prune(filters=wanted)
        report("Deleted Volumes:", done.get("VolumesDeleted"), done.get("SpaceReclaimed", 0))


COMMANDS = {f"volume {c.name}": c for c in (ls, create, inspect, rm, prune)}
