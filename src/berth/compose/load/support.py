"""What is known and not done: each such key is named with file and line, as an error where leaving it out would change what
the user relies on, as a warning where it only concerns clusters or other systems."""

from __future__ import annotations

from collections.abc import Mapping

from berth.compose.load.document import find_mark
from berth.compose.model import Project, Service
from berth.compose.problem import ComposeInvalid, Mark, Path, Warn, dotted

_ERRORS: Mapping[str, str] = {
    "credential_spec": "it is for Windows containers",
    "gpus": "requests for GPUs are not there yet; name the device files under `devices`",
    "models": "models are not there yet",
    "provider": "providers are not there yet",
    "use_api_socket": "mount the engine's socket under `volumes` instead",
}
_WARNINGS: Mapping[str, str] = {
    "cpu_count": "it is for Windows containers",
    "cpu_percent": "it is for Windows containers",
    "develop": "watching source files is not there yet",
    "isolation": "it is for Windows containers",
    "pull_refresh_after": "images are refreshed by pull_policy only",
}
_DEPLOY: Mapping[str, str] = {
    "endpoint_mode": "there is no cluster",
    "labels": "labels of a swarm service have no container to go to; use `labels` of the service",
    "placement": "there is one node only",
    "rollback_config": "updates are not rolled back",
    "update_config": "containers are replaced one after another",
}
_BUILD_ERRORS: Mapping[str, str] = {
    "additional_contexts": "further contexts need BuildKit",
    "entitlements": "entitlements need BuildKit",
    "secrets": "build secrets need BuildKit",
    "ssh": "ssh forwarding needs BuildKit",
    "privileged": "builds are never privileged",
}
_BUILD_WARNINGS: Mapping[str, str] = {
    "cache_to": "the build cache stays in the engine",
    "isolation": "it is for Windows containers",
    "provenance": "attestations are not made",
    "sbom": "attestations are not made",
}


def check_support(project: Project, warn: Warn) -> None:
    """Raise ComposeInvalid, or warn, for each key of the active services that has no effect here."""
    for service in project.services.values():
        base: Path = ("services", service.name)
        _check(project, service, base, _ERRORS, _WARNINGS, warn)
        _check(project, service.deploy, (*base, "deploy"), {}, _DEPLOY, warn)
        if service.build is not None:
            _check(project, service.build, (*base, "build"), _BUILD_ERRORS, _BUILD_WARNINGS, warn)
        for check in (_check_networks, _check_deploy, _check_mounts):
            check(project, service, base, warn)
    for kind, sources in (("secrets", project.secrets), ("configs", project.configs)):
        for name, source in sources.items():
            if source.driver or source.template_driver:
                raise ComposeInvalid(f"{kind}.{name}: drivers are not supported", project_mark(project, (kind, name)))


def project_mark(project: Project, path: Path) -> Mark | None:
    """The place of a path in the files of a project."""
    return find_mark(project.marks, path)


def _check(
    project: Project, value: object, base: Path, errors: Mapping[str, str], warnings: Mapping[str, str], warn: Warn
) -> None:
    for key, why in errors.items():
        if getattr(value, key):
            raise ComposeInvalid(f"{dotted((*base, key))} is not supported: {why}", project_mark(project, (*base, key)))
    for key, why in warnings.items():
        if getattr(value, key):
            warn(f"{project_mark(project, (*base, key))}: {dotted((*base, key))} is ignored: {why}")


def _check_networks(project: Project, service: Service, base: Path, warn: Warn) -> None:
    for name, network in service.networks.items():
        path = (*base, "networks", name)
        if network.priority:
            warn(f"{project_mark(project, path)}: {dotted(path)}.priority is ignored: the order of the file counts")
        if network.interface_name:
            warn(f"{project_mark(project, path)}: {dotted(path)}.interface_name is ignored")


def _check_deploy(project: Project, service: Service, base: Path, warn: Warn) -> None:
    mode = service.deploy.mode
    if mode not in (None, "replicated", "global"):
        raise ComposeInvalid(
            f"{dotted(base)}.deploy.mode {mode!r} is not supported", project_mark(project, (*base, "deploy", "mode"))
        )
    path = (*base, "deploy", "resources", "reservations")
    for what in ("cpus", "pids", "generic_resources"):
        if getattr(service.deploy.resources.reservations, what):
            warn(f"{project_mark(project, path)}: {dotted((*path, what))} is ignored: nothing is reserved on a single node")
    if service.deploy.resources.reservations.devices:
        raise ComposeInvalid(
            f"{dotted((*path, 'devices'))} is not supported: name the device files under `devices`", project_mark(project, path)
        )
    policy = service.deploy.restart_policy
    if policy is not None and (policy.delay or policy.window):
        where = (*base, "deploy", "restart_policy")
        warn(f"{project_mark(project, where)}: {dotted(where)}: delay and window are ignored: the engine chooses the pauses")


def _check_mounts(project: Project, service: Service, base: Path, warn: Warn) -> None:
    for mount in service.volumes:
        if mount.type not in ("bind", "volume", "tmpfs", "image"):
            path = (*base, "volumes")
            raise ComposeInvalid(f"{dotted(path)}: mounts of type {mount.type} are not supported", project_mark(project, path))
