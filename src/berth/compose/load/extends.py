"""`extends`: a service on top of another one, of the same file or of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from berth.compose.load.merge import merge
from berth.compose.load.paths import resolve_service
from berth.compose.problem import ComposeInvalid, Mark, Path

Services = Mapping[str, dict[str, Any]]
LoadFile = Callable[[str], tuple[Services, str]]


def resolve_extends(
    services: Services,
    file: str,
    load_file: LoadFile,
    mark: Callable[[str], Mark | None],
    resets: Set[Path] = frozenset(),
    overrides: Set[Path] = frozenset(),
) -> dict[str, dict[str, Any]]:
    """All services of a file with what they extend merged below them. `load_file` gives another file's canonical services
    and the directory that its paths start at."""
    done: dict[str, dict[str, Any]] = {}

    def one(name: str, chain: tuple[str, ...]) -> dict[str, Any]:
        if name in done:
            return done[name]
        if name in chain:
            raise ComposeInvalid(f"circular reference with extends: {' -> '.join([*chain, name])}", mark(name))
        service = dict(services[name])
        wanted = service.pop("extends", None)
        if wanted is not None:
            base = _base(name, wanted, (*chain, name))
            path: Path = ("services", name)
            service = merge(base, service, path=path, resets=resets, overrides=overrides)
        done[name] = service
        return service

    def _base(name: str, wanted: dict[str, Any], chain: tuple[str, ...]) -> dict[str, Any]:
        target, other = str(wanted["service"]), wanted.get("file")
        if other is None:
            if target not in services:
                raise ComposeInvalid(f'cannot extend service "{target}" in {file}: service "{target}" not found', mark(name))
            return one(target, chain)
        found, folder = load_file(other)
        if target not in found:
            raise ComposeInvalid(f'cannot extend service "{target}" in {other}: service "{target}" not found', mark(name))
        return resolve_service(found[target], folder)

    return {name: one(name, ()) for name in services}
