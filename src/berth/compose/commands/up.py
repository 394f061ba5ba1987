"""up and create: bring the project to what the files say; without -d, show what its containers write."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from berth.client.decode import convert
from berth.client.stream import json_lines
from berth.client.wireline import Response
from berth.compose import label
from berth.compose.commands.lifecycle import stop_containers
from berth.compose.image import ImageWishes, ensure_images
from berth.compose.logs import Follower, LogOptions, LogPrinter, short_name
from berth.compose.model import Project
from berth.compose.observe import Existing, Observed, list_containers, observe
from berth.compose.operation import Plan
from berth.compose.plan import Wishes, container_name, plan_up, selected_services
from berth.compose.session import Session
from berth.compose.units import parse_bool
from berth.compose.waiting import DependencyFailed, await_container
from berth.errors import BerthError, DeadlineExceeded, InvalidArgument, NotFound
from berth.wire.system import EventMessage

# How long a container without a health check has to run before --wait believes it.
_SETTLE_SECONDS = 0.7


@dataclass(frozen=True)
class UpOptions:
    """Options of up; names as on the command line."""

    services: tuple[str, ...] = ()
    detach: bool = False
    build: bool = False
    no_build: bool = False
    scale: Mapping[str, int] = field(default_factory=dict)
    wait: bool = False
    wait_timeout: int | None = None
    force_recreate: bool = False
    no_recreate: bool = False
    always_recreate_deps: bool = False
    no_deps: bool = False
    remove_orphans: bool = False
    pull: str | None = None
    quiet_pull: bool = False
    quiet_build: bool = False
    timeout: int | None = None
    abort_on_container_exit: bool = False
    abort_on_container_failure: bool = False
    exit_code_from: str | None = None
    no_start: bool = False
    renew_anon_volumes: bool = False
    timestamps: bool = False
    no_log_prefix: bool = False
    no_color: bool = False
    attach: tuple[str, ...] = ()
    no_attach: tuple[str, ...] = ()


def run(session: Session, options: UpOptions) -> int:
    """The exit code: 0, or that of the container which ended an attached session."""
    _check(options)
    project = session.project(options.services)
    for name in (*options.attach, *options.no_attach, *([options.exit_code_from] if options.exit_code_from else ())):
        if name not in project.services:
            raise NotFound(f"no such service: {name}")
    plan, prepared = prepare(session, project, options)
    detached = options.detach or options.wait or options.no_start or session.dry_run
    if detached:
        prepared.execute(plan)
        return _wait_ready(session, project, options) if options.wait and not session.dry_run else 0
    return _Attached(session, project, options).run(plan, prepared)


def _check(options: UpOptions) -> None:
    if options.build and options.no_build:
        raise InvalidArgument("--build and --no-build are incompatible")
    if options.detach and (
        options.abort_on_container_exit or options.abort_on_container_failure or options.exit_code_from or options.attach
    ):
        raise InvalidArgument("--detach cannot be combined with --abort-on-container-exit, --exit-code-from or --attach")
    if options.no_start and options.wait:
        raise InvalidArgument("--no-start and --wait are incompatible")


@dataclass(frozen=True)
class Prepared:
    """What was found before planning, to execute with."""

    session: Session
    project: Project
    observed: Observed

    def execute(self, plan: Plan) -> None:
        """Do what the plan says."""
        self.session.execute(plan, self.project.name, self.observed)


def prepare(session: Session, project: Project, options: UpOptions) -> tuple[Plan, Prepared]:
    """Make sure of the images, look at what exists and plan."""
    names = selected_services(project, options.services, dependencies=not options.no_deps)
    services = [project.services[name] for name in names]
    wishes = ImageWishes(
        build=True if options.build else False if options.no_build else None,
        pull=options.pull,
        quiet_pull=options.quiet_pull,
        quiet_build=options.quiet_build,
    )
    images: dict[str, str] = {}
    if not session.dry_run:
        images = ensure_images(session.engine, project, services, wishes, session.progress)
    observed = observe(session.engine, project)

    def flag(name: str) -> bool:
        return parse_bool(project.environment.get(name, ""))

    plan = plan_up(
        project,
        observed,
        Wishes(
            services=options.services,
            scale=options.scale,
            images=images,
            dependencies=not options.no_deps,
            force_recreate=options.force_recreate,
            no_recreate=options.no_recreate,
            always_recreate_dependencies=options.always_recreate_deps,
            remove_orphans=options.remove_orphans or flag("COMPOSE_REMOVE_ORPHANS"),
            ignore_orphans=flag("COMPOSE_IGNORE_ORPHANS"),
            renew_anonymous=options.renew_anon_volumes,
            start=not options.no_start,
            timeout=options.timeout,
        ),
    )
    return plan, Prepared(session, project, observed)


def _wait_ready(session: Session, project: Project, options: UpOptions) -> int:
    """--wait: all containers run (healthy, where that is checked) or have ended with 0."""
    deadline = time.monotonic() + options.wait_timeout if options.wait_timeout else None
    settled = time.monotonic() + _SETTLE_SECONDS
    names = selected_services(project, options.services, dependencies=not options.no_deps)
    code = 0
    for container in list_containers(session.engine, project.name, oneoff=False):
        if container.service not in names:
            continue
        subject = f"Container {container.name}"
        session.progress.step(subject, "Waiting")
        try:
            word = await_container(
                session.engine, container.id, container.name, "ready", threading.Event(), deadline=deadline, settled=settled
            )
        except (DependencyFailed, DeadlineExceeded) as error:
            session.progress.step(subject, "Error")
            session.progress.text(error.message)
            code = 1
        else:
            session.progress.step(subject, word)
    return code


class _Attached:
    """An attached `up`: logs of everything that runs, until all has ended or the user stops it."""

    def __init__(self, session: Session, project: Project, options: UpOptions) -> None:
        self._session = session
        self._project = project
        self._options = options
        chosen = options.attach or tuple(selected_services(project, options.services, dependencies=not options.no_deps))
        self._watched = set(selected_services(project, options.services, dependencies=not options.no_deps))
        self._shown = {n for n in chosen if n not in options.no_attach and (project.services[n].attach or n in options.attach)}
        self._ends: queue.Queue[EventMessage] = queue.Queue()
        log = LogOptions(follow=True, timestamps=options.timestamps)
        names = tuple(
            short_name(project.name, container_name(project, project.services[name], number + 1))
            for name in sorted(self._shown)
            for number in range(options.scale.get(name, project.services[name].replicas))
        )
        self._printer = LogPrinter(session.out, names, not options.no_log_prefix, session.color and not options.no_color)
        self._follower = Follower(session.engine, project.name, log, self._printer)

    def run(self, plan: Plan, prepared: Prepared) -> int:
        """The exit code."""
        engine = self._session.engine
        filters = {"type": ["container"], "event": ["start", "die"], "label": [f"{label.PROJECT}={self._project.name}"]}
        events = engine.events.open(filters=filters)
        began = time.time_ns()
        for container in prepared.observed.containers:
            if container.service in self._shown:
                self._follower.remember(container.id)
        reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        reader.start()
        try:
            with _termination():
                self._session.print(f"Attaching to {', '.join(self._printer.names)}")
                prepared.execute(plan)
                for container in self._containers():
                    if container.name in plan.unchanged and container.service in self._shown:
                        self._follower.follow(container.id, self._name(container.name), since=began)
                return self._watch()
        except KeyboardInterrupt:
            return self._stop()
        finally:
            events.interrupt()
            self._follower.join()

    def _read(self, events: Response) -> None:
        """Follow what starts; pass on what ends."""
        try:
            for raw in json_lines(events):
                message = convert(raw, EventMessage)
                attributes = (message.actor.attributes if message.actor else None) or {}
                if attributes.get(label.ONEOFF) == "True" or attributes.get(label.SERVICE) not in self._watched:
                    continue
                identity = (message.actor.id if message.actor else None) or ""
                if message.action == "start" and attributes.get(label.SERVICE) in self._shown:
                    self._follower.follow_start(identity, self._name(attributes.get("name", "")))
                elif message.action == "die":
                    self._follower.ended(identity, message.time_nano or 0)
                    self._ends.put(message)
        except BerthError:
            return

    def _watch(self) -> int:
        options = self._options
        abort = options.abort_on_container_exit or options.exit_code_from is not None
        while True:
            idle = not any(container.running for container in self._containers())
            try:
                message = self._ends.get(timeout=1.0)
            except queue.Empty:
                # Events come a little later than the state: only when none came either has everything ended.
                if idle:
                    return 0
                continue
            attributes = (message.actor.attributes if message.actor else None) or {}
            code = int(attributes.get("exitCode", "0") or 0)
            self._report(message, attributes.get("name", ""), attributes.get(label.SERVICE, ""), code)
            if abort or (options.abort_on_container_failure and code != 0):
                return self._abort(attributes.get(label.SERVICE, ""), code)

    def _report(self, message: EventMessage, name: str, service: str, code: int) -> None:
        identity = (message.actor.id if message.actor else None) or ""
        # What it wrote comes before the line that says it has ended.
        deadline = time.monotonic() + 1.0
        while self._follower.following(identity) and time.monotonic() < deadline:
            time.sleep(0.02)
        if service in self._shown:
            self._session.print(f"{self._name(name)} exited with code {code}")

    def _abort(self, service: str, code: int) -> int:
        self._session.progress.text("Aborting on container exit...")
        stop_containers(self._session, self._project, tuple(self._containers()), self._options.timeout)
        wanted = self._options.exit_code_from
        if wanted is None or wanted == service:
            return code
        for container in self._containers():
            if container.service == wanted:
                state = self._session.engine.containers.inspect(container.id).state
                return (state.exit_code if state else 0) or 0
        return code

    def _stop(self) -> int:
        self._session.progress.text("Gracefully stopping... (press Ctrl+C again to force)")
        try:
            stop_containers(self._session, self._project, tuple(self._containers()), self._options.timeout)
        except KeyboardInterrupt:
            for container in self._containers():
                if container.running:
                    self._session.engine.containers.kill(container.id)
        return 130

    def _containers(self) -> list[Existing]:
        found = list_containers(self._session.engine, self._project.name, oneoff=False)
        return [container for container in found if container.service in self._watched]

    def _name(self, container: str) -> str:
        return short_name(self._project.name, container)


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM as an interrupt, so that a service manager can end an attached `up` in an orderly way."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
