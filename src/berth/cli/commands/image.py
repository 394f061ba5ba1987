"""Commands on images: pull, push, tag, rmi, history, search."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from berth.cli import progress
from berth.cli.command import declare, ignore
from berth.cli.session import each, engine, filters
from berth.cli.table import print_rows
from berth.errors import BerthError
from berth.model.identifier import short_id
from berth.model.reference import parse
from berth.model.units import human_duration, human_size

HISTORY_COLUMNS = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
]
SEARCH_COLUMNS = [("Name", "NAME"), ("Description", "DESCRIPTION"), ("StarCount", "STARS"), ("IsOfficial", "OFFICIAL")]
_WIDTH = 45


@declare("pull")
@click.option("-a", "--all-tags", is_flag=True, help="Download all tagged images in the repository")
@click.option("--platform", help="Set platform if server is multi-platform capable")
@click.option("-q", "--quiet", is_flag=True, help="Suppress verbose output")
@ignore("--disable-content-trust")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
def pull(name: str, all_tags: bool, platform: str | None, quiet: bool) -> None:
    """Download an image from a registry."""
    reference = parse(name, default_tag=not all_tags)
    if ":" not in name.rsplit("/", 1)[-1] and "@" not in name and not all_tags and not quiet:
        click.echo(f"Using default tag: {reference.tag}")
    progress.show(engine().images.pull(name, platform=platform, all_tags=all_tags), quiet=quiet)
    click.echo(str(reference))


@declare("push")
@click.option("-a", "--all-tags", is_flag=True, help="Push all tags of an image to the repository")
@click.option("-q", "--quiet", is_flag=True, help="Suppress verbose output")
@click.option("--platform", help="Push a platform-specific manifest as a single-platform image")
@ignore("--disable-content-trust")
@click.argument("name", metavar="NAME[:TAG]")
def push(name: str, all_tags: bool, platform: str | None, quiet: bool) -> None:
    """Upload an image to a registry."""
    reference = parse(name, default_tag=not all_tags)
    if ":" not in name.rsplit("/", 1)[-1] and "@" not in name and not all_tags and not quiet:
        click.echo(f"Using default tag: {reference.tag}")
    told = progress.show(engine().images.push(name, all_tags=all_tags, platform=platform), quiet=quiet)
    for instead in (aux for aux in told if aux.get("manifestPushedInsteadOfIndex")):
        index, manifest = instead["originalIndex"]["digest"], instead["selectedManifest"]["digest"]
        click.echo(
            f"note: not all platforms of the image are here: {manifest} was pushed alone, instead of the index {index}", err=True
        )
    if quiet:
        click.echo(str(reference))


@declare("tag")
@click.argument("source", metavar="SOURCE_IMAGE[:TAG]")
@click.argument("target", metavar="TARGET_IMAGE[:TAG]")
def tag(source: str, target: str) -> None:
    """Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE."""
    reference = parse(target)
    engine().images.tag(source, reference.familiar_name, reference.tag)


@declare("rmi")
@click.option("-f", "--force", is_flag=True, help="Force removal of the image")
@click.option("--no-prune", is_flag=True, help="Do not delete untagged parents")
@click.option("--platform", multiple=True, help="Remove only the given platform variant")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def rmi(names: tuple[str, ...], force: bool, no_prune: bool, platform: tuple[str, ...]) -> None:
    """Remove one or more images."""
    target = engine()

    def remove(name: str) -> str:
        try:
            done = target.images.remove(name, force=force, noprune=no_prune, platforms=list(platform))
        except BerthError as error:
            if force and error.message.startswith("No such image"):
                return f"Warning: {error.message}"
            raise
        return "\n".join(f"{kind}: {what}" for entry in done for kind, what in entry.items())

    each(names, remove)


@declare("history")
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("-H", "--human/--no-human", default=True, help="Print sizes and dates in human readable format")
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only show image IDs")
@click.option("--platform", help="Show history for the given platform (os[/arch[/variant]])")
@click.argument("name", metavar="IMAGE")
def history(name: str, form: str | None, human: bool, no_trunc: bool, platform: str | None, quiet: bool) -> None:
    """Show the history of an image."""
    rows = []
    for item in engine().images.history(name, platform=platform):
        command = (item.created_by or "").replace("\t", " ")
        created = datetime.fromtimestamp(item.created or 0).astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")
        since = human_duration(time.time() - (item.created or 0)) + " ago"
        rows.append(
            {
                "ID": item.id or "" if no_trunc else short_id(item.id or ""),
                "CreatedSince": since if human else created,
                "CreatedAt": created,
                "CreatedBy": command if no_trunc or len(command) <= _WIDTH else command[: _WIDTH - 1] + "…",
                "Size": human_size(item.size or 0, 3) if human else str(item.size or 0),
                "Comment": item.comment or "",
            }
        )
    columns = HISTORY_COLUMNS if human else [HISTORY_COLUMNS[0], ("CreatedSince", "CREATED AT"), *HISTORY_COLUMNS[2:]]
    print_rows(rows, columns, form=form, quiet="ID" if quiet else "")


@declare("search")
@click.option("-f", "--filter", "filter_", multiple=True, help="Filter output based on conditions provided")
@click.option("--format", "form", help="Pretty-print search using a Go template")
@click.option("--limit", type=int, help="Max number of search results")
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.argument("term")
def search(term: str, filter_: tuple[str, ...], form: str | None, limit: int | None, no_trunc: bool) -> None:
    """Search Docker Hub for images."""
    found: list[dict[str, Any]] = engine().images.search(term, limit=limit, filters=filters(filter_)) or []
    rows = [
        {
            "Name": item.get("name", ""),
            "Description": (item.get("description") or "") if no_trunc else (item.get("description") or "")[:_WIDTH],
            "StarCount": str(item.get("star_count", 0)),
            "IsOfficial": "[OK]" if item.get("is_official") else "",
        }
        for item in found
    ]
    print_rows(rows, SEARCH_COLUMNS, form=form)


COMMANDS = {"pull": pull, "push": push, "tag": tag, "rmi": rmi, "image rm": rmi, "history": history, "search": search}
