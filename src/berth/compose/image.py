"""Images of services: which are pulled, which are built, and what ids they have. This comes before planning, because a
container's image is part of what decides whether it is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from berth.client.build import BuildOptions, pack_context
from berth.client.engine import Engine
from berth.client.stream import ProgressFailed
from berth.compose.load.paths import is_remote
from berth.compose.model import Build, Project, Service
from berth.compose.progress import Progress
from berth.compose.units import parse_duration
from berth.errors import BerthError, InvalidArgument, NotFound

POLICIES = ("always", "missing", "if_not_present", "never", "build", "daily", "weekly")


@dataclass(frozen=True)
class ImageWishes:
    """`build` True builds everything that can be built, False nothing, None what is missing. `pull` goes above pull_policy."""

    build: bool | None = None
    pull: str | None = None
    quiet_pull: bool = False
    quiet_build: bool = False
    no_cache: bool = False
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    build_pull: bool = False
    ignore_failures: bool = False


def ensure_images(
    engine: Engine, project: Project, services: Iterable[Service], wishes: ImageWishes, progress: Progress
) -> dict[str, str]:
    """Pull and build what is needed; image ids by service. Images of other services are built before they are used."""
    services = list(services)
    local = {service.name: image_id(engine, project.image_name(service)) for service in services}
    to_build = [service for service in services if _builds(service, local[service.name], wishes)]
    building = {service.name for service in to_build}
    to_pull = [service for service in services if service.name not in building and _pulls(service, local[service.name], wishes)]
    pull_images(engine, project, to_pull, progress, quiet=wishes.quiet_pull)
    for service in to_build:
        build_image(engine, project, service, wishes, progress)
    found: dict[str, str] = {}
    for service in services:
        name = project.image_name(service)
        changed = service in to_pull or service in to_build
        identity = image_id(engine, name) if changed else local[service.name]
        if identity is None:
            raise NotFound(f"No such image: {name}: pull or build it first (service {service.name!r})")
        found[service.name] = identity
    return found


def image_id(engine: Engine, name: str) -> str | None:
    """The id of a local image, None when it is not there."""
    try:
        return engine.images.inspect(name).id
    except NotFound:
        return None


def _policy(service: Service, wishes: ImageWishes) -> str:
    policy = wishes.pull or service.pull_policy or ("build" if service.build is not None and not service.image else "missing")
    if policy not in POLICIES and not policy.startswith("every_"):
        raise InvalidArgument(f"service {service.name!r}: invalid pull policy {policy!r}: known are {', '.join(POLICIES)}")
    if policy.startswith("every_"):
        parse_duration(policy.removeprefix("every_").replace("d", "h"))
    return policy


def _builds(service: Service, local: str | None, wishes: ImageWishes) -> bool:
    if service.build is None or wishes.build is False:
        return False
    return wishes.build is True or local is None or service.pull_policy == "build"


def _pulls(service: Service, local: str | None, wishes: ImageWishes) -> bool:
    policy = _policy(service, wishes)
    if policy in ("never", "build"):
        return False
    # daily, weekly and every_<time>: when an image was last pulled is not recorded, so they are the safe side, always.
    return local is None or policy not in ("missing", "if_not_present")


def pull_images(
    engine: Engine,
    project: Project,
    services: Iterable[Service],
    progress: Progress,
    *,
    quiet: bool = False,
    ignore_failures: bool = False,
) -> None:
    """Pull the images of services, each image once, several at a time."""
    by_image: dict[tuple[str, str | None], Service] = {}
    for service in services:
        by_image.setdefault((project.image_name(service), service.platform), service)

    def pull(service: Service) -> None:
        subject = service.name
        progress.step(subject, "Pulling")
        try:
            for message in engine.images.pull(project.image_name(service), platform=service.platform):
                status = message.get("status", "")
                if not quiet and message.get("id") and status in ("Pull complete", "Download complete", "Already exists"):
                    progress.step(str(message["id"]), status)
        except BerthError as error:
            progress.step(subject, "Error")
            if not ignore_failures:
                raise
            progress.warn(f"{project.image_name(service)}: {error.message}")
        else:
            progress.step(subject, "Pulled")

    _each(list(by_image.values()), pull)


def push_images(
    engine: Engine, project: Project, services: Iterable[Service], progress: Progress, *, ignore_failures: bool = False
) -> None:
    """Push the images of services that are built here."""

    def push(service: Service) -> None:
        progress.step(service.name, "Pushing")
        try:
            for _ in engine.images.push(project.image_name(service)):
                pass
        except BerthError as error:
            progress.step(service.name, "Error")
            if not ignore_failures:
                raise
            progress.warn(f"{project.image_name(service)}: {error.message}")
        else:
            progress.step(service.name, "Pushed")

    _each([service for service in services if service.build is not None and service.image], push)


def _each(services: list[Service], call: Callable[[Service], None]) -> None:
    if not services:
        return
    with ThreadPoolExecutor(min(4, len(services))) as pool:
        for _ in pool.map(call, services):
            pass


def build_image(engine: Engine, project: Project, service: Service, wishes: ImageWishes, progress: Progress) -> str:
    """Build a service's image and tag it; its id."""
    build = service.build
    if build is None:
        raise InvalidArgument(f"service {service.name!r} has no build section")
    progress.step(service.name, "Building")
    context, options = build_request(project, service, build, wishes)
    found = ""
    try:
        for message in engine.builds.build(context, options):
            if "aux" in message:
                found = str(message["aux"].get("ID", found))
            text = str(message.get("stream", "")).rstrip("\n")
            if text and not wishes.quiet_build:
                progress.text(text)
    except ProgressFailed as error:
        progress.step(service.name, "Error")
        raise BerthError(f"failed to build {service.name}: {error.message}") from error
    progress.step(service.name, "Built")
    return found


def build_request(
    project: Project, service: Service, build: Build, wishes: ImageWishes
) -> tuple[Iterable[bytes] | None, BuildOptions]:
    """The context and the options of a service's build."""
    remote = is_remote(build.context)
    dockerfile, inline = build.dockerfile or "Dockerfile", None
    if build.dockerfile_inline is not None:
        inline = build.dockerfile_inline.encode()
    elif not remote:
        inside = os.path.normpath(os.path.join(build.context, dockerfile))
        if inside.startswith(build.context.rstrip("/") + "/"):
            dockerfile = os.path.relpath(inside, build.context)
        else:
            inline = _outside(inside)
    if inline is not None:
        # The engine wants the Dockerfile inside the context, under a name that no other file has.
        dockerfile = f".dockerfile.{hashlib.sha256(inline).hexdigest()[:12]}"
    options = BuildOptions(
        tags=(project.image_name(service), *build.tags),
        dockerfile=dockerfile,
        build_args={
            **build.args,
            **{k: project.environment.get(k, "") if v is None else v for k, v in wishes.build_args.items()},
        },
        labels=build.labels,
        target=build.target,
        network_mode=build.network,
        no_cache=build.no_cache or wishes.no_cache,
        pull=build.pull or wishes.build_pull,
        shm_size=build.shm_size,
        extra_hosts=tuple(f"{name}:{address}" for name, addresses in build.extra_hosts.items() for address in addresses),
        cache_from=build.cache_from,
        platform=build.platforms[0] if build.platforms else service.platform or "",
        ulimits=tuple({"Name": name, "Soft": limit.soft, "Hard": limit.hard} for name, limit in build.ulimits.items()),
        remote=build.context if remote else "",
    )
    return (None if remote else pack_context(build.context, dockerfile, inline=inline)), options


def _outside(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidArgument(f"cannot read the Dockerfile {path}: {error.strerror}") from error
