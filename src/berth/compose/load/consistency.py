"""Whether a project's parts fit together: names that are used are defined, nothing depends on itself."""

from __future__ import annotations

from collections.abc import Mapping

from berth.compose.load.document import find_mark
from berth.compose.model import Project, Service
from berth.compose.problem import ComposeInvalid, Path

_CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")


def check_consistency(project: Project) -> None:
    """Raise ComposeInvalid for the first thing that does not fit."""
    everything = {**project.services, **project.disabled}
    for service in project.services.values():
        for check in (_check_shape, _check_names, _check_files):
            check(project, service)
        _check_dependencies(project, service, everything)
    service_order(project.services)


def _fail(project: Project, path: Path, text: str) -> ComposeInvalid:
    return ComposeInvalid(text, find_mark(project.marks, path))


def _check_shape(project: Project, service: Service) -> None:
    base: Path = ("services", service.name)
    if not service.image and service.build is None:
        raise _fail(project, base, f'service "{service.name}" has neither an image nor a build context specified')
    if service.build is not None and service.build.dockerfile and service.build.dockerfile_inline:
        raise _fail(
            project, (*base, "build"), f'service "{service.name}" declares mutually exclusive dockerfile and dockerfile_inline'
        )
    if service.build is not None and len(service.build.platforms) > 1:
        raise _fail(
            project, (*base, "build", "platforms"), f'service "{service.name}": an image is built for one platform at a time'
        )
    if service.network_mode and service.networks:
        raise _fail(
            project,
            (*base, "network_mode"),
            f'service "{service.name}" declares mutually exclusive `network_mode` and `networks`',
        )
    if service.scale is not None and service.deploy.replicas not in (None, service.scale):
        raise _fail(
            project, (*base, "scale"), f'service "{service.name}": can\'t set distinct values on `scale` and `deploy.replicas`'
        )
    if service.replicas < 0:
        raise _fail(project, base, f'service "{service.name}": the number of containers cannot be negative')
    if service.container_name and service.replicas > 1:
        text = f'service "{service.name}": more than one container with the same container_name "{service.container_name}"'
        raise _fail(project, (*base, "container_name"), text)
    targets: set[str] = set()
    for mount in service.volumes:
        if mount.target in targets:
            raise _fail(project, (*base, "volumes"), f'service "{service.name}": two mounts have the target {mount.target}')
        targets.add(mount.target)


def _check_names(project: Project, service: Service) -> None:
    base: Path = ("services", service.name)
    for name in service.networks:
        if name not in project.networks:
            raise _fail(
                project,
                (*base, "networks", name),
                f'service "{service.name}" refers to undefined network {name}: invalid compose project',
            )
    for index, mount in enumerate(service.volumes):
        if mount.type == "volume" and mount.source and mount.source not in project.volumes:
            path = (*base, "volumes", index)
            raise _fail(
                project, path, f'service "{service.name}" refers to undefined volume {mount.source}: invalid compose project'
            )


def _check_files(project: Project, service: Service) -> None:
    base: Path = ("services", service.name)
    for kind, references, sources in (("secret", service.secrets, project.secrets), ("config", service.configs, project.configs)):
        for reference in references:
            source = sources.get(reference.source)
            path = (*base, kind + "s")
            if source is None:
                text = f'service "{service.name}" refers to undefined {kind} {reference.source}: invalid compose project'
                raise _fail(project, path, text)
            if source.external:
                text = f"unsupported external {kind} {reference.source}: use file, environment or content"
                raise _fail(project, (kind + "s", reference.source), text)


def _check_dependencies(project: Project, service: Service, everything: Mapping[str, Service]) -> None:
    for name, dependency in service.dependencies.items():
        path: Path = ("services", service.name, "depends_on", name)
        if name not in everything:
            if dependency.required:
                raise _fail(
                    project, path, f'service "{service.name}" depends on undefined service "{name}": invalid compose project'
                )
            continue
        if name in project.disabled and dependency.required:
            profiles = ", ".join(everything[name].profiles)
            text = f'service "{service.name}" depends on service "{name}" whose profile ({profiles}) is not active'
            raise _fail(project, path, text + ": add --profile, or mark the dependency with `required: false`")
        if dependency.condition not in _CONDITIONS:
            raise _fail(project, path, f"{dependency.condition} is not a condition: known are {', '.join(_CONDITIONS)}")


def service_order(services: Mapping[str, Service]) -> list[str]:
    """Names, dependencies first, otherwise in the order of the file. Raises ComposeInvalid for a cycle."""
    done: dict[str, None] = {}

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in done or name not in services:
            return
        if name in chain:
            cycle = [*chain[chain.index(name) :], name]
            raise ComposeInvalid(f"dependency cycle detected: {' -> '.join(cycle)}")
        for dependency in services[name].dependencies:
            visit(dependency, (*chain, name))
        done[name] = None

    for name in services:
        visit(name, ())
    return list(done)
