"""build, pull and push."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.compose.image import ImageWishes, build_image, image_id, pull_images, push_images
from berth.compose.plan import selected_services
from berth.compose.session import Session


@dataclass(frozen=True)
class BuildCommand:
    """Options of build."""

    services: tuple[str, ...] = ()
    no_cache: bool = False
    pull: bool = False
    push: bool = False
    quiet: bool = False
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    with_dependencies: bool = False


def build(session: Session, options: BuildCommand) -> int:
    """Build the services that have a build section, one after another, dependencies first."""
    project = session.project(options.services)
    names = selected_services(project, options.services, dependencies=options.with_dependencies)
    services = [project.services[name] for name in names if project.services[name].build is not None]
    if not services:
        session.progress.warn("No services to build")
        return 0
    wishes = ImageWishes(
        quiet_build=options.quiet, no_cache=options.no_cache, build_pull=options.pull, build_args=options.build_args
    )
    for service in services:
        if session.dry_run:
            session.progress.text(f"DRY-RUN MODE -  build image {project.image_name(service)}")
            continue
        build_image(session.engine, project, service, wishes, session.progress)
    if options.push and not session.dry_run:
        push_images(session.engine, project, services, session.progress)
    return 0


@dataclass(frozen=True)
class TransferOptions:
    """Options of pull and push."""

    services: tuple[str, ...] = ()
    quiet: bool = False
    ignore_failures: bool = False
    ignore_buildable: bool = False
    include_deps: bool = False
    policy: str | None = None


def pull(session: Session, options: TransferOptions) -> int:
    """Pull images. Services that are built here are pulled only when they name an image."""
    project = session.project(options.services)
    names = selected_services(project, options.services, dependencies=options.include_deps)
    services = []
    for name in names:
        service = project.services[name]
        built_here = service.build is not None
        if built_here and (options.ignore_buildable or not service.image):
            session.progress.step(name, "Skipped - No image to be pulled")
        elif service.pull_policy in ("never", "build"):
            session.progress.step(name, "Skipped")
        elif options.policy == "missing" and image_id(session.engine, project.image_name(service)) is not None:
            session.progress.step(name, "Skipped - Image is already present locally")
        else:
            services.append(service)
    if session.dry_run:
        for service in services:
            session.progress.text(f"DRY-RUN MODE -  pull image {project.image_name(service)}")
        return 0
    pull_images(session.engine, project, services, session.progress, quiet=options.quiet, ignore_failures=options.ignore_failures)
    return 0


def push(session: Session, options: TransferOptions) -> int:
    """Push images that are built here."""
    project = session.project(options.services)
    names = selected_services(project, options.services, dependencies=options.include_deps)
    services = [project.services[name] for name in names]
    push_images(session.engine, project, services, session.progress, ignore_failures=options.ignore_failures)
    return 0
