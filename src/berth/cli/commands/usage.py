"""system df -v: every image, container, volume and build record with its size."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from berth.cli.table import print_rows
from berth.model.units import human_duration, human_size

Documents = list[dict[str, Any]]
IMAGES = [
    ("Repository", "REPOSITORY"), ("Tag", "TAG"), ("ID", "IMAGE ID"), ("CreatedSince", "CREATED"), ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"), ("UniqueSize", "UNIQUE SIZE"), ("Containers", "CONTAINERS"),
]  # fmt: skip
CONTAINERS = [
    ("ID", "CONTAINER ID"), ("Image", "IMAGE"), ("Command", "COMMAND"), ("LocalVolumes", "LOCAL VOLUMES"), ("Size", "SIZE"),
    ("CreatedSince", "CREATED"), ("Status", "STATUS"), ("Names", "NAMES"),
]  # fmt: skip
VOLUMES = [("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")]
CACHE = [
    ("ID", "CACHE ID"), ("Type", "CACHE TYPE"), ("Size", "SIZE"), ("CreatedSince", "CREATED"), ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"), ("Shared", "SHARED"),
]  # fmt: skip


def _since(seconds: float) -> str:
    return human_duration(time.time() - seconds) + " ago"


def _ago(text: str | None) -> str:
    """How long ago a time of the API was."""
    return _since(datetime.fromisoformat(text).timestamp()) if text else ""


def _image(image: dict[str, Any]) -> dict[str, str]:
    repository, _, tag = ((image.get("RepoTags") or ["<none>:<none>"])[0]).rpartition(":")
    shared = max(0, int(image.get("SharedSize") or 0))
    return {
        "Repository": repository,
        "Tag": tag,
        "ID": image["Id"].partition(":")[2][:12],
        "CreatedSince": _since(image.get("Created") or 0),
        "Size": human_size(image["Size"], 3),
        "SharedSize": human_size(shared),
        "UniqueSize": human_size(image["Size"] - shared),
        "Containers": str(max(0, int(image.get("Containers") or 0))),
    }


def _container(container: dict[str, Any]) -> dict[str, str]:
    command = container.get("Command") or ""
    return {
        "ID": container["Id"][:12],
        "Image": container.get("Image") or "",
        "Command": f'"{command if len(command) <= 20 else command[:19] + "…"}"',
        "LocalVolumes": str(sum(m.get("Type") == "volume" for m in container.get("Mounts") or [])),
        "Size": human_size(int(container.get("SizeRw") or 0), 3),
        "CreatedSince": _since(container.get("Created") or 0),
        "Status": container.get("Status") or "",
        "Names": ",".join(name.removeprefix("/") for name in container.get("Names") or []),
    }


def _volume(volume: dict[str, Any]) -> dict[str, str]:
    usage = volume.get("UsageData") or {}
    size = int(usage.get("Size", 0))
    return {"Name": volume["Name"], "Links": str(max(0, int(usage.get("RefCount", 0)))), "Size": human_size(max(0, size), 3)}


def _record(record: dict[str, Any]) -> dict[str, str]:
    return {
        "ID": record["ID"].partition(":")[2][:12] or record["ID"][:12],
        "Type": record.get("Type") or "",
        "Size": human_size(int(record.get("Size") or 0), 3),
        "CreatedSince": _ago(record.get("CreatedAt")),
        "LastUsedSince": _ago(record.get("LastUsedAt")),
        "UsageCount": str(record.get("UsageCount") or 0),
        "Shared": str(bool(record.get("Shared"))).lower(),
    }


AREAS = [("Name", "AREA"), ("Size", "ON DISK"), ("Hint", "TO FREE IT")]


def show_root(whole: dict[str, Any]) -> None:
    """Print where all bytes of the data root are."""
    click.echo(f"\nOn disk in {whole['Root']}: {human_size(whole['Size'], 3)}\n")
    print_rows([{**area, "Size": human_size(area["Size"], 3)} for area in whole["Areas"] if area["Size"]], AREAS)


def show_details(images: Documents, containers: Documents, volumes: Documents, cache: Documents) -> None:
    """Print the four tables."""
    click.echo("Images space usage:\n")
    print_rows([_image(i) for i in images], IMAGES)
    click.echo("\nContainers space usage:\n")
    print_rows([_container(c) for c in containers], CONTAINERS)
    click.echo("\nLocal Volumes space usage:\n")
    print_rows([_volume(v) for v in volumes], VOLUMES)
    cached = sum(int(c.get("Size") or 0) for c in cache if not c.get("Shared"))
    click.echo(f"\nBuild cache usage: {human_size(cached)}\n")
    print_rows([_record(c) for c in cache], CACHE)
