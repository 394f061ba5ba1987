"""save, load, import: images and file trees as tars."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

import click

from berth.cli import progress
from berth.cli.command import declare
from berth.cli.session import engine, save_stream
from berth.errors import InvalidArgument, NotFound
from berth.model.reference import parse

_PIECE = 1 << 20


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The content of a file, a megabyte at a time."""
    while piece := file.read(_PIECE):
        yield piece


def counted(file: BinaryIO, label: str, *, quiet: bool = False) -> Iterator[bytes]:
    """The content of a file, with a bar on a terminal while it is sent."""
    status = os.fstat(file.fileno())
    return progress.Meter(label, quiet=quiet, total=status.st_size if stat.S_ISREG(status.st_mode) else 0).over(pieces(file))


def open_input(path: str | None) -> BinaryIO:
    """The file, or standard input for `-` and for none."""
    if path in (None, "-"):
        if sys.stdin.isatty():
            raise InvalidArgument("requested load from stdin, but stdin is empty: give a file, or pipe a tar into this command")
        return sys.stdin.buffer
    try:
        return open(path or "", "rb")
    except OSError as error:
        raise NotFound(f"open {path}: {(error.strerror or '').lower()}") from error


@declare("save")
@click.option("-o", "--output", help="Write to a file, instead of STDOUT")
@click.option("--platform", multiple=True, help="Save only the given platform (os[/arch[/variant]])")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def save(names: tuple[str, ...], output: str | None, platform: tuple[str, ...]) -> None:
    """Save one or more images to a tar archive (streamed to STDOUT by default)."""
    if output is None and sys.stdout.isatty():
        raise InvalidArgument("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    stream = engine().images.save(list(names), platforms=list(platform))
    save_stream(stream if output is None else progress.Meter(f"Saving to {output}").over(stream), output)


@declare("load")
@click.option("-i", "--input", "path", help="Read from tar archive file, instead of STDIN")
@click.option("--platform", multiple=True, help="Load only the given platform (os[/arch[/variant]])")
@click.option("-q", "--quiet", is_flag=True, help="Suppress the load output")
def load(path: str | None, quiet: bool, platform: tuple[str, ...]) -> None:
    """Load an image from a tar archive or STDIN."""
    with open_input(path) as file:
        progress.show(
            engine().images.load(counted(file, "Sending the archive", quiet=quiet), quiet=quiet, platforms=list(platform))
        )


@declare("import")
@click.option("-c", "--change", multiple=True, help="Apply Dockerfile instruction to the created image")
@click.option("-m", "--message", help="Set commit message for imported image")
@click.option("--platform", help="Set platform if server is multi-platform capable")
@click.argument("path", metavar="FILE|-")
@click.argument("image", required=False, metavar="[REPOSITORY[:TAG]]")
def import_(path: str, image: str | None, change: tuple[str, ...], message: str | None, platform: str | None) -> None:
    """Import the contents from a tarball to create a filesystem image."""
    reference = parse(image) if image else None
    with open_input(path) as file:
        messages = engine().images.import_tar(
            counted(file, "Sending the file system"),
            repo=reference.familiar_name if reference else None,
            tag=reference.tag if reference else None,
            message=message,
            changes=list(change) or None,
            platform=platform,
        )
        progress.show(messages)


COMMANDS = {"save": save, "load": load, "import": import_}
