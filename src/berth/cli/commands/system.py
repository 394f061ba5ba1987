"""version, info, events, system df."""

from __future__ import annotations

from typing import Any

import click

from berth.cli.command import declare
from berth.cli.row import json_text
from berth.cli.server_version import formatted, show_version
from berth.cli.session import engine, filters
from berth.model.units import human_binary_size, human_size

INFO_LINES = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Name", "Name"),
    ("Root Directory", "DockerRootDir"),
    ("Live Restore Enabled", "LiveRestoreEnabled"),
)
DF_COLUMNS = [("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE")]


@declare("version")
@click.option("-f", "--format", "form", help="Format output using a custom template: 'json' or a Go template")
def version(form: str | None) -> None:
    """Show the berth version information."""
    show_version((click.get_current_context().find_root().obj or {}).get("host"), form)


@declare("info")
@click.option("-f", "--format", "form", help="Format output using a custom template: 'json' or a Go template")
def info(form: str | None) -> None:
    """Display system-wide information."""
    document = engine().system.info()
    if form:
        click.echo(formatted(document, form))
        return
    for label, key in INFO_LINES:
        click.echo(f"{label}: {document.get(key)}")
    click.echo(f"Security Options: {', '.join(document.get('SecurityOptions') or [])}")
    click.echo(f"Total Memory: {human_binary_size(document['MemTotal'])}")
    for warning in document.get("Warnings") or []:
        click.echo(warning, err=True)


@declare("events")
@click.option("-f", "--filter", "filter_", multiple=True, help="Filter output based on conditions provided")
@click.option("--format", "form", help="Format output using a custom template: 'json' or a Go template")
@click.option("--since", help="Show all events created since timestamp")
@click.option("--until", help="Stream events until this timestamp")
def events(filter_: tuple[str, ...], form: str | None, since: str | None, until: str | None) -> None:
    """Get real time events from the server."""
    from berth.cli.template import Template
    from berth.model.instant import for_api

    template = Template(form) if form and form != "json" else None
    for event in engine().events.listen_raw(since=for_api(since), until=for_api(until), filters=filters(filter_)):
        if form == "json":
            click.echo(json_text(event))
        elif template:
            click.echo(template.render(_event_fields(event)))
        else:
            click.echo(event_line(event))


def _event_fields(event: dict[str, Any]) -> dict[str, Any]:
    """With the short names that older engines send beside the actor, and that templates use."""
    actor = event.get("Actor") or {}
    short = {
        "ID": actor.get("ID", ""),
        "Status": event.get("Action", ""),
        "From": (actor.get("Attributes") or {}).get("image", ""),
    }
    times = {"Scope": event.get("scope", ""), "Time": event.get("time", 0), "TimeNano": event.get("timeNano", 0)}
    return {**short, **times, **event}


def event_line(event: dict[str, Any]) -> str:
    """2026-01-31T12:00:00.000000000+01:00 container start ID (image=x, name=y)."""
    from datetime import datetime

    nano = int(event.get("timeNano") or 0)
    moment_ = datetime.fromtimestamp(nano // 10**9).astimezone()
    zone = moment_.strftime("%z")
    stamp = f"{moment_.strftime('%Y-%m-%dT%H:%M:%S')}.{nano % 10**9:09d}{zone[:3]}:{zone[3:]}"
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{k}={v}" for k, v in sorted((actor.get("Attributes") or {}).items()))
    return f"{stamp} {event.get('Type')} {event.get('Action')} {actor.get('ID', '')}" + (f" ({attributes})" if attributes else "")


def _share(part: int, whole: int) -> str:
    return f"{human_size(part)} ({part * 100 // whole}%)" if whole else human_size(part)


@declare("df")
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("-v", "--verbose", is_flag=True, help="Show detailed information on space usage")
def df(form: str | None, verbose: bool) -> None:
    """Show disk usage."""
    usage = engine().system.disk_usage()
    images, containers = usage.get("Images") or [], usage.get("Containers") or []
    volumes, cache = usage.get("Volumes") or [], usage.get("BuildCache") or []
    used_images = {c["ImageID"] for c in containers}
    layers = int(usage.get("LayersSize") or 0)
    idle_images = sum(max(0, i["Size"] - max(0, i.get("SharedSize", 0))) for i in images if i["Id"] not in used_images)
    size_of = [int(c.get("SizeRw") or 0) for c in containers]
    idle_containers = sum(int(c.get("SizeRw") or 0) for c in containers if c["State"] not in ("running", "paused", "restarting"))
    volume_sizes = [max(0, int((v.get("UsageData") or {}).get("Size", 0))) for v in volumes]
    in_use = [int((v.get("UsageData") or {}).get("RefCount", 0)) > 0 for v in volumes]
    idle_volumes = sum(size for size, used in zip(volume_sizes, in_use, strict=True) if not used)
    # What an image holds too is the image's: it is counted there, and pruning the cache would not free it.
    cached = sum(int(c.get("Size") or 0) for c in cache if not c.get("Shared"))
    idle_cache = sum(int(c.get("Size") or 0) for c in cache if not c.get("Shared") and not c.get("InUse"))
    rows = [
        _df_row("Images", len(images), len(used_images), layers, _share(min(idle_images, layers), layers)),
        _df_row("Containers", len(containers), sum(c["State"] == "running" for c in containers), sum(size_of),
                _share(idle_containers, sum(size_of))),
        _df_row("Local Volumes", len(volumes), sum(in_use), sum(volume_sizes), _share(idle_volumes, sum(volume_sizes))),
        _df_row("Build Cache", len(cache), sum(bool(c.get("InUse")) for c in cache), cached, human_size(idle_cache)),
    ]  # fmt: skip
    if verbose and not form:
        from berth.cli.commands.usage import show_details, show_root

        show_details(images, containers, volumes, cache)
        if whole := engine().system.data_root():
            show_root(whole)
        return
    from berth.cli.table import print_rows

    print_rows(rows, DF_COLUMNS, form=form)


def _df_row(kind: str, total: int, active: int, size: int, reclaimable: str) -> dict[str, Any]:
    return {"Type": kind, "TotalCount": str(total), "Active": str(active), "Size": human_size(size), "Reclaimable": reclaimable}


COMMANDS = {"version": version, "info": info, "system info": info, "events": events, "system events": events, "system df": df}
