"""Relative paths of a file as absolute ones: they are relative to the project's directory, or to an included file's."""

from __future__ import annotations

import os
from typing import Any

_REMOTE = (
    "http://",
    "https://",
    "git://",
    "git@",
    "ssh://",
    "github.com/",
    "docker-image://",
    "oci-layout://",
    "service:",
    "target:",
)


def absolute(path: str, folder: str) -> str:
    """`path` from `folder`, with ~ expanded."""
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path)))


def is_remote(context: str) -> bool:
    """Whether a build context is not a directory of this machine."""
    return context.startswith(_REMOTE)


def resolve(content: dict[str, Any], folder: str) -> dict[str, Any]:
    """The canonical content of one file with absolute paths."""
    resolved = dict(content)
    resolved["services"] = {name: resolve_service(service, folder) for name, service in content.get("services", {}).items()}
    for kind in ("secrets", "configs"):
        resolved[kind] = {
            name: {**item, "file": absolute(item["file"], folder)} if item.get("file") else item
            for name, item in content.get(kind, {}).items()
        }
    resolved["volumes"] = {name: _volume(item, folder) for name, item in content.get("volumes", {}).items()}
    return resolved


def resolve_service(service: dict[str, Any], folder: str) -> dict[str, Any]:
    """One service with absolute paths."""
    resolved = dict(service)
    if "build" in resolved:
        resolved["build"] = _build(resolved["build"], folder)
    if "volumes" in resolved:
        resolved["volumes"] = [
            {**mount, "source": absolute(mount["source"], folder)} if mount["type"] == "bind" else mount
            for mount in resolved["volumes"]
        ]
    if "env_file" in resolved:
        resolved["env_file"] = [{**entry, "path": absolute(entry["path"], folder)} for entry in resolved["env_file"]]
    if "label_file" in resolved:
        resolved["label_file"] = [absolute(entry, folder) for entry in resolved["label_file"]]
    if resolved.get("extends", {}).get("file"):
        resolved["extends"] = {**resolved["extends"], "file": absolute(resolved["extends"]["file"], folder)}
    return resolved


def _build(build: dict[str, Any], folder: str) -> dict[str, Any]:
    resolved = dict(build)
    context = str(resolved.get("context") or ".")
    resolved["context"] = context if is_remote(context) else absolute(context, folder)
    if "additional_contexts" in resolved:
        resolved["additional_contexts"] = {
            name: value if is_remote(value) else absolute(value, folder)
            for name, value in resolved["additional_contexts"].items()
        }
    return resolved


def _volume(item: dict[str, Any], folder: str) -> dict[str, Any]:
    # A local volume that is a bind in disguise: its device may be relative.
    options = item.get("driver_opts") or {}
    device = options.get("device", "")
    if item.get("driver", "local") == "local" and "bind" in options.get("o", "").split(",") and device.startswith((".", "~")):
        return {**item, "driver_opts": {**options, "device": absolute(device, folder)}}
    return item
