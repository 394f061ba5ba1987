"""`--mount`, `--tmpfs` and `--volume` as the API wants them."""

from __future__ import annotations

import csv
import os

from berth.errors import InvalidArgument
from berth.model.units import parse_size
from berth.wire.mount import (
    Mount,
    MountBindOptions,
    MountImageOptions,
    MountTmpfsOptions,
    MountVolumeOptions,
    MountVolumeOptionsDriverConfig,
)

_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def parse_mount(text: str) -> Mount:
    """`type=bind,source=/a,target=/b,readonly`: Docker's comma separated list."""
    fields: dict[str, str] = {}
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    for part in next(csv.reader([text])):
        key, equals, value = part.strip().partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if key in ("readonly", "volume-nocopy", "bind-nonrecursive", "bind-create-src") and not equals:
            value = "true"
        elif not equals:
            raise InvalidArgument(f"invalid field '{part}' must be a key=value pair")
        if key in ("volume-label", "volume-opt"):
            name, _, content = value.partition("=")
            (labels if key == "volume-label" else options)[name] = content
        else:
            fields[key] = value
    return _mount(fields, labels, options)


def _mount(fields: dict[str, str], labels: dict[str, str], options: dict[str, str]) -> Mount:
    kind = fields.pop("type", "volume")
    target = fields.pop("target", "")
    if not target:
        raise InvalidArgument("invalid argument for --mount: target is required")
    source = fields.pop("source", "")
    if kind == "bind" and source.startswith("."):
        source = os.path.abspath(source)
    mount = Mount(type=kind, target=target, source=source or None, read_only=_flag(fields.pop("readonly", "false")) or None)
    mount.consistency = fields.pop("consistency", None)
    if kind == "bind":
        mount.bind_options = MountBindOptions(
            propagation=fields.pop("bind-propagation", None),
            non_recursive=_flag(fields.pop("bind-nonrecursive", "false")) or None,
            create_mountpoint=_flag(fields.pop("bind-create-src", "false")) or None,
        )
        _recursive(fields.pop("bind-recursive", ""), mount.bind_options)
    elif kind == "tmpfs":
        size, mode = fields.pop("tmpfs-size", None), fields.pop("tmpfs-mode", None)
        mount.tmpfs_options = MountTmpfsOptions(
            size_bytes=parse_size(size) if size else None, mode=int(mode, 8) if mode else None
        )
    elif kind == "image":
        subpath = fields.pop("image-subpath", None)
        mount.image_options = MountImageOptions(subpath=subpath) if subpath else None
    elif kind == "volume":
        mount.volume_options = MountVolumeOptions(
            no_copy=_flag(fields.pop("volume-nocopy", "false")) or None, labels=labels or None
        )
        mount.volume_options.subpath = fields.pop("volume-subpath", None)
        _driver(mount.volume_options, fields.pop("volume-driver", ""), options)
    if fields:
        raise InvalidArgument(f"unexpected key '{next(iter(fields))}' for a mount of type {kind}")
    return mount


def _driver(volume: MountVolumeOptions, driver: str, options: dict[str, str]) -> None:
    if driver or options:
        volume.driver_config = MountVolumeOptionsDriverConfig(name=driver or "local", options=options or None)


def _recursive(value: str, bind: MountBindOptions) -> None:
    match value:
        case "" | "enabled":
            return
        case "disabled":
            bind.non_recursive = True
        case "writable":
            bind.read_only_non_recursive = True
        case "readonly":
            bind.read_only_force_recursive = True
        case _:
            raise InvalidArgument(f"invalid value for bind-recursive: {value} (use enabled, disabled, writable or readonly)")


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise InvalidArgument(f"invalid value for a yes-or-no option: {text}")
    return text.lower() in ("true", "1")


def parse_tmpfs(text: str) -> tuple[str, str]:
    """`/run:size=64m` as (path, options)."""
    path, _, options = text.partition(":")
    return path, options


def absolute_bind(text: str) -> str:
    """A `--volume` whose source is a relative path (./data) gets an absolute one; names and absolute paths stay."""
    source, colon, rest = text.partition(":")
    if colon and (source in (".", "..", "~") or source.startswith(("./", "../", "~/"))):
        return os.path.abspath(os.path.expanduser(source)) + ":" + rest
    return text
