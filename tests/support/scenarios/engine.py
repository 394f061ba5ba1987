"""An engine's own first steps: after the end of the one before, and with its first container."""

from __future__ import annotations

from contextlib import suppress

from berth.client.engine import Engine
from berth.errors import BerthError
from berth.wire.container import HostConfig
from support.scenarios.world import CODE, SUBJECT, Scenario, World, eventually


class Restart(Scenario):
    """An engine that is killed while it recovers from the end of the one before."""

    points = ("engine.*",)

    def prepare(self, world: World) -> None:
        world.create()
        world.start()
        world.create("matrix-goes", host=HostConfig(auto_remove=True), volumes={"/scratch": {}})
        world.start("matrix-goes")

    def act(self, client: Engine, world: World) -> None:
        """The matrix kills the engine and starts it twice; meanwhile one ends."""
        with suppress(BerthError):
            client.containers.kill(SUBJECT, signal="TERM")
            client.containers.kill("matrix-goes", signal="TERM")

    def verify(self, world: World) -> None:
        eventually(lambda: (world.state() or {}).get("Status") == "exited", "it has ended")
        state = world.state()
        assert state is not None and state["ExitCode"] == CODE and world.log() == "begun\nbye\n"
        eventually(lambda: world.state("matrix-goes") is None, "a container with --rm has ended and is still there")
        world.start()

    def clean(self, world: World) -> None:
        world.remove()
        world.remove("matrix-goes")


class FirstStart(Scenario):
    """The first container of all claims a block of host ids; the next claims are made when it is full."""

    points = ("ids.claim.*",)
    fresh = True

    def act(self, client: Engine, world: World) -> None:
        client.containers.start(SUBJECT)

    def prepare(self, world: World) -> None:
        world.create()

    def verify(self, world: World) -> None:
        state = world.state()
        assert state is not None
        if state["Status"] != "running":
            world.start()
        assert world.exec("echo", "up") == ("up\n", 0)
