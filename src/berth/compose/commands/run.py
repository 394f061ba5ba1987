"""run: one container of a service for one command."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import msgspec

from berth.compose import label
from berth.compose.commands.exec import resolve
from berth.compose.commands.up import UpOptions, prepare
from berth.compose.convert.container import Place, convert_container
from berth.compose.convert.endpoint import endpoint, ordered_networks
from berth.compose.execute import Executor
from berth.compose.fingerprint import config_hash
from berth.compose.image import ImageWishes, ensure_images
from berth.compose.load.shorthand import ports as parse_ports
from berth.compose.load.shorthand import volumes as parse_volumes
from berth.compose.model import Port, Project, Service, ServiceMount
from berth.compose.observe import observe
from berth.compose.operation import Await, Connect, CopyIn, CreateContainer, Plan
from berth.compose.plan import Wishes, container_name, plan_up
from berth.compose.session import Session
from berth.errors import NotFound, Unavailable


@dataclass(frozen=True)
class RunOptions:
    """Options of run."""

    service: str
    command: tuple[str, ...] = ()
    build: bool = False
    detach: bool = False
    entrypoint: str | None = None
    env: tuple[str, ...] = ()
    interactive: bool = True
    labels: tuple[str, ...] = ()
    name: str | None = None
    no_deps: bool = False
    tty: bool = True
    publish: tuple[str, ...] = ()
    quiet_pull: bool = False
    rm: bool = False
    service_ports: bool = False
    use_aliases: bool = False
    user: str | None = None
    volume: tuple[str, ...] = ()
    workdir: str | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    remove_orphans: bool = False


def run(session: Session, options: RunOptions) -> int:
    """The exit code of the command."""
    project = session.project((options.service,))
    if options.service not in project.services:
        raise NotFound(f"no such service: {options.service}")
    original = project.services[options.service]
    if not options.no_deps and original.dependencies:
        wanted = tuple(name for name in original.dependencies if name in project.services)
        plan, prepared = prepare(session, project, UpOptions(services=wanted, detach=True, quiet_pull=options.quiet_pull))
        _await_conditions(plan, project, original)
        prepared.execute(plan)
    tty = options.tty and not options.detach and session.terminal.is_terminal()
    service = _adapted(session, original, options, tty=tty)
    wishes = ImageWishes(build=True if options.build else None, quiet_pull=options.quiet_pull)
    images = ensure_images(session.engine, project, [original], wishes, session.progress)
    name = options.name or f"{project.name}-{service.name}-run-{secrets.token_hex(6)}"
    _create(session, project, service, name, images.get(service.name), options)
    if options.detach:
        session.engine.containers.start(name)
        session.print(name)
        return 0
    return _attached(session, name, options, tty=tty)


def _await_conditions(plan: Plan, project: Project, service: Service) -> None:
    """Wait for what the service itself asks of its dependencies, after they have been started."""
    for name, dependency in service.dependencies.items():
        if name in project.services and dependency.condition != "service_started":
            other = project.services[name]
            names = tuple(container_name(project, other, number + 1) for number in range(other.replicas))
            starts = [o.id for o in plan.operations if o.id in {f"start {n}" for n in names} | {f"restart {n}" for n in names}]
            plan.add(Await(name, names, dependency.condition, dependency.required), starts)


def _adapted(session: Session, service: Service, options: RunOptions, *, tty: bool) -> Service:
    """The service with what the command line says in place of what the file says."""
    environment = dict(service.environment)
    for entry in options.env:
        key, _, value = resolve(entry, session).partition("=")
        environment[key] = value
    ports: tuple[Port, ...] = service.ports if options.service_ports else ()
    if options.publish:
        ports = (*ports, *msgspec.convert(parse_ports(list(options.publish)), tuple[Port, ...]))
    mounts = msgspec.convert(parse_volumes(list(options.volume)), tuple[ServiceMount, ...])
    replaced = {mount.target for mount in mounts}
    return msgspec.structs.replace(
        service,
        command=options.command or (None if options.entrypoint is not None else service.command),
        entrypoint=tuple(options.entrypoint.split()) if options.entrypoint is not None else service.entrypoint,
        environment=environment,
        labels={**service.labels, **{k: v for k, _, v in (entry.partition("=") for entry in options.labels)}},
        ports=ports,
        volumes=(*(mount for mount in service.volumes if mount.target not in replaced), *mounts),
        user=options.user or service.user,
        working_dir=options.workdir or service.working_dir,
        tty=tty,
        stdin_open=options.interactive and not options.detach,
        container_name=None,
        restart="no",
        deploy=msgspec.structs.replace(service.deploy, restart_policy=None),
        cap_add=(*service.cap_add, *options.cap_add),
        cap_drop=(*service.cap_drop, *options.cap_drop),
    )


def _create(session: Session, project: Project, service: Service, name: str, image: str | None, options: RunOptions) -> None:
    observed = observe(session.engine, project)
    # The networks and volumes of the service are made as `up` would; of that plan only they are taken.
    lone = msgspec.structs.replace(project, services={service.name: msgspec.structs.replace(service, depends_on={}, links=())})
    full = plan_up(lone, observed, Wishes(scale={service.name: 0}, start=False))
    plan = Plan()
    before = [
        plan.add(operation.action)
        for operation in full.operations
        if operation.id.startswith(("create network", "create volume"))
    ]
    labels = label.container_labels(
        project, service, number=1, config_hash=config_hash(project, service), image_id=image, oneoff=True
    )
    place = Place(name, project.image_name(service), labels, aliases=options.use_aliases)
    blueprint = convert_container(project, service, place)
    body = blueprint.body
    body.attach_stdin = body.stdin_once = (service.stdin_open and not options.detach) or None
    body.attach_stdout = body.attach_stderr = (not options.detach) or None
    if options.rm and body.host_config is not None:
        body.host_config.auto_remove = True
    created = plan.add(CreateContainer(blueprint), before)
    for key in ordered_networks(service)[1:]:
        settings = endpoint(project, service, key, name, aliases=options.use_aliases)
        plan.add(Connect(name, project.networks[key].name, settings), [created])
    if blueprint.uploads:
        plan.add(CopyIn(name, blueprint.uploads), [created])
    Executor(session.engine, project.name, observed, session.progress, parallel=session.parallel).run(plan)


def _attached(session: Session, name: str, options: RunOptions, *, tty: bool) -> int:
    engine = session.engine
    stream = engine.containers.attach(name, tty=tty, stdin=options.interactive)
    with stream:
        ending = engine.containers.begin_wait(name, condition="removed" if options.rm else "next-exit")
        engine.containers.start(name)

        def resize(height: int, width: int) -> None:
            engine.containers.resize(name, height=height, width=width)

        with session.terminal.prepared(resize, raw=tty):
            try:
                detached = session.terminal.join(stream, stdin=options.interactive)
            except KeyboardInterrupt:
                engine.containers.stop(name)
                detached = False
        if detached:
            return 0
    try:
        return engine.containers.finish_wait(ending).status_code or 0
    except Unavailable:
        state = engine.containers.inspect(name).state
        return (state.exit_code if state else 0) or 0
