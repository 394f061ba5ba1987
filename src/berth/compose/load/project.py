"""The phases in order: find files, read, interpolate, validate, long forms, extends, paths, merge, include, resolve, check."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from berth.compose.load.canonical import canonical
from berth.compose.load.consistency import check_consistency
from berth.compose.load.document import Document, find_mark, parse
from berth.compose.load.environment import project_environment, read_env_file
from berth.compose.load.extends import Services, resolve_extends
from berth.compose.load.interpolate import interpolate
from berth.compose.load.merge import merge
from berth.compose.load.paths import absolute, resolve
from berth.compose.load.profiles import active_services
from berth.compose.load.schema import validate
from berth.compose.load.source import LoadOptions, find_files, project_directory, project_name
from berth.compose.load.support import check_support
from berth.compose.model import Project, Service
from berth.compose.problem import ComposeInvalid, Mark, Path, Warn


@dataclass
class _Loading:
    """What the phases of one project share."""

    variables: Mapping[str, str]
    warn: Warn
    marks: dict[Path, Mark] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)
    including: tuple[str, ...] = ()

    def unset(self, name: str) -> None:
        if name not in self.warned:
            self.warned.add(name)
            self.warn(f'The "{name}" variable is not set. Defaulting to a blank string.')


def load(options: LoadOptions, warn: Warn, *, services: tuple[str, ...] = (), resolve_environment: bool = True) -> Project:
    """Load the project. Services that are named are active whatever their profile. Raises ComposeInvalid or NotFound."""
    shell = dict(options.environ)
    start = os.path.normpath(os.path.join(options.cwd, options.project_directory or ""))
    first_env = tuple(absolute(name, options.cwd) for name in options.env_files) or (os.path.join(start, ".env"),)
    variables = project_environment(shell, first_env, required=bool(options.env_files))
    files = find_files(options, variables)
    folder = project_directory(options, files)
    if not options.env_files and folder != start:
        # The project lies elsewhere: its own environment file counts.
        variables = project_environment(shell, (os.path.join(folder, ".env"),), required=False)
    given_name = options.project_name or variables.get("COMPOSE_PROJECT_NAME")
    known = {**variables, "COMPOSE_PROJECT_NAME": given_name or project_name(options, variables, _peek_name(files), folder)}
    loading = _Loading(known, warn)
    content = _load_files(files, folder, loading)
    name = project_name(options, variables, content.get("name"), folder)
    profiles = options.profiles or tuple(p for p in variables.get("COMPOSE_PROFILES", "").split(",") if p)
    project = _build(name, content, loading, folder, files, profiles, services, resolve_environment)
    check_consistency(project)
    check_support(project, warn)
    return project


def _read(file: str) -> Document:
    if file == "-":
        return parse(sys.stdin.read(), "(stdin)")
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return parse(stream.read(), file)
    except (OSError, UnicodeDecodeError) as error:
        raise ComposeInvalid(f"cannot be read: {error}", Mark(file, 1)) from error


def _peek_name(files: tuple[str, ...]) -> str | None:
    """The `name:` of the last file that has one, for ${COMPOSE_PROJECT_NAME}; standard input can be read only once."""
    found = None
    for file in files:
        if file != "-":
            name = _read(file).data.get("name")
            found = name if isinstance(name, str) and "$" not in name else found
    return found


def _load_files(files: tuple[str, ...], folder: str, loading: _Loading) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for file in files:
        document, own = _load_file(file, folder, loading)
        content = merge(content, own, resets=document.resets, overrides=document.overrides)
    return _include(content, folder, loading)


def _load_file(file: str, folder: str, loading: _Loading) -> tuple[Document, dict[str, Any]]:
    document = _read(file)
    if document.data.get("version") is not None and document.file not in loading.warned:
        loading.warned.add(document.file)
        loading.warn(f"{document.mark(('version',))}: the attribute `version` is obsolete, it will be ignored, please remove it")
    document = interpolate(document, loading.variables, loading.unset)
    validate(document)
    own = resolve(canonical(document), folder)
    loading.marks.update(document.marks)

    def load_other(path: str) -> tuple[Services, str]:
        other_folder = os.path.dirname(path)
        _, other = _load_file(path, other_folder, loading)
        return other["services"], other_folder

    own["services"] = resolve_extends(
        own["services"],
        document.file,
        load_other,
        lambda name: document.mark(("services", name, "extends")),
        document.resets,
        document.overrides,
    )
    return document, own


def _include(content: dict[str, Any], folder: str, loading: _Loading) -> dict[str, Any]:
    entries = content.pop("include", [])
    for entry in entries:
        paths = tuple(absolute(path, folder) for path in entry["path"])
        if paths[0] in loading.including:
            raise ComposeInvalid(f"include cycle detected: {' -> '.join([*loading.including, paths[0]])}")
        own_folder = absolute(entry["project_directory"], folder) if entry.get("project_directory") else os.path.dirname(paths[0])
        env_files = tuple(absolute(path, folder) for path in entry["env_file"]) or (os.path.join(own_folder, ".env"),)
        variables = project_environment(loading.variables, env_files, required=bool(entry["env_file"]))
        inner = _Loading(variables, loading.warn, loading.marks, loading.warned, (*loading.including, paths[0]))
        included = _load_files(paths, own_folder, inner)
        for kind in ("services", "networks", "volumes", "secrets", "configs"):
            mine = content.setdefault(kind, {})
            for name, item in included.get(kind, {}).items():
                if name in mine and mine[name] != item:
                    raise ComposeInvalid(
                        f"{kind}.{name} conflicts with imported resource", find_mark(loading.marks, (kind, name))
                    )
                mine[name] = item
    return content


def _build(
    name: str,
    content: dict[str, Any],
    loading: _Loading,
    folder: str,
    files: tuple[str, ...],
    profiles: tuple[str, ...],
    wanted: tuple[str, ...],
    resolve_environment: bool,
) -> Project:
    services: dict[str, Service] = {}
    for service_name, raw in content.get("services", {}).items():
        prepared = _prepare_service(service_name, raw, loading, resolve_environment=resolve_environment)
        services[service_name] = _convert(prepared, Service, ("services", service_name), loading)
    active, disabled = active_services(services, profiles, wanted)
    networks = dict(content.get("networks", {}))
    if any("default" in service.networks for service in active.values()):
        networks.setdefault("default", {})
    shaped = {
        "name": name,
        "networks": _named(networks, name),
        "volumes": _named(content.get("volumes", {}), name),
        "secrets": _named(content.get("secrets", {}), name),
        "configs": _named(content.get("configs", {}), name),
        "services": {},
        "working_dir": folder,
        "files": files,
    }
    project: Project = _convert(shaped, Project, (), loading)
    return msgspec.structs.replace(
        project, services=active, disabled=disabled, environment=dict(loading.variables), marks=dict(loading.marks)
    )


def _prepare_service(name: str, raw: dict[str, Any], loading: _Loading, *, resolve_environment: bool) -> dict[str, Any]:
    service = {**raw, "name": name}
    if not service.get("networks") and not service.get("network_mode") and not service.get("provider"):
        service["networks"] = {"default": {}}
    if service.get("healthcheck", {}).get("test") == ["NONE"]:
        service["healthcheck"] = {"disable": True}
    labels: dict[str, str] = {}
    for path in service.pop("label_file", []):
        labels.update({key: value or "" for key, value in read_env_file(path, loading.variables).items()})
    if labels:
        service["labels"] = {**labels, **service.get("labels", {})}
    if resolve_environment:
        service["environment"] = _environment(service, loading)
        service.pop("env_file", None)
        if "build" in service:
            args = service["build"].get("args", {})
            filled = {key: loading.variables.get(key) if value is None else value for key, value in args.items()}
            service["build"] = {**service["build"], "args": {key: value for key, value in filled.items() if value is not None}}
    return service


def _environment(service: dict[str, Any], loading: _Loading) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for entry in service.get("env_file", []):
        if not entry["required"] and not os.path.exists(entry["path"]):
            continue
        known = {**{key: value for key, value in found.items() if value is not None}, **loading.variables}
        try:
            found.update(read_env_file(entry["path"], known, raw=entry.get("format") == "raw"))
        except ComposeInvalid as error:
            if error.mark is not None:
                raise
            raise ComposeInvalid(error.message, find_mark(loading.marks, ("services", service["name"], "env_file"))) from error
    found.update(service.get("environment", {}))
    filled = {key: loading.variables.get(key) if value is None else value for key, value in found.items()}
    return {key: value for key, value in filled.items() if value is not None}


def _named(items: Mapping[str, dict[str, Any]], project: str) -> dict[str, dict[str, Any]]:
    """Each with its name in the engine: its own, the key itself when external, else <project>_<key>."""
    return {
        key: {**item, "name": item.get("name") or (key if item.get("external") else f"{project}_{key}")}
        for key, item in items.items()
    }


def _convert(value: Any, kind: type[Any], path: Path, loading: _Loading) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ComposeInvalid(f"{'.'.join(map(str, path)) or 'project'}: {error}", find_mark(loading.marks, path)) from error
