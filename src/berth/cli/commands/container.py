"""Commands on containers that are one or two calls each."""

from __future__ import annotations

import sys

import click

from berth.cli import progress
from berth.cli.command import declare
from berth.cli.session import each, engine, save_stream
from berth.cli.table import aligned
from berth.errors import InvalidArgument
from berth.model.reference import parse

_KINDS = {0: "C", 1: "A", 2: "D"}
names_argument = click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
signal_option = click.option("-s", "--signal", help="Signal to send to the container")


@declare("stop")
@signal_option
@click.option("-t", "--time", "--timeout", "seconds", type=int, help="Seconds to wait before killing the container")
@names_argument
def stop(names: tuple[str, ...], signal: str | None, seconds: int | None) -> None:
    """Stop one or more running containers."""
    target = engine()
    each(names, lambda name: target.containers.stop(name, timeout=seconds, signal=signal))


@declare("restart")
@signal_option
@click.option("-t", "--time", "--timeout", "seconds", type=int, help="Seconds to wait before killing the container")
@names_argument
def restart(names: tuple[str, ...], signal: str | None, seconds: int | None) -> None:
    """Restart one or more containers."""
    target = engine()
    each(names, lambda name: target.containers.restart(name, timeout=seconds, signal=signal))


@declare("kill")
@signal_option
@names_argument
def kill(names: tuple[str, ...], signal: str | None) -> None:
    """Kill one or more running containers."""
    target = engine()
    each(names, lambda name: target.containers.kill(name, signal=signal))


@declare("pause")
@names_argument
def pause(names: tuple[str, ...]) -> None:
    """Pause all processes within one or more containers."""
    target = engine()
    each(names, lambda name: target.containers.pause(name))


@declare("unpause")
@names_argument
def unpause(names: tuple[str, ...]) -> None:
    """Unpause all processes within one or more containers."""
    target = engine()
    each(names, lambda name: target.containers.unpause(name))


@declare("rm")
@click.option("-f", "--force", is_flag=True, help="Force the removal of a running container (uses SIGKILL)")
@click.option("-l", "--link", is_flag=True, help="Remove the specified link")
@click.option("-v", "--volumes", is_flag=True, help="Remove anonymous volumes associated with the container")
@names_argument
def rm(names: tuple[str, ...], force: bool, link: bool, volumes: bool) -> None:
    """Remove one or more containers."""
    target = engine()
    each(names, lambda name: target.containers.remove(name, force=force, volumes=volumes, link=link))


@declare("wait")
@names_argument
def wait(names: tuple[str, ...]) -> None:
    """Block until one or more containers stop, then print their exit codes."""
    target = engine()
    each(names, lambda name: str(target.containers.wait(name).status_code or 0))


@declare("rename")
@click.argument("name", metavar="CONTAINER")
@click.argument("new", metavar="NEW_NAME")
def rename(name: str, new: str) -> None:
    """Rename a container."""
    engine().containers.rename(name, new)


@declare("diff")
@click.argument("name", metavar="CONTAINER")
def diff(name: str) -> None:
    """Inspect changes to files or directories on a container's filesystem."""
    for change in engine().containers.changes(name):
        click.echo(f"{_KINDS[change.kind or 0]} {change.path}")


@declare("top", context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="CONTAINER")
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED)
def top(name: str, ps_options: tuple[str, ...]) -> None:
    """Display the running processes of a container."""
    answer = engine().containers.top(name, ps_args=" ".join(ps_options) or None)
    for line in aligned([answer.titles or [], *(answer.processes or [])], least=20):
        click.echo(line)


@declare("export")
@click.option("-o", "--output", help="Write to a file, instead of STDOUT")
@click.argument("name", metavar="CONTAINER")
def export(name: str, output: str | None) -> None:
    """Export a container's filesystem as a tar archive."""
    if output is None and sys.stdout.isatty():
        raise InvalidArgument("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    response = engine().containers.export(name)
    save_stream(response if output is None else progress.Meter(f"Exporting to {output}").over(response), output)


@declare("commit")
@click.option("-a", "--author", help='Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")')
@click.option("-c", "--change", multiple=True, help="Apply Dockerfile instruction to the created image")
@click.option("-m", "--message", help="Commit message")
@click.option("-p", "--pause/--no-pause", default=True, help="Pause container during commit")
@click.argument("name", metavar="CONTAINER")
@click.argument("image", required=False, metavar="[REPOSITORY[:TAG]]")
def commit(name: str, image: str | None, author: str | None, change: tuple[str, ...], message: str | None, pause: bool) -> None:
    """Create a new image from a container's changes."""
    reference = parse(image) if image else None
    click.echo(
        engine().images.commit(
            name,
            repo=reference.familiar_name if reference else None,
            tag=reference.tag if reference else None,
            comment=message,
            author=author,
            pause=pause,
            changes=list(change) or None,
        )
    )


COMMANDS = {c.name or "": c for c in (stop, restart, kill, pause, unpause, rm, wait, rename, diff, top, export, commit)}
