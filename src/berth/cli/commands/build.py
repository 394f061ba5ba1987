"""build."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from berth.cli import progress
from berth.cli.commands.archive import pieces
from berth.cli.run.request import pairs
from berth.cli.session import engine
from berth.client.build import BuildOptions, pack_context
from berth.errors import InvalidArgument
from berth.model.units import parse_size


def _arguments(entries: tuple[str, ...]) -> dict[str, str | None]:
    """NAME=value, or NAME with the value of the caller's environment."""
    found: dict[str, str | None] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        found[name] = value if equals else os.environ.get(name)
    return found


def _dockerfile(context: str, file: str | None) -> tuple[str, bytes | None]:
    """The Dockerfile's path inside the context, or a name and its content when it is outside or on standard input."""
    if file == "-":
        return "Dockerfile", sys.stdin.buffer.read()
    path = os.path.join(context, "Dockerfile") if file is None else file
    if not os.path.exists(path):
        raise InvalidArgument(
            f"unable to evaluate symlinks in Dockerfile path: lstat {os.path.abspath(path)}: no such file or directory"
        )
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(context))
    if relative.startswith("../"):
        with open(path, "rb") as content:
            return ".dockerfile", content.read()
    return relative, None


@click.command("build")
@click.option("--add-host", multiple=True, help="Add a custom host-to-IP mapping (host:ip)")
@click.option("--build-arg", multiple=True, help="Set build-time variables")
@click.option("--cache-from", multiple=True, help="Images to consider as cache sources")
@click.option("-f", "--file", "file", help="Name of the Dockerfile (default: PATH/Dockerfile)")
@click.option("--force-rm", is_flag=True, help="Always remove intermediate containers")
@click.option("--iidfile", help="Write the image ID to the file")
@click.option("--label", multiple=True, help="Set metadata for an image")
@click.option("-m", "--memory", help="Memory limit")
@click.option("--network", help="Set the networking mode for the RUN instructions during build")
@click.option("--no-cache", is_flag=True, help="Do not use cache when building the image")
@click.option("--platform", help="Set platform if server is multi-platform capable")
@click.option("--progress", "style", default="plain", hidden=True)
@click.option("--pull", is_flag=True, help="Always attempt to pull a newer version of the image")
@click.option("-q", "--quiet", is_flag=True, help="Suppress the build output and print image ID on success")
@click.option("--rm/--no-rm", default=True, help="Remove intermediate containers after a successful build")
@click.option("--shm-size", help="Size of /dev/shm")
@click.option("-t", "--tag", multiple=True, help="Name and optionally a tag (format: name:tag)")
@click.option("--target", help="Set the target build stage to build")
@click.argument("path", metavar="PATH | URL | -")
def build(path: str, **options: Any) -> None:
    """Build an image from a Dockerfile."""
    dockerfile, inline, remote = "Dockerfile", None, ""
    if path == "-":
        context = pieces(sys.stdin.buffer)
        dockerfile = options["file"] or "Dockerfile"
    elif path.startswith(("http://", "https://", "git://", "git@")):
        context, remote = iter(()), path
    else:
        dockerfile, inline = _dockerfile(path, options["file"])
        context = pack_context(path, dockerfile, inline=inline)
    wanted = BuildOptions(
        tags=options["tag"],
        dockerfile=dockerfile,
        build_args=_arguments(options["build_arg"]),
        labels=pairs(options["label"]),
        target=options["target"] or "",
        network_mode=options["network"] or "",
        no_cache=options["no_cache"],
        pull=options["pull"],
        quiet=options["quiet"],
        remove=options["rm"],
        force_remove=options["force_rm"],
        shm_size=parse_size(options["shm_size"]) if options["shm_size"] else 0,
        memory=parse_size(options["memory"]) if options["memory"] else 0,
        extra_hosts=options["add_host"],
        cache_from=options["cache_from"],
        platform=options["platform"] or "",
        remote=remote,
    )
    aux = progress.show(engine().builds.build(context, wanted))
    if options["iidfile"]:
        with open(options["iidfile"], "w", encoding="ascii") as file:
            file.write(next((a["ID"] for a in reversed(aux) if "ID" in a), ""))


COMMANDS = {"build": build}
