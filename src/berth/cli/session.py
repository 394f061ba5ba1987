"""What a command needs from its surroundings: the engine it talks to, and commands over many names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

import click

from berth.client.engine import Engine, connect
from berth.errors import BerthError, InvalidArgument


def engine() -> Engine:
    """The engine named by --host, DOCKER_HOST, or the default one, which is started if it does not run."""
    root = click.get_current_context().find_root()
    given = root.obj or {}
    return connect(given.get("host"), tls=given.get("tls"))


def each(names: Iterable[str], action: Callable[[str], object]) -> None:
    """Do it for every name, and print the text it returns, else the name; go on after an error, and end with code 1 then."""
    failed = False
    for name in names:
        try:
            answer = action(name)
        except BerthError as error:
            print(f"berth: {error.message}", file=sys.stderr)
            failed = True
        else:
            click.echo(answer if isinstance(answer, str) else name)
    if failed:
        sys.exit(1)


def filters(entries: Iterable[str]) -> dict[str, list[str]]:
    """`--filter key=value` as the API's map."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals:
            raise click.UsageError(f"invalid argument {entry!r} for --filter: give key=value")
        found.setdefault(key.strip().lower(), []).append(value.strip())
    return found


def save_stream(pieces: Iterable[bytes], path: str | None) -> None:
    """Write a stream to a file, which is complete or not there, or to standard output."""
    if path is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    part = f"{path}.part"
    try:
        with open(part, "wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(part, path)
    except OSError as error:
        raise InvalidArgument(f"cannot write {path}: {os.strerror(error.errno or 0).lower()}") from error
    finally:
        if os.path.exists(part):
            os.unlink(part)
