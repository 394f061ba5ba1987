"""What every command of Compose gets: where the project is, the engine, and where to write. Nothing here parses arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from berth.client.engine import Engine
from berth.client.stream import Hijacked
from berth.compose.execute import MAX_PARALLEL, Executor
from berth.compose.load.project import load
from berth.compose.load.source import LoadOptions
from berth.compose.model import Project
from berth.compose.observe import Existing, Observed, list_containers
from berth.compose.operation import Plan
from berth.compose.progress import Progress
from berth.errors import NotFound

Resize = Callable[[int, int], None]


class Terminal(Protocol):
    """The user's terminal, which the command line joins to a container's streams."""

    def is_terminal(self) -> bool:
        """Whether standard input is one."""

    def prepared(self, resize: Resize, *, raw: bool) -> AbstractContextManager[None]:
        """Raw mode, and telling the size, for the time of a `with`; nothing without `raw`."""

    def join(self, stream: Hijacked, *, stdin: bool) -> bool:
        """Copy both ways until the container's side ends; True when the user detached."""


@dataclass
class Session:
    """One run of a command. `out` is for results, `progress` for what is being done."""

    options: LoadOptions
    connect: Callable[[], Engine]
    terminal: Terminal
    out: TextIO = field(default_factory=lambda: sys.stdout)
    progress: Progress = field(default_factory=Progress)
    dry_run: bool = False
    parallel: int = MAX_PARALLEL
    color: bool = False
    _engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine, connected on first use."""
        if self._engine is None:
            self._engine = self.connect()
        return self._engine

    def print(self, text: str = "") -> None:
        """One line of the result."""
        self.out.write(text + "\n")
        self.out.flush()

    def project(self, services: tuple[str, ...] = (), *, resolve_environment: bool = True) -> Project:
        """Load the project from its files; services that are named are active whatever their profile."""
        return load(self.options, self.progress.warn, services=services, resolve_environment=resolve_environment)

    def known(self, services: tuple[str, ...] = ()) -> tuple[str, Project | None]:
        """The project's name, and the project when there are files: with -p alone, what runs can be worked on without them."""
        try:
            project = self.project(services)
        except NotFound:
            name = self.options.project_name or self.options.environ.get("COMPOSE_PROJECT_NAME")
            if not name or self.options.files:
                raise
            return name, None
        return project.name, project

    def containers(
        self, name: str, project: Project | None, services: tuple[str, ...] = (), *, oneoff: bool | None = False
    ) -> list[Existing]:
        """The project's containers, of these services when some are named. Raises NotFound for a service nobody knows."""
        found = list_containers(self.engine, name, oneoff=oneoff)
        known = {container.service for container in found}
        if project is not None:
            known |= {*project.services, *project.disabled}
        for service in services:
            if service not in known:
                raise NotFound(f"no such service: {service}")
        return [container for container in found if not services or container.service in services]

    def execute(self, plan: Plan, project: str, observed: Observed) -> None:
        """Do what the plan says, or show it in a dry run."""
        for notice in plan.notices:
            self.progress.warn(notice)
        if self.dry_run:
            for name in plan.unchanged:
                self.progress.text(f"DRY-RUN MODE -  container {name} stays as it is")
            for line in plan.lines():
                self.progress.text(f"DRY-RUN MODE -  {line}")
            return
        Executor(self.engine, project, observed, self.progress, parallel=self.parallel).run(plan)
