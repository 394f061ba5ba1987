"""down: stop and remove containers and networks, and volumes and images when asked to."""

from __future__ import annotations

from dataclasses import dataclass

from berth.compose import label
from berth.compose.model import Project
from berth.compose.observe import Existing, Observed
from berth.compose.removal import Down, plan_down
from berth.compose.session import Session
from berth.errors import InvalidArgument


@dataclass(frozen=True)
class DownOptions:
    """Options of down."""

    services: tuple[str, ...] = ()
    volumes: bool = False
    rmi: str | None = None
    remove_orphans: bool = False
    timeout: int | None = None


def run(session: Session, options: DownOptions) -> int:
    """Always 0 when nothing failed, also when there was nothing to do."""
    if options.rmi not in (None, "all", "local"):
        raise InvalidArgument(f"invalid value for --rmi: {options.rmi!r}: known are all and local")
    name, project = session.known(options.services)
    found = session.containers(name, project, options.services, oneoff=None)
    orphans: list[Existing] = []
    if project is not None and not options.services:
        known = {*project.services, *project.disabled}
        orphans = [container for container in found if container.service not in known]
        if not options.remove_orphans:
            found = [container for container in found if container not in orphans]
    whole = not options.services
    down = Down(
        containers=tuple(found),
        networks=_networks(session, name, project) if whole else {},
        volumes=_volumes(session, name, project) if options.volumes and whole else (),
        images=_images(project, options.rmi, found) if options.rmi and whole else (),
        timeout=options.timeout,
        anonymous_volumes=options.volumes,
    )
    plan = plan_down(project, down)
    if orphans and not options.remove_orphans:
        names = ", ".join(container.name for container in orphans)
        plan.notices.append(f"Found orphan containers ([{names}]) for this project: remove them with --remove-orphans")
    if not plan.operations and whole:
        session.progress.warn(f"No resource found to remove for project {name!r}.")
    session.execute(plan, name, Observed(tuple(found)))
    return 0


def _networks(session: Session, name: str, project: Project | None) -> dict[str, str]:
    """Those that carry our label, and those of the files whose names are there though they lack it."""
    by_label = session.engine.networks.list(filters={"label": [f"{label.PROJECT}={name}"]})
    found = {network.name or "": network.id or "" for network in by_label}
    if project is not None:
        external = {network.name for network in project.networks.values() if network.external}
        found = {key: value for key, value in found.items() if key not in external}
    return found


def _volumes(session: Session, name: str, project: Project | None) -> tuple[str, ...]:
    by_label = session.engine.volumes.list(filters={"label": [f"{label.PROJECT}={name}"]})
    found = {volume.name or "": None for volume in by_label}
    if project is not None:
        for volume in project.volumes.values():
            if volume.external:
                found.pop(volume.name, None)
    return tuple(found)


def _images(project: Project | None, which: str | None, containers: list[Existing]) -> tuple[str, ...]:
    if project is None:
        return tuple(dict.fromkeys(c.summary.image or "" for c in containers if c.summary.image)) if which == "all" else ()
    services = {**project.services, **project.disabled}.values()
    names = [
        project.image_name(service) for service in services if which == "all" or (service.build is not None and not service.image)
    ]
    return tuple(dict.fromkeys(names))
