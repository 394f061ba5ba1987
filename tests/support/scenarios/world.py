"""What every scenario works with: an engine, what was killed where, and short words for what a client does."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from berth.client.containers import CreateBody
from berth.client.engine import Engine
from berth.client.exec import ExecConfig
from berth.errors import NotFound
from berth.wire.container import HostConfig
from support.engine import SLOW, EngineProcess

SUBJECT = "subject"
CODE = 5
PROGRAM = f"trap 'echo bye; exit {CODE}' TERM; echo begun; sleep 1000 & wait"
PATIENCE = 25.0 * SLOW


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@dataclass
class World:
    """What scenarios work with. `registry` is the host of one that has the image `app:1`; `killed` who was killed."""

    engine: EngineProcess
    registry: str = ""
    killed: frozenset[str] = frozenset()
    point: str = ""
    error: BaseException | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def call(self, action: Callable[[Engine], Any]) -> Any:
        """With a connection of its own."""
        with self.engine.client as client:
            return action(client)

    def state(self, name: str = SUBJECT) -> dict[str, Any] | None:
        """State of inspect, or None without the container."""
        try:
            found: dict[str, Any] = self.call(lambda c: c.containers.inspect_raw(name))["State"]
        except NotFound:
            return None
        return found

    def log(self, name: str = SUBJECT) -> str:
        """All of its output."""
        with self.engine.client as client:
            return b"".join(frame[1] for frame in client.containers.logs(name, tty=False)).decode()

    def create(self, name: str = SUBJECT, cmd: list[str] | None = None, host: HostConfig | None = None, **more: Any) -> str:
        """A container of the busybox image."""
        body = CreateBody(image="busybox", cmd=cmd or ["sh", "-c", PROGRAM], host_config=host, **more)
        made: str = self.call(lambda c: c.containers.create(body, name=name)).id
        return made

    def start(self, name: str = SUBJECT) -> None:
        """Start it and wait until its program has begun (once more)."""
        before = self.log(name).count("begun")
        self.call(lambda c: c.containers.start(name))
        eventually(lambda: self.log(name).count("begun") > before, f"{name} did not begin")

    def remove(self, name: str = SUBJECT) -> None:
        """Take it away with its volumes, if it is there."""
        with suppress(NotFound):
            self.call(lambda c: c.containers.remove(name, force=True, volumes=True))

    def volumes(self) -> set[str]:
        """Names of all volumes."""
        return {volume.name for volume in self.call(lambda c: c.volumes.list())}

    def images(self) -> set[str]:
        """All tags."""
        return {tag for image in self.call(lambda c: c.images.list()) for tag in image.repo_tags or []}

    def run(self, *command: str, image: str = "busybox", binds: list[str] | None = None) -> str:
        """Output of a container that is gone afterwards."""
        made = self.call(
            lambda c: c.containers.create(CreateBody(image=image, cmd=list(command), host_config=HostConfig(binds=binds)))
        ).id
        try:
            self.call(lambda c: c.containers.start(made))
            assert self.call(lambda c: c.containers.wait(made)).status_code == 0
            return self.log(made)
        finally:
            self.remove(made)

    def exec(self, *command: str, name: str = SUBJECT) -> tuple[str, int | None]:
        """Output and exit code of a further process."""
        with self.engine.client as client:
            made = client.execs.create(name, ExecConfig(cmd=list(command), attach_stdout=True, attach_stderr=True))
            with client.execs.start(made, tty=False) as stream:
                output = b"".join(payload for _, payload in stream.frames())
            return output.decode(), client.execs.inspect(made).exit_code


class Scenario(ABC):
    """One operation. `points` are patterns of the names that it comes by. A `fresh` one wants an engine that has run nothing.
    The `runtime` that makes the subject is berth's own, or another one's binary."""

    points: ClassVar[tuple[str, ...]] = ()
    fresh: ClassVar[bool] = False
    runtime: ClassVar[str | None] = None

    def prepare(self, world: World) -> None:
        """What has to be there: for many nothing."""
        return

    @abstractmethod
    def act(self, client: Engine, world: World) -> None:
        """The operation."""

    @abstractmethod
    def verify(self, world: World) -> None:
        """Done or not; and again."""

    def clean(self, world: World) -> None:
        """Take everything away."""
        world.remove()
