"""cp: between a container and the local file system, by the archive endpoints, with Docker's rules about names.

SRC is a directory, DEST exists: SRC is copied into DEST, or its content with SRC/.
SRC is a directory, DEST does not exist: DEST is made with SRC's content
SRC is a file: DEST is the new name, or the directory it goes into; DEST/ must exist
"""

from __future__ import annotations

import os
import posixpath
import sys
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import click

from berth.cli import ownership
from berth.cli.command import declare
from berth.cli.ownership import Owner
from berth.cli.pieces import PieceReader
from berth.cli.session import engine
from berth.cli.unpack import unpack
from berth.client.containers import PathStat
from berth.client.engine import Engine
from berth.errors import InvalidArgument, NotFound


def split(text: str) -> tuple[str, str]:
    """(container, path); the container is empty for a local path. `./a:b` and `/a:b` are local."""
    if text == "-" or text.startswith(("/", ".")):
        return "", text
    container, colon, path = text.partition(":")
    return (container, path) if colon else ("", text)


def _stat(target: Engine, container: str, path: str) -> PathStat | None:
    try:
        found = target.containers.stat_path(container, path)
    except NotFound as error:
        if "No such container" in error.message:
            raise
        return None
    if found.is_symlink and found.link_target:
        link = (
            found.link_target if found.link_target.startswith("/") else posixpath.join(posixpath.dirname(path), found.link_target)
        )
        return _stat(target, container, link)
    return found


def _asserts_directory(path: str) -> bool:
    return path.endswith(("/", "/.")) or path in (".", "..")


def _from_container(
    target: Engine, container: str, source: str, destination: str, follow: bool, archive: bool, chown: str
) -> None:
    owner = ownership.of_host(chown) if chown else None
    if owner is not None:
        ownership.check_may_give(owner)
    if destination == "-":
        _, response = target.containers.get_archive(container, source)
        for piece in response:
            sys.stdout.buffer.write(piece)
        return
    if follow:
        found = target.containers.stat_path(container, source)
        if found.is_symlink and found.link_target:
            source = posixpath.join(posixpath.dirname(source), found.link_target)
    stat, response = target.containers.get_archive(container, source)
    content_only = source.endswith("/.") or source == "."
    exists = os.path.isdir(destination)
    if not exists and not os.path.isdir(os.path.dirname(os.path.abspath(destination.rstrip("/")))):
        raise InvalidArgument(
            f"invalid output path: directory {os.path.dirname(os.path.abspath(destination.rstrip('/')))!r} does not exist"
        )
    if not exists and destination.endswith("/") and not stat.is_dir:
        raise InvalidArgument(f"the destination directory {destination!r} does not exist")
    if os.path.isfile(destination) and stat.is_dir:
        raise InvalidArgument("cannot copy directory to a file that exists")
    top = stat.name.strip("/") or "."
    if exists:
        folder, name = destination, "." if content_only else top
    else:
        path = os.path.abspath(destination.rstrip("/"))
        folder, name = os.path.dirname(path), os.path.basename(path)

    def rename(member: str) -> str:
        """The member with its first component, the source's name, replaced."""
        rest = member.removeprefix("./").removeprefix("/")
        if top == ".":
            return f"{name}/{rest}"
        return name + rest[len(top) :] if rest.rstrip("/") == top or rest.startswith(top + "/") else rest

    with tarfile.open(fileobj=PieceReader(iter(response)), mode="r|") as tar:  # type: ignore[call-overload]  # reads only, as a stream needs
        unpack(tar, folder, rename, archive=archive, owner=owner)


def _local_members(source: str, name: str, follow: bool, owner: Owner | None, out: IO[bytes]) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        tar.add(
            os.path.realpath(source) if follow else source,
            name,
            filter=lambda info: info if owner is None else ownership.given(info, owner),
        )


def _streamed(produce: Callable[[IO[bytes]], None]) -> Iterator[bytes]:
    """What a second thread writes, as it is read."""
    import threading

    reader, writer = os.pipe()
    failures: list[OSError | tarfile.TarError] = []

    def work() -> None:
        with open(writer, "wb") as out:
            try:
                produce(out)
            except (OSError, tarfile.TarError) as error:
                failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with open(reader, "rb") as file:
        while piece := file.read(1 << 17):
            yield piece
    thread.join()
    if failures and isinstance(failures[0], OSError):
        raise InvalidArgument(f"cannot read {failures[0].filename}: {(failures[0].strerror or '').lower()}")
    if failures:
        raise InvalidArgument(f"what came on standard input is no tar archive: {failures[0]}")


def _owner(target: Engine, container: str, archive: bool, chown: str) -> Owner | None:
    """Whom what is copied into a container shall belong to: its own user, unless the owners are kept (None)."""
    if archive:
        return None
    if chown:
        return ownership.of_container(target, container, chown)
    user = str(target.containers.inspect_raw(container)["Config"].get("User") or "")
    return ownership.of_container(target, container, user, same_group=False) if user else Owner(0, 0)


def _to_container(target: Engine, source: str, container: str, destination: str, follow: bool, archive: bool, chown: str) -> None:
    if source == "-":
        pieces = iter(lambda: sys.stdin.buffer.read(1 << 17), b"")
        if chown:
            owner = ownership.of_container(target, container, chown)
            pieces = _streamed(lambda out: ownership.rewritten(iter(lambda: sys.stdin.buffer.read(1 << 17), b""), owner, out))
        target.containers.put_archive(container, destination, pieces, copy_ids=archive)
        return
    if not os.path.lexists(source):
        raise NotFound(f"lstat {os.path.abspath(source)}: no such file or directory")
    content_only = source.endswith("/.") or source in (".", "..")
    is_dir = os.path.isdir(source) and (follow or not os.path.islink(source.rstrip("/")))
    found = _stat(target, container, destination)
    if found is not None and found.is_dir:
        folder, name = destination, "." if content_only and is_dir else os.path.basename(os.path.abspath(source))
    else:
        if found is not None and is_dir:
            raise InvalidArgument("cannot copy directory to a file that exists")
        if found is None and _asserts_directory(destination) and not is_dir:
            raise NotFound(f"no such directory: {container}:{destination}")
        folder, name = posixpath.split(destination.rstrip("/"))
    given = _owner(target, container, archive, chown)
    members = _streamed(lambda out: _local_members(source.rstrip("/") or "/", name, follow, given, out))
    target.containers.put_archive(container, folder or "/", members, copy_ids=archive)


@declare("cp")
@click.option("-a", "--archive", is_flag=True, help="Archive mode (copy all uid/gid information)")
@click.option("--chown", default="", metavar="USER[:GROUP]", help="Give what is copied to this user, as known where it goes")
@click.option("-L", "--follow-link", is_flag=True, help="Always follow symbol link in SRC_PATH")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output during copy")
@click.argument("source", metavar="CONTAINER:SRC_PATH|SRC_PATH|-")
@click.argument("destination", metavar="DEST_PATH|-|CONTAINER:DEST_PATH")
def cp(source: str, destination: str, archive: bool, chown: str, follow_link: bool, quiet: bool) -> None:
    """Copy files/folders between a container and the local filesystem.

    What is copied into a container belongs to the user that it runs as; what comes out, to you. -a keeps the owners.
    """
    if archive and chown:
        raise InvalidArgument("--archive keeps the owners and --chown changes them: leave one of them out")
    (from_container, from_path), (to_container, to_path) = split(source), split(destination)
    target: Any = engine()
    if from_container and to_container:
        raise InvalidArgument("copying between containers is not supported")
    if from_container:
        _from_container(target, from_container, from_path, to_path, follow_link, archive, chown)
        if not quiet and to_path != "-":
            print(f"Successfully copied to {os.path.abspath(to_path)}", file=sys.stderr)
    elif to_container:
        _to_container(target, from_path, to_container, to_path, follow_link, archive, chown)
        if not quiet:
            print(f"Successfully copied to {to_container}:{to_path}", file=sys.stderr)
    else:
        raise InvalidArgument("must specify at least one container source, as CONTAINER:PATH")


COMMANDS = {"cp": cp}
