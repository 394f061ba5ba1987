"""The life of a container: created, started, looked into, paused, changed, stopped, removed."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

from berth.client.containers import CreateBody
from berth.client.engine import Engine
from berth.client.exec import ExecConfig
from berth.errors import Conflict, NotFound
from berth.wire.container import HostConfig, HostConfigLogConfig
from berth.wire.network import PortBinding
from support.scenarios.world import CODE, SUBJECT, Scenario, World, eventually


class Create(Scenario):
    points = ("container.create.*", "volume.create.*", "snapshot.prepare.*")

    def act(self, client: Engine, world: World) -> None:
        host = HostConfig(binds=["matrix-named:/named"], port_bindings={"80/tcp": [PortBinding(host_ip="127.0.0.1")]})
        body = CreateBody(image="busybox", cmd=["ls", "/home"], volumes={"/home": {}}, host_config=host)
        client.containers.create(body, name=SUBJECT)

    def verify(self, world: World) -> None:
        anonymous = world.volumes() - {"matrix-named"}
        if world.state() is None:
            assert not anonymous, "a create that came to nothing leaves no anonymous volume"
            world.call(lambda c: self.act(c, world))
        else:
            assert len(anonymous) == 1
            try:
                world.call(lambda c: self.act(c, world))
                raise AssertionError("the name is taken")
            except Conflict:
                pass
        world.call(lambda c: c.containers.start(SUBJECT))
        assert world.call(lambda c: c.containers.wait(SUBJECT)).status_code == 0
        assert world.log() == "worker\n"

    def clean(self, world: World) -> None:
        world.remove()
        world.call(lambda c: c.volumes.remove("matrix-named", force=True))


class Start(Scenario):
    points = ("container.start.*", "network.attach.*", "launch.request.*", "launch.birth.*", "launch.setup.*", "launch.init.*")

    def prepare(self, world: World) -> None:
        ports = {"80/tcp": [PortBinding(host_ip="127.0.0.1")]}
        binds = ["matrix-data:/data"]
        host = HostConfig(network_mode="matrix-net", port_bindings=ports, binds=binds, runtime=self.runtime)
        world.create(host=host)

    def act(self, client: Engine, world: World) -> None:
        client.containers.start(SUBJECT)

    def verify(self, world: World) -> None:
        eventually(lambda: self._settled(world), "neither does it run nor has it ended")
        state = world.state()
        assert state is not None
        if state["Status"] != "running":
            assert state["Status"] in ("created", "exited") and state["Pid"] == 0, state
            if "engine" not in world.killed:
                assert world.error is not None or state["Status"] == "exited", "start has said that it runs"
            world.start()
        script = "ip -o addr show eth0 | grep -c 'inet '; touch /data/x; nslookup subject >/dev/null; echo $?"
        assert world.exec("sh", "-c", script)[0] == "1\n0\n"
        inspected = world.call(lambda c: c.containers.inspect_raw(SUBJECT))
        assert inspected["NetworkSettings"]["Ports"]["80/tcp"], inspected
        world.call(lambda c: c.containers.stop(SUBJECT, timeout=10))
        state = world.state()
        assert state is not None and (state["Status"], state["ExitCode"]) == ("exited", CODE), state
        assert world.log().endswith("begun\nbye\n")

    @staticmethod
    def _settled(world: World) -> bool:
        """The engine learns of a shim's end in its own time."""
        state = world.state()
        assert state is not None
        if state["Status"] != "running":
            return True
        try:
            return "begun" in world.log() and world.exec("true")[1] == 0
        except Conflict:
            return False

    def clean(self, world: World) -> None:
        world.remove()
        world.call(lambda c: c.volumes.remove("matrix-data"))


class StartJoined(Scenario):
    points = ("launch.join.*",)

    def prepare(self, world: World) -> None:
        world.create(host=HostConfig(network_mode="container:bystander", pid_mode="container:bystander"))

    def act(self, client: Engine, world: World) -> None:
        client.containers.start(SUBJECT)

    def verify(self, world: World) -> None:
        state = world.state()
        assert state is not None
        if state["Status"] != "running":
            world.start()
        assert "sleep 1000" in world.exec("ps", "-o", "args")[0]
        world.call(lambda c: c.containers.stop(SUBJECT, timeout=10))
        state = world.state()
        assert state is not None and state["ExitCode"] == CODE, state


class Stop(Scenario):
    points = (
        "container.stop.*", "container.end.*", "task.delete.*", "network.release.*", "shim.end.*", "shim.leave.*",
    )  # fmt: skip

    def prepare(self, world: World) -> None:
        ports = {"80/tcp": [PortBinding(host_ip="127.0.0.1")]}
        host = HostConfig(network_mode="matrix-net", port_bindings=ports, runtime=self.runtime)
        world.create(host=host)
        world.start()

    def act(self, client: Engine, world: World) -> None:
        client.containers.stop(SUBJECT, timeout=10)

    def verify(self, world: World) -> None:
        state = world.state()
        assert state is not None
        if state["Status"] == "running":
            world.call(lambda c: c.containers.stop(SUBJECT, timeout=10))
            state = world.state()
            assert state is not None
        # Killed before the shim could write down what it learned, and nobody is there who has a pidfd of init.
        lost = world.point == "shim.end.before-record" and {"engine", "shim"} <= world.killed
        assert state["Status"] == "exited" and state["ExitCode"] in ((CODE, 137) if lost else (CODE,)), state
        assert state["FinishedAt"] >= state["StartedAt"] and state["Pid"] == 0
        assert world.log() == "begun\nbye\n"
        world.start()
        world.call(lambda c: c.containers.kill(SUBJECT))
        assert world.call(lambda c: c.containers.wait(SUBJECT)).status_code == 137


class RunAndRemove(Scenario):
    """With --rm: it goes by itself when it has ended."""

    points = ("container.end.*", "container.remove.after-*", "shim.end.after-record", "network.release.after-endpoints")

    def prepare(self, world: World) -> None:
        world.create(host=HostConfig(auto_remove=True), volumes={"/scratch": {}})
        world.start()

    def act(self, client: Engine, world: World) -> None:
        waiting = client.containers.begin_wait(SUBJECT, condition="removed")
        world.call(lambda c: c.containers.kill(SUBJECT, signal="TERM"))
        world.notes["code"] = client.containers.finish_wait(waiting).status_code

    def verify(self, world: World) -> None:
        eventually(lambda: world.state() is None, "a container with --rm has ended and is still there")
        assert world.volumes() == set()
        if "engine" not in world.killed:
            assert world.notes["code"] == CODE
        world.create(host=HostConfig(auto_remove=True))


class Remove(Scenario):
    points = ("container.remove.*", "snapshot.remove.*", "volume.remove.*")

    def prepare(self, world: World) -> None:
        world.create(cmd=["sh", "-c", "echo kept > /scratch/file; echo more > /file"], volumes={"/scratch": {}})
        world.call(lambda c: c.containers.start(SUBJECT))
        world.call(lambda c: c.containers.wait(SUBJECT))

    def act(self, client: Engine, world: World) -> None:
        client.containers.remove(SUBJECT, volumes=True)

    def verify(self, world: World) -> None:
        state = world.state()
        if state is not None:
            assert state["Status"] == "exited" and len(world.volumes()) == 1, state
            world.call(lambda c: self.act(c, world))
        assert world.volumes() == set(), "rm -v has removed the container and left its volume"
        world.create()


class Exec(Scenario):
    points = ("exec.*",)

    def prepare(self, world: World) -> None:
        world.create(host=HostConfig(runtime=self.runtime))
        world.start()

    def act(self, client: Engine, world: World) -> None:
        config = ExecConfig(cmd=["sh", "-c", "echo out; exit 7"], attach_stdout=True, attach_stderr=True)
        world.notes["exec"] = made = client.execs.create(SUBJECT, config)
        with client.execs.start(made, tty=False) as stream:
            world.notes["output"] = b"".join(payload for _, payload in stream.frames())
        world.notes["code"] = client.execs.inspect(made).exit_code

    def verify(self, world: World) -> None:
        if "shim" in world.killed:
            eventually(lambda: (world.state() or {})["Status"] == "exited", "its shim was killed")
            state = world.state()
            assert state is not None and state["ExitCode"] == 137
            world.start()
        elif "engine" not in world.killed and "self" not in world.killed:
            assert (world.notes["output"], world.notes["code"]) == (b"out\n", 7)
        else:
            with suppress(NotFound):
                eventually(lambda: not self._inspect(world).running, "the exec does not end")
                assert self._inspect(world).exit_code in (7, 126, None) or "self" in world.killed
        assert world.exec("sh", "-c", "echo again; exit 3") == ("again\n", 3)
        listed = world.exec("ps", "-o", "args")[0].splitlines()
        assert len(listed) == 4, listed

    @staticmethod
    def _inspect(world: World) -> Any:
        return world.call(lambda c: c.execs.inspect(world.notes["exec"]))


class Pause(Scenario):
    points = ("container.pause.*", "container.unpause.*")

    def prepare(self, world: World) -> None:
        world.create()
        world.start()

    def act(self, client: Engine, world: World) -> None:
        client.containers.pause(SUBJECT)
        client.containers.unpause(SUBJECT)

    def verify(self, world: World) -> None:
        state = world.state()
        assert state is not None
        if state["Paused"]:
            world.call(lambda c: c.containers.unpause(SUBJECT))
        # What is frozen though the engine says that it runs would not answer.
        assert world.exec("echo", "awake") == ("awake\n", 0)
        world.call(lambda c: c.containers.pause(SUBJECT))
        world.call(lambda c: c.containers.unpause(SUBJECT))
        world.call(lambda c: c.containers.stop(SUBJECT, timeout=10))
        state = world.state()
        assert state is not None and state["ExitCode"] == CODE


class Change(Scenario):
    """Update and rename."""

    points = ("container.update.*", "container.rename.*")

    def prepare(self, world: World) -> None:
        world.notes["id"] = world.create(host=HostConfig(network_mode="matrix-net"))
        world.start()

    def act(self, client: Engine, world: World) -> None:
        client.containers.update(SUBJECT, {"PidsLimit": 77})
        client.containers.rename(SUBJECT, "matrix-renamed")

    def verify(self, world: World) -> None:
        identifier = world.notes["id"]
        found = world.call(lambda c: c.containers.inspect_raw(identifier))
        names = [n for c in world.call(lambda c: c.containers.list(all=True)) if c.id == identifier for n in c.names or []]
        assert names == [found["Name"]] and found["Name"] in (f"/{SUBJECT}", "/matrix-renamed")
        if found["Name"] == f"/{SUBJECT}":
            world.call(lambda c: self.act(c, world))
        assert world.call(lambda c: c.containers.inspect_raw("matrix-renamed"))["HostConfig"]["PidsLimit"] == 77
        assert world.exec("nslookup", "matrix-renamed", name=identifier)[1] == 0
        world.create()

    def clean(self, world: World) -> None:
        world.remove(world.notes["id"])
        world.remove()


class Rotate(Scenario):
    """A log that is rotated while somebody is killed: whole lines, in order, nothing twice."""

    points = ("log.rotate.*",)

    def prepare(self, world: World) -> None:
        script = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); done; echo begun; sleep 1000"
        log = HostConfigLogConfig(type="json-file", config={"max-size": "2k", "max-file": "3"})
        world.create(cmd=["sh", "-c", script], host=HostConfig(log_config=log))

    def act(self, client: Engine, world: World) -> None:
        client.containers.start(SUBJECT)
        eventually(lambda: "begun" in world.log(), "the log does not go on")

    def verify(self, world: World) -> None:
        self._whole(world)
        state = world.state()
        assert state is not None
        if state["Status"] != "running":
            world.call(lambda c: c.containers.start(SUBJECT))
        eventually(lambda: "begun" in world.log(), "the log does not go on")
        self._whole(world)

    @staticmethod
    def _whole(world: World) -> None:
        numbers = [int(line.split()[1]) for line in world.log().splitlines() if line.startswith("line")]
        steps = {(b - a) for a, b in pairwise(numbers) if b}
        assert steps <= {1}, numbers
