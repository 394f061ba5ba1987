"""start, stop, restart, kill, pause, unpause, rm and wait: containers that exist."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from berth.compose.load.consistency import service_order
from berth.compose.model import Project
from berth.compose.observe import Existing, Observed
from berth.compose.operation import Await, Plan, Remove, Restart, RunHook, Start
from berth.compose.plan import selected_services
from berth.compose.removal import plan_stop
from berth.compose.session import Session
from berth.errors import BerthError, Conflict, NotFound


@dataclass(frozen=True)
class LifecycleOptions:
    """Options these commands have, each some of them."""

    services: tuple[str, ...] = ()
    timeout: int | None = None
    signal: str | None = None
    no_deps: bool = False
    remove_orphans: bool = False
    stop: bool = False
    volumes: bool = False
    down_project: bool = False


def stop_containers(session: Session, project: Project | None, containers: tuple[Existing, ...], timeout: int | None) -> None:
    """Stop what runs, dependants first."""
    plan, _ = plan_stop(project, containers, timeout)
    name = project.name if project is not None else ""
    session.execute(plan, name, Observed(containers))


def stop(session: Session, options: LifecycleOptions) -> int:
    """Stop services."""
    name, project = session.known(options.services)
    stop_containers(session, project, tuple(session.containers(name, project, options.services)), options.timeout)
    return 0


def start(session: Session, options: LifecycleOptions) -> int:
    """Start the containers that were made before, dependencies first; nothing is created."""
    name, project = session.known(options.services)
    found = session.containers(name, project, options.services)
    if not found:
        raise NotFound(f"no container found for project {name!r}: create them with `up` or `create`")
    plan = Plan()
    by_service: dict[str, list[Existing]] = {}
    for container in found:
        by_service.setdefault(container.service, []).append(container)
    services = project.services if project is not None else {}
    if project is not None and options.services:
        # What a service waits for is started with it, as far as it was created.
        for each in selected_services(project, options.services):
            if each not in by_service:
                by_service[each] = session.containers(name, project, (each,))
    started: dict[str, list[str]] = {}
    order = [service for service in service_order(services) if service in by_service]
    for service in [*order, *(each for each in by_service if each not in order)]:
        before: list[str] = []
        for dependency, how in services[service].dependencies.items() if service in services else ():
            before += started.get(dependency, [])
            if how.condition != "service_started" and by_service.get(dependency):
                names = tuple(container.name for container in by_service[dependency])
                before = [plan.add(Await(dependency, names, how.condition, how.required), before)]
        started[service] = []
        for container in by_service[service]:
            if container.state not in ("running", "restarting"):
                done = plan.add(Start(container.name), before)
                for hook in services[service].post_start if service in services else ():
                    done = plan.add(RunHook(container.name, hook, "post_start"), [done])
                started[service].append(done)
    session.execute(plan, name, Observed(tuple(c for each in by_service.values() for c in each)))
    return 0


def restart(session: Session, options: LifecycleOptions) -> int:
    """Restart services: dependencies first, and those who depend on them with `restart: true` as well."""
    name, project = session.known(options.services)
    wanted = set(options.services)
    services = project.services if project is not None else {}
    order = service_order(services)
    if wanted and not options.no_deps:
        for service in order:
            if any(how.restart and dependency in wanted for dependency, how in services[service].dependencies.items()):
                wanted.add(service)
    found = session.containers(name, project, tuple(wanted))
    plan = Plan()
    done: dict[str, list[str]] = {}
    for service in [*order, *sorted({c.service for c in found} - set(order))]:
        before: list[str] = []
        for dependency, how in services[service].dependencies.items() if service in services else ():
            before += done.get(dependency, [])
            if how.condition == "service_healthy" and done.get(dependency):
                names = tuple(c.name for c in found if c.service == dependency)
                before = [plan.add(Await(dependency, names, how.condition, how.required), before)]
        done[service] = []
        for container in found:
            if container.service != service:
                continue
            ready = before
            if service in services and container.running:
                for hook in services[service].pre_stop:
                    ready = [plan.add(RunHook(container.name, hook, "pre_stop"), ready)]
            after = plan.add(Restart(container.name, options.timeout), ready)
            if service in services:
                for hook in services[service].post_start:
                    after = plan.add(RunHook(container.name, hook, "post_start"), [after])
            done[service].append(after)
    session.execute(plan, name, Observed(tuple(found)))
    return 0


def kill(session: Session, options: LifecycleOptions) -> int:
    """Send a signal."""
    name, project = session.known(options.services)
    running = [container for container in session.containers(name, project, options.services) if container.running]
    if not running:
        raise NotFound("no container to kill")
    _each(session, running, "Killing", "Killed", lambda c: session.engine.containers.kill(c.id, signal=options.signal))
    return 0


def pause(session: Session, options: LifecycleOptions) -> int:
    """Freeze services."""
    name, project = session.known(options.services)
    found = [container for container in session.containers(name, project, options.services) if container.state == "running"]
    _each(session, found, "Pausing", "Paused", lambda c: session.engine.containers.pause(c.id))
    return 0


def unpause(session: Session, options: LifecycleOptions) -> int:
    """Thaw services."""
    name, project = session.known(options.services)
    found = [container for container in session.containers(name, project, options.services) if container.state == "paused"]
    _each(session, found, "Unpausing", "Unpaused", lambda c: session.engine.containers.unpause(c.id))
    return 0


def rm(session: Session, options: LifecycleOptions, confirm: Callable[[list[str]], bool]) -> int:
    """Remove stopped containers; `confirm` is asked with their names first."""
    name, project = session.known(options.services)
    found = session.containers(name, project, options.services, oneoff=None)
    if options.stop:
        stop_containers(session, project, tuple(found), options.timeout)
        found = session.containers(name, project, options.services, oneoff=None)
    stopped = [container for container in found if not container.running or session.dry_run]
    if not stopped:
        session.progress.text("No stopped containers")
        return 0
    if not confirm([container.name for container in stopped]):
        return 0
    plan = Plan()
    for container in stopped:
        plan.add(Remove(container.name, volumes=options.volumes))
    session.execute(plan, name, Observed(tuple(stopped)))
    return 0


def wait(session: Session, options: LifecycleOptions) -> int:
    """Wait until the first of the services' containers ends; its exit code."""
    name, project = session.known(options.services)
    found = [container for container in session.containers(name, project, options.services) if container.running]
    if not found:
        raise NotFound(f"no containers for project {name!r}: nothing runs that could be waited for")
    code = 0
    for container in found:
        answer = session.engine.containers.wait(container.id)
        code = answer.status_code or 0
        session.print(f"container {container.name!r} exited with status code {code}")
        if code:
            break
    if options.down_project:
        from berth.compose.commands import down

        down.run(session, down.DownOptions())
    return code


def _each(session: Session, containers: list[Existing], doing: str, done: str, call: Callable[[Existing], object]) -> None:
    """The same to each, at once; the first error is raised at the end."""
    if session.dry_run:
        for container in containers:
            session.progress.text(f"DRY-RUN MODE -  {doing.lower()} {container.name}")
        return
    errors: list[BerthError] = []

    def one(container: Existing) -> None:
        session.progress.step(f"Container {container.name}", doing)
        try:
            call(container)
        except Conflict as error:
            session.progress.step(f"Container {container.name}", "Error")
            errors.append(error)
        else:
            session.progress.step(f"Container {container.name}", done)

    if containers:
        with ThreadPoolExecutor(min(session.parallel if session.parallel > 0 else 16, len(containers))) as pool:
            for _ in pool.map(one, containers):
                pass
    if errors:
        raise errors[0]
