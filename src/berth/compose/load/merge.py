"""Fifth phase: several files, and a service with the one that it extends. Works on long forms only.

Mappings merge by key, texts and numbers are replaced, lists are appended, with these exceptions: command lines are
replaced; entries of some lists have an identity (a mount its target, a port what it publishes) and replace the earlier
entry of the same identity in its place; lists of texts keep one of each. `!reset` takes away, `!override` replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from berth.compose.load.canonical import TEXT_LISTS
from berth.compose.problem import Path

Identity = Callable[[Any], Any]

# Paths below a service, or below the file for the rest. A star stands for any name.
_REPLACED: frozenset[tuple[str, ...]] = frozenset(
    {
        ("services", "*", "command"),
        ("services", "*", "entrypoint"),
        ("services", "*", "healthcheck", "test"),
        ("networks", "*", "ipam", "config"),
    }
)
_IDENTITIES: Mapping[tuple[str, ...], Identity] = {
    **{("services", "*", name): (lambda item: item) for name in TEXT_LISTS},
    ("services", "*", "ports"): lambda item: (item.get("host_ip"), item["target"], item.get("published"), item.get("protocol")),
    ("services", "*", "volumes"): lambda item: item["target"],
    ("services", "*", "devices"): lambda item: item["target"],
    ("services", "*", "env_file"): lambda item: item["path"],
    ("services", "*", "secrets"): lambda item: item.get("target") or item["source"],
    ("services", "*", "configs"): lambda item: item.get("target") or item["source"],
    ("services", "*", "build", "tags"): lambda item: item,
    ("services", "*", "build", "cache_from"): lambda item: item,
    ("services", "*", "networks", "*", "aliases"): lambda item: item,
}


def merge(
    base: Mapping[str, Any],
    over: Mapping[str, Any],
    *,
    path: Path = (),
    resets: Set[Path] = frozenset(),
    overrides: Set[Path] = frozenset(),
) -> dict[str, Any]:
    """`base` with `over` on top. `resets` and `overrides` are paths of `over`'s file."""
    merged = {key: value for key, value in base.items() if (*path, key) not in resets}
    for key, value in over.items():
        here = (*path, key)
        if key not in merged or here in overrides:
            merged[key] = _without_resets(value, here, resets)
        else:
            merged[key] = _one(merged[key], value, here, resets, overrides)
    return merged


def _one(old: Any, new: Any, path: Path, resets: Set[Path], overrides: Set[Path]) -> Any:
    pattern = _pattern(path)
    if pattern in _REPLACED:
        return new
    if pattern == ("services", "*", "logging") and old.get("driver") != new.get("driver", old.get("driver")):
        return new
    if isinstance(old, dict) and isinstance(new, dict):
        return merge(old, new, path=path, resets=resets, overrides=overrides)
    if isinstance(old, list) and isinstance(new, list):
        identity = _IDENTITIES.get(pattern)
        return [*old, *new] if identity is None else _by_identity([*old, *new], identity)
    return new


def _by_identity(items: list[Any], identity: Identity) -> list[Any]:
    found: dict[Any, Any] = {}
    for item in items:
        found[identity(item)] = item
    return list(found.values())


def _without_resets(value: Any, path: Path, resets: Set[Path]) -> Any:
    if isinstance(value, dict):
        return {key: _without_resets(item, (*path, key), resets) for key, item in value.items() if (*path, key) not in resets}
    return value


def _pattern(path: Path) -> tuple[str, ...]:
    """The path with names of services, networks and so on as stars."""
    return tuple(
        "*" if index == 1 or (index == 4 and path[2] == "networks") else str(part) for index, part in enumerate(path[:6])
    )
