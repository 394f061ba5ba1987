"""ps and images."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from berth.cli.command import declare
from berth.cli.session import engine, filters
from berth.cli.table import Fields, print_rows
from berth.model.exposure import of_address, widest
from berth.model.identifier import short_id
from berth.model.units import human_duration, human_size
from berth.wire.container import ContainerSummary
from berth.wire.image import ImageSummary
from berth.wire.network import PortSummary

PS_COLUMNS = [
    ("ID", "CONTAINER ID"), ("Image", "IMAGE"), ("Command", "COMMAND"), ("RunningFor", "CREATED"), ("Status", "STATUS"),
    ("Ports", "PORTS"), ("Names", "NAMES"),
]  # fmt: skip
IMAGE_COLUMNS = [("Repository", "REPOSITORY"), ("Tag", "TAG"), ("ID", "IMAGE ID"), ("CreatedSince", "CREATED"), ("Size", "SIZE")]
TREE_COLUMNS = [("Image", "IMAGE"), ("ID", "ID"), ("Disk", "DISK USAGE"), ("Content", "CONTENT SIZE"), ("Used", "USED")]
_COMMAND_WIDTH = 20


def local_time(seconds: float) -> str:
    """2026-01-31 12:00:00 +0100 CET."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z")


def _ports(ports: list[PortSummary] | None) -> str:
    """Ranges that run in step are written as one: 0.0.0.0:80-81->80-81/tcp."""
    groups: list[list[int]] = []
    names: list[tuple[str, str]] = []
    for port in sorted(ports or [], key=lambda p: (p.ip or "", p.type or "", p.private_port or 0)):
        private, public = port.private_port or 0, port.public_port or 0
        name = (port.ip or "", port.type or "tcp")
        last = groups[-1] if groups and names[-1] == name else None
        if last and last[1] + 1 == private and (public == 0) == (last[2] == 0) and (not public or last[3] + 1 == public):
            last[1], last[3] = private, public
        else:
            groups.append([private, private, public, public])
            names.append(name)
    return ", ".join(_port_text(name, group) for name, group in zip(names, groups, strict=True))


def _port_text(name: tuple[str, str], group: list[int]) -> str:
    address, kind = name
    inside = str(group[0]) if group[0] == group[1] else f"{group[0]}-{group[1]}"
    if not group[2]:
        return f"{inside}/{kind}"
    outside = str(group[2]) if group[2] == group[3] else f"{group[2]}-{group[3]}"
    return f"{f'[{address}]' if ':' in address else address}:{outside}->{inside}/{kind}"


def container_row(item: ContainerSummary, full: bool, exposure: bool = False) -> Fields:
    """Docker's placeholders of `ps --format`; with `exposure` one of our own."""
    command = item.command or ""
    if not full and len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 1] + "…"
    image = item.image or ""
    if not full and image.startswith("sha256:"):
        image = short_id(image)
    labels = item.labels or {}
    size = human_size(item.size_rw or 0, 3)
    if item.size_root_fs:
        size += f" (virtual {human_size(item.size_root_fs, 3)})"
    created = item.created or 0
    ours = {"Exposure": str(widest([of_address(p.ip or "") for p in item.ports or [] if p.public_port]) or "")}
    return {
        "ID": item.id or "" if full else short_id(item.id or ""),
        "Image": image,
        "Command": f'"{command}"',
        "CreatedAt": local_time(created),
        "RunningFor": human_duration(time.time() - created) + " ago",
        "Status": item.status or "",
        "State": item.state or "",
        "Ports": _ports(item.ports),
        "Names": ",".join(name.removeprefix("/") for name in item.names or [] if name.count("/") == 1),
        "Labels": ",".join(f"{k}={v}" for k, v in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "Mounts": ",".join(m.name or m.source or "" for m in item.mounts or []),
        "LocalVolumes": str(sum(1 for m in item.mounts or [] if m.type == "volume")),
        "Networks": ",".join((item.network_settings.networks or {}) if item.network_settings else {}),
        "Platform": None,
        "Size": size,
        **(ours if exposure else {}),
    }


@declare("ps")
@click.option("-a", "--all", "every", is_flag=True, help="Show all containers (default shows just running)")
@click.option("--exposure", is_flag=True, help="Display whom published ports are open to: local (this host), lan, any")
@click.option("-f", "--filter", "filter_", multiple=True, help="Filter output based on conditions provided")
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("-n", "--last", type=int, default=-1, help="Show n last created containers (includes all states)")
@click.option("-l", "--latest", is_flag=True, help="Show the latest created container (includes all states)")
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only display container IDs")
@click.option("-s", "--size", is_flag=True, help="Display total file sizes")
def ps(
    every: bool,
    filter_: tuple[str, ...],
    form: str | None,
    last: int,
    latest: bool,
    no_trunc: bool,
    quiet: bool,
    size: bool,
    exposure: bool,
) -> None:
    """List containers."""
    limit = 1 if latest else last if last > 0 else None
    # As Docker: a template that names the size has it counted.
    size = size or (form is not None and ("Size}}" in form or form == "{{json .}}"))
    items = engine().containers.list(all=every or limit is not None, filters=filters(filter_), limit=limit, size=size)
    columns = PS_COLUMNS + ([("Size", "SIZE")] if size else []) + ([("Exposure", "EXPOSURE")] if exposure else [])
    # Whole rows as JSON are Docker's, unless one asks for more.
    exposure = exposure or (form is not None and ".Exposure" in form)
    print_rows([container_row(item, no_trunc, exposure) for item in items], columns, form=form, quiet="ID" if quiet else "")


def image_rows(item: ImageSummary, full: bool, digests: bool) -> list[Fields]:
    """One row for each tag; one with <none> when there is none."""
    created = item.created or 0
    by_repository = dict(d.split("@", 1) for d in item.repo_digests or [])
    names: list[tuple[str, str, str]] = []
    for tag in item.repo_tags or []:
        repository, _, name = tag.rpartition(":")
        names.append((repository, name, by_repository.get(repository, "<none>") if digests else "<none>"))
    if not names and digests:
        names = [(repository, "<none>", digest) for repository, digest in by_repository.items()]
    rest: dict[str, Any] = {
        "ID": item.id or "" if full else short_id(item.id or ""),
        "CreatedSince": human_duration(time.time() - created) + " ago" if created > 0 else "N/A",
        "CreatedAt": local_time(created),
        "Size": human_size(item.size or 0, 3),
        "Containers": str(item.containers) if (item.containers or -1) >= 0 else "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "VirtualSize": human_size(item.size or 0),
    }
    found = names or [("<none>", "<none>", "<none>")]
    return [{"Repository": repository, "Tag": tag, "Digest": digest, **rest} for repository, tag, digest in found]


def tree_rows(item: ImageSummary, full: bool) -> list[Fields]:
    """A row for the image, and below one for each of its platforms, here or not."""
    platforms = [one for one in item.manifests or [] if one.get("Kind") == "image"]
    content = sum(one["Size"]["Content"] for one in platforms)
    used = any(one["ImageData"]["Containers"] for one in platforms)
    name = ", ".join(item.repo_tags or []) or "<untagged>"
    return [_tree_row(name, item.id or "", item.size or 0, content, used, full)] + [
        _platform_row("└─" if one is platforms[-1] else "├─", one, full) for one in platforms
    ]


def _platform_row(branch: str, manifest: dict[str, Any], full: bool) -> Fields:
    data = manifest["ImageData"]
    platform = "/".join(filter(None, (data["Platform"].get(part) for part in ("os", "architecture", "variant"))))
    row = _tree_row(
        f"{branch} {platform}",
        manifest["ID"],
        manifest["Size"]["Total"],
        manifest["Size"]["Content"],
        bool(data["Containers"]),
        full,
    )
    return row if manifest["Available"] else {**row, "Disk": "not here", "Content": ""}


def _tree_row(name: str, digest: str, disk: int, content: int, used: bool, full: bool) -> Fields:
    identifier = digest if full else short_id(digest)
    return {
        "Image": name,
        "ID": identifier,
        "Disk": human_size(disk, 3),
        "Content": human_size(content, 3),
        "Used": "in use" if used else "",
    }


@declare("images")
@click.argument("reference", required=False, metavar="[REPOSITORY[:TAG]]")
@click.option("-a", "--all", "every", is_flag=True, help="Show all images (default hides intermediate images)")
@click.option("--digests", is_flag=True, help="Show digests")
@click.option("-f", "--filter", "filter_", multiple=True, help="Filter output based on conditions provided")
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only show image IDs")
@click.option("--tree", is_flag=True, help="List the platforms of each image, and whether they are here")
def images(
    reference: str | None,
    every: bool,
    digests: bool,
    filter_: tuple[str, ...],
    form: str | None,
    no_trunc: bool,
    quiet: bool,
    tree: bool,
) -> None:
    """List images."""
    wanted = filters(filter_)
    if reference:
        wanted.setdefault("reference", []).append(reference)
    if tree:
        if digests or form or quiet:
            raise click.UsageError("--tree shows a table of its own: leave out --digests, --format and --quiet")
        items = engine().images.list(all=every, filters=wanted, manifests=True)
        print_rows([row for item in items for row in tree_rows(item, no_trunc)], TREE_COLUMNS)
        return
    items = engine().images.list(all=every, filters=wanted, digests=digests)
    rows = [row for item in items for row in image_rows(item, no_trunc, digests or "{{.Digest}}" in (form or ""))]
    columns = [*IMAGE_COLUMNS[:2], *([("Digest", "DIGEST")] if digests else []), *IMAGE_COLUMNS[2:]]
    print_rows(rows, columns, form=form, quiet="ID" if quiet else "")


COMMANDS = {"ps": ps, "container ls": ps, "images": images, "image ls": images}
