"""build."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from berth.cli import progress
from berth.cli.command import declare, ignore, refuse
from berth.cli.commands.archive import pieces
from berth.cli.run.request import memory_swap, pairs, parse_ulimit
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
    if not os.path.isdir(context):
        raise InvalidArgument(f'unable to prepare context: path "{context}" not found')
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


@declare("build")
@click.option("--add-host", multiple=True, help="Add a custom host-to-IP mapping (host:ip)")
@click.option("--build-arg", multiple=True, help="Set build-time variables")
@refuse("--allow", "builds get no entitlements")
@refuse("--attest", "attestations are not made")
@refuse("--build-context", "there is one context; COPY --from takes images and stages")
@refuse("--cache-to", "the cache stays in the engine, and an image carries its own for --cache-from")
@refuse("--cgroup-parent", "RUN steps are limited by --memory and --cpu-*")
@refuse("--isolation", "it is for Windows")
@refuse("--metadata-file", "use --iidfile for the image's id")
@refuse("--output -o", "the result is an image of the engine; berth save and berth export write files")
@refuse("--provenance", "attestations are not made")
@refuse("--sbom", "attestations are not made")
@refuse("--secret", "the engine's build API has no way to send secrets")
@refuse("--security-opt", "RUN steps have the default profile")
@refuse("--ssh", "the engine's build API has no way to forward an agent")
@refuse("--squash", "layers are kept; use a multi-stage build", switch=True)
@refuse("--push", "use berth push after the build", switch=True)
@ignore("--load")
@ignore("--compress")
@ignore("--disable-content-trust")
@click.option("--cache-from", multiple=True, help="Images to consider as cache sources")
@click.option("--cpu-period", type=int, default=0, help="Limit the CPU CFS (Completely Fair Scheduler) period")
@click.option("--cpu-quota", type=int, default=0, help="Limit the CPU CFS (Completely Fair Scheduler) quota")
@click.option("-c", "--cpu-shares", type=int, default=0, help="CPU shares (relative weight)")
@click.option("--cpuset-cpus", help="CPUs in which to allow execution (0-3, 0,1)")
@click.option("--cpuset-mems", help="MEMs in which to allow execution (0-3, 0,1)")
@click.option("-f", "--file", "file", help="Name of the Dockerfile (default: PATH/Dockerfile)")
@click.option("--force-rm", is_flag=True, help="Always remove intermediate containers")
@click.option("--iidfile", help="Write the image ID to the file")
@click.option("--label", multiple=True, help="Set metadata for an image")
@click.option("-m", "--memory", help="Memory limit")
@click.option("--memory-swap", help="Swap limit equal to memory plus swap: -1 to enable unlimited swap")
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
@click.option("--ulimit", multiple=True, help="Ulimit options")
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
        memory_swap=memory_swap(options["memory_swap"]) or 0,
        cpu_shares=options["cpu_shares"],
        cpu_period=options["cpu_period"],
        cpu_quota=options["cpu_quota"],
        cpuset_cpus=options["cpuset_cpus"] or "",
        cpuset_mems=options["cpuset_mems"] or "",
        ulimits=tuple(msgspec.to_builtins(parse_ulimit(text)) for text in options["ulimit"]),
        extra_hosts=options["add_host"],
        cache_from=options["cache_from"],
        platform=options["platform"] or "",
        remote=remote,
    )
    if not remote:
        context = progress.Meter("Sending the build context", quiet=options["quiet"]).over(context)
    aux = progress.show(engine().builds.build(context, wanted))
    if options["iidfile"]:
        with open(options["iidfile"], "w", encoding="ascii") as file:
            file.write(next((a["ID"] for a in reversed(aux) if "ID" in a), ""))


COMMANDS = {"build": build}
