"""prune of containers, images, builds, and of everything."""

from __future__ import annotations

from typing import Any

import click

from berth.cli.command import declare
from berth.cli.session import engine, filters
from berth.model.units import human_size, parse_size

_filter = click.option("--filter", "filter_", multiple=True, help='Provide filter values (e.g. "until=<timestamp>")')
_force = click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")


def confirm(warning: str, force: bool) -> bool:
    """Whether the user agrees."""
    return force or click.confirm(f"WARNING! {warning}\nAre you sure you want to continue?")


def report(title: str, names: list[str] | None, space: int | None) -> None:
    """What was removed, and how much room that made."""
    if names:
        click.echo("\n".join([title, *names, ""]))
    if space is not None:
        click.echo(f"Total reclaimed space: {human_size(space)}")


def _deleted(answer: dict[str, Any]) -> list[str]:
    """Docker's lines: `untagged: x`, `deleted: sha256:...`."""
    return [f"{kind.lower()}: {what}" for entry in answer.get("ImagesDeleted") or [] for kind, what in entry.items()]


@declare("prune")
@_filter
@_force
def containers(filter_: tuple[str, ...], force: bool) -> None:
    """Remove all stopped containers."""
    if confirm("This will remove all stopped containers.", force):
        done = engine().containers.prune(filters=filters(filter_))
        report("Deleted Containers:", done.get("ContainersDeleted"), done.get("SpaceReclaimed", 0))


@declare("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Remove all unused images, not just dangling ones")
@_filter
@_force
def images(every: bool, filter_: tuple[str, ...], force: bool) -> None:
    """Remove unused images."""
    which = "all images without at least one container associated to them" if every else "all dangling images"
    if confirm(f"This will remove {which}.", force):
        done = engine().images.prune(filters=filters(filter_) | {"dangling": ["false" if every else "true"]})
        report("Deleted Images:", _deleted(done), done.get("SpaceReclaimed", 0))


@declare("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Remove all unused build cache, not just dangling ones")
@_filter
@_force
@click.option("--keep-storage", help="Amount of disk space to keep for cache")
def builds(every: bool, filter_: tuple[str, ...], force: bool, keep_storage: str | None) -> None:
    """Remove build cache."""
    if confirm("This will remove all build cache that no image needs.", force):
        done = engine().builds.prune(all=every, filters=filters(filter_), keep=parse_size(keep_storage) if keep_storage else 0)
        report("Deleted build cache objects:", done.get("CachesDeleted"), done.get("SpaceReclaimed", 0))


@declare("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Remove all unused images not just dangling ones")
@click.option("--volumes", is_flag=True, help="Prune anonymous volumes")
@_filter
@_force
def system(every: bool, volumes: bool, filter_: tuple[str, ...], force: bool) -> None:
    """Remove unused data."""
    parts = ["all stopped containers", "all networks not used by at least one container"]
    parts += ["all anonymous volumes not used by at least one container"] if volumes else []
    parts += [
        "all images without at least one container associated to them" if every else "all dangling images",
        "unused build cache",
    ]
    if not confirm("This will remove:\n" + "".join(f"  - {part}\n" for part in parts), force):
        return
    target, wanted = engine(), filters(filter_)
    space = 0
    done = target.containers.prune(filters=wanted)
    space += done.get("SpaceReclaimed", 0)
    report("Deleted Containers:", done.get("ContainersDeleted"), None)
    report("Deleted Networks:", target.networks.prune(filters=wanted).get("NetworksDeleted"), None)
    if volumes:
        done = target.volumes.prune(filters=wanted)
        space += done.get("SpaceReclaimed", 0)
        report("Deleted Volumes:", done.get("VolumesDeleted"), None)
    done = target.images.prune(filters=wanted | {"dangling": ["false" if every else "true"]})
    space += done.get("SpaceReclaimed", 0)
    report("Deleted Images:", _deleted(done), None)
    done = target.builds.prune(all=every)
    space += done.get("SpaceReclaimed", 0)
    report("Deleted build cache objects:", done.get("CachesDeleted"), space)


COMMANDS = {"container prune": containers, "image prune": images, "builder prune": builds, "system prune": system}
