"""config: the project as it is understood."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from berth.compose.fingerprint import config_hash
from berth.compose.model import Project, Service, plain
from berth.compose.plan import selected_services
from berth.compose.session import Session


@dataclass(frozen=True)
class ConfigOptions:
    """Options of config. `show` is one of services, volumes, networks, images, profiles, environment, or empty for everything."""

    services: tuple[str, ...] = ()
    show: str = ""
    hash: str | None = None
    format: str = "yaml"
    quiet: bool = False
    output: str | None = None
    no_interpolate: bool = False


def run(session: Session, options: ConfigOptions) -> int:
    """Print it, or part of it; errors are raised when it makes no sense."""
    project = session.project(options.services)
    if options.quiet:
        return 0
    if options.hash is not None:
        names = tuple(project.services) if options.hash == "*" else tuple(options.hash.split(","))
        for name in selected_services(project, names, dependencies=False):
            session.print(f"{name} {config_hash(project, project.services[name])}")
        return 0
    if options.show:
        for line in _listed(project, options.show):
            session.print(line)
        return 0
    chosen = selected_services(project, options.services) if options.services else list(project.services)
    text = render(project, chosen, options.format)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        session.out.write(text)
        session.out.flush()
    return 0


def _listed(project: Project, what: str) -> list[str]:
    match what:
        case "services":
            return selected_services(project, ())
        case "volumes":
            return list(project.volumes)
        case "networks":
            return list(project.networks)
        case "images":
            return [project.image_name(service) for service in project.services.values()]
        case "profiles":
            return sorted({p for service in {**project.services, **project.disabled}.values() for p in service.profiles})
        case _:
            return [f"{key}={value}" for key, value in sorted(project.environment.items())]


def render(project: Project, services: list[str], form: str) -> str:
    """The project as YAML or JSON that loads to the same project."""
    content: dict[str, Any] = {"name": project.name, "services": {}}
    for name in sorted(services):
        content["services"][name] = _service(project.services[name])
    for kind in ("networks", "volumes", "secrets", "configs"):
        section: Mapping[str, Any] = getattr(project, kind)
        if section:
            content[kind] = {key: _escape(_tidy(plain(value))) for key, value in section.items()}
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"
    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    target = io.StringIO()
    writer.dump(content, target)
    return target.getvalue()


def _service(service: Service) -> dict[str, Any]:
    found = _tidy(plain(service))
    found.pop("name", None)
    deploy = found.get("deploy", {})
    resources = {key: value for key, value in deploy.get("resources", {}).items() if value}
    if "resources" in deploy:
        deploy["resources"] = resources
        if not resources:
            del deploy["resources"]
    if not deploy:
        found.pop("deploy", None)
    found["networks"] = {key: value or None for key, value in found.get("networks", {}).items()}
    if not found["networks"]:
        del found["networks"]
    for name in found.get("depends_on", {}):
        entry = found["depends_on"][name]
        found["depends_on"][name] = {"condition": "service_started", "required": True, **entry}
    # The schema has some sizes as texts only.
    for key in ("mem_limit", "mem_reservation", "memswap_limit", "shm_size"):
        if key in found:
            found[key] = str(found[key])
    for limits in resources.values():
        if "memory" in limits:
            limits["memory"] = str(limits["memory"])
    for reference in [*found.get("secrets", []), *found.get("configs", [])]:
        if "mode" in reference:
            reference["mode"] = f"0{reference['mode']:o}"
    for port in found.get("ports", []):
        port.setdefault("mode", "ingress")
        port.setdefault("protocol", "tcp")
    for volume in found.get("volumes", []):
        if volume.get("type") == "bind" and not volume.get("bind", {}).get("create_host_path"):
            volume.setdefault("bind", {})["create_host_path"] = False
    # A dollar sign has to survive being read again.
    escaped: dict[str, Any] = _escape(found)
    return escaped


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in sorted(value.items()) if item is not None}
    if isinstance(value, tuple | list):
        return [_tidy(item) for item in value]
    return value


def _escape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
