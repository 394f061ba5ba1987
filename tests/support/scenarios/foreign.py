"""Containers that another runtime's binary makes: the same operations, by the points of that way."""

from __future__ import annotations

import os
import signal

from berth.client.engine import Engine
from berth.errors import BerthError
from berth.wire.container import HostConfig
from support.scenarios.container import Exec, Start, Stop
from support.scenarios.world import SUBJECT, Scenario, World, eventually


class RuncStart(Start):
    points = ("foreign.make.*", "foreign.network.*", "foreign.binary.*")
    runtime = "runc"


class RuncExec(Exec):
    points = ("foreign.exec.*", "foreign.binary.*")
    runtime = "runc"


class RuncStop(Stop):
    points = ("foreign.end.*",)
    runtime = "runc"


class RuncFails(Scenario):
    """A program that is not there: what the binary has made of it is taken back."""

    points = ("foreign.undo.*",)
    runtime = "runc"

    def prepare(self, world: World) -> None:
        world.create(cmd=["not-there"], host=HostConfig(network_mode="matrix-net", runtime=self.runtime))

    def act(self, client: Engine, world: World) -> None:
        client.containers.start(SUBJECT)

    def verify(self, world: World) -> None:
        eventually(lambda: (world.state() or {})["Status"] in ("created", "exited"), "it is neither here nor there")
        try:
            world.call(lambda c: self.act(c, world))
            raise AssertionError("there is no such program")
        except BerthError as error:
            assert "not-there" in str(error) or "executable file not found" in str(error), error
        world.remove()
        world.create(host=HostConfig(network_mode="matrix-net", runtime=self.runtime))
        world.start()


class RuncShimDies(Scenario):
    """Its shim is killed by somebody: the engine has the rest removed by the binary."""

    points = ("foreign.forget.*",)
    runtime = "runc"

    def prepare(self, world: World) -> None:
        world.create(host=HostConfig(runtime=self.runtime))
        world.start()

    def act(self, client: Engine, world: World) -> None:
        state = world.state()
        assert state is not None
        with open(f"/proc/{state['Pid']}/stat") as file:
            shim = int(file.read().rpartition(")")[2].split()[1])
        os.kill(shim, signal.SIGKILL)
        client.containers.wait(SUBJECT)

    def verify(self, world: World) -> None:
        eventually(lambda: (world.state() or {})["Status"] == "exited", "its shim was killed")
        state = world.state()
        assert state is not None and (state["ExitCode"], state["Pid"]) == (137, 0), state
        world.start()
        assert world.exec("echo", "again") == ("again\n", 0)


class CrunStart(RuncStart):
    runtime = "crun"


class CrunExec(RuncExec):
    runtime = "crun"


class CrunStop(RuncStop):
    runtime = "crun"


class CrunFails(RuncFails):
    runtime = "crun"


class CrunShimDies(RuncShimDies):
    runtime = "crun"


OTHER_RUNTIMES: tuple[type[Scenario], ...] = (
    RuncStart, RuncExec, RuncStop, RuncFails, RuncShimDies, CrunStart, CrunExec, CrunStop, CrunFails, CrunShimDies,
)  # fmt: skip
