"""The operations of the failpoint matrix: what is there before, what is done, and what must hold whoever was killed in between.

Each scenario names the points that it comes by. `verify` is called when an engine serves again: the operation was done or
it was not, never half; then it is tried again, and has to work. `clean` takes everything away: the matrix compares.
"""

from __future__ import annotations

import io
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from berth.client.build import BuildOptions
from berth.client.containers import CreateBody
from berth.client.engine import Engine
from berth.client.exec import ExecConfig
from berth.client.networks import NetworkCreate
from berth.client.volumes import VolumeCreate
from berth.errors import BerthError, Conflict, NotFound
from berth.wire.container import HostConfig, HostConfigLogConfig
from berth.wire.network import PortBinding
from support.engine import SLOW, EngineProcess
from unit.images.test_image_archive import config_of, docker_archive
from unit.images.twins import tar_of

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
    """One operation. `points` are patterns of the names that it comes by. A `fresh` one wants an engine that has run nothing."""

    points: ClassVar[tuple[str, ...]] = ()
    fresh: ClassVar[bool] = False

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
        host = HostConfig(
            network_mode="matrix-net", port_bindings={"80/tcp": [PortBinding(host_ip="127.0.0.1")]}, binds=["matrix-data:/data"]
        )
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
        host = HostConfig(network_mode="matrix-net", port_bindings={"80/tcp": [PortBinding(host_ip="127.0.0.1")]})
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


class VolumeLife(Scenario):
    points = ("volume.create.*", "volume.remove.*")

    def act(self, client: Engine, world: World) -> None:
        client.volumes.create(VolumeCreate(name="matrix-volume"))
        client.volumes.remove("matrix-volume")

    def verify(self, world: World) -> None:
        world.call(lambda c: c.volumes.create(VolumeCreate(name="matrix-volume")))
        assert world.run("ls", "-A", "/v", binds=["matrix-volume:/v"]) == ""

    def clean(self, world: World) -> None:
        world.call(lambda c: c.volumes.remove("matrix-volume"))


class NetworkLife(Scenario):
    points = ("network.create.*", "network.remove.*")

    def act(self, client: Engine, world: World) -> None:
        client.networks.create(NetworkCreate(name="matrix-other"))
        client.networks.remove("matrix-other")

    def verify(self, world: World) -> None:
        with suppress(NotFound):
            world.call(lambda c: c.networks.remove("matrix-other"))
        world.call(lambda c: c.networks.create(NetworkCreate(name="matrix-other")))
        world.create(host=HostConfig(network_mode="matrix-other"))
        world.start()
        assert world.exec("nslookup", SUBJECT)[1] == 0

    def clean(self, world: World) -> None:
        world.remove()
        world.call(lambda c: c.networks.remove("matrix-other"))


class Connect(Scenario):
    points = ("network.connect.*", "network.disconnect.*")

    def prepare(self, world: World) -> None:
        world.create()
        world.start()

    def act(self, client: Engine, world: World) -> None:
        client.networks.connect("matrix-net", SUBJECT)
        client.networks.disconnect("matrix-net", SUBJECT)

    def verify(self, world: World) -> None:
        def joined() -> bool:
            return "matrix-net" in world.call(lambda c: c.containers.inspect_raw(SUBJECT))["NetworkSettings"]["Networks"]

        def interfaces() -> int:
            return int(world.exec("sh", "-c", "ls /sys/class/net | grep -c eth")[0])

        assert interfaces() == 1 + joined(), (interfaces(), joined())
        if not joined():
            world.call(lambda c: c.networks.connect("matrix-net", SUBJECT))
        assert interfaces() == 2
        assert world.exec("nslookup", SUBJECT)[1] == 0
        world.call(lambda c: c.networks.disconnect("matrix-net", SUBJECT))
        assert interfaces() == 1


class Exec(Scenario):
    points = ("exec.*",)

    def prepare(self, world: World) -> None:
        world.create()
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


class ImageScenario(Scenario):
    """Something that makes the image `matrix:1`; `matrix:1` has the file /made."""

    tag: ClassVar[str] = "matrix:1"

    @abstractmethod
    def make(self, client: Engine, world: World) -> None:
        """Make it."""

    def name(self, world: World) -> str:
        """The image's name."""
        return self.tag

    def act(self, client: Engine, world: World) -> None:
        self.make(client, world)

    def verify(self, world: World) -> None:
        if self.name(world) in world.images():
            self.check(world)
        world.call(lambda c: self.make(c, world))
        assert self.name(world) in world.images()
        self.check(world)

    def check(self, world: World) -> None:
        """The image works."""
        made = world.call(lambda c: c.containers.create(CreateBody(image=self.name(world), cmd=["none"]))).id
        try:
            with world.engine.client as client:
                _, response = client.containers.get_archive(made, "/made")
                with tarfile.open(fileobj=io.BytesIO(response.read())) as tar:
                    assert tar.getnames() == ["made"]
        finally:
            world.remove(made)

    def clean(self, world: World) -> None:
        world.call(lambda c: c.images.remove(self.name(world), force=True))
        # What was made before the kill and what was made afterwards may differ in their times.
        world.call(lambda c: c.images.prune(filters={"dangling": ["true"]}))


def _through(messages: Iterator[Any]) -> None:
    """To the end; what goes wrong on the way is raised."""
    for _ in messages:
        pass


class Import(ImageScenario):
    points = ("layer.stage.*", "layer.publish.*", "blob.write.*", "image.add.*", "lease.*")

    def make(self, client: Engine, world: World) -> None:
        _through(client.images.import_tar(tar_of(made="x"), repo="matrix", tag="1"))


class Load(ImageScenario):
    points = ("image.load.*", "blob.ingest.*")

    def make(self, client: Engine, world: World) -> None:
        first, second = tar_of(first="x"), tar_of(made="x")
        data = docker_archive(config_of(first, second), {"1.tar": first, "2.tar": second}, ["matrix:1"])
        _through(client.images.load(data))


class Pull(ImageScenario):
    points = ("image.pull.*", "blob.ingest.*", "blob.write.*", "layer.publish.*")

    def name(self, world: World) -> str:
        return f"{world.registry}/app:1"

    def make(self, client: Engine, world: World) -> None:
        _through(client.images.pull(self.name(world)))


class Commit(ImageScenario):
    points = ("container.commit.*", "snapshot.commit.*")

    def prepare(self, world: World) -> None:
        world.create(cmd=["sh", "-c", f"touch /made; {PROGRAM}"])
        world.start()

    def make(self, client: Engine, world: World) -> None:
        client.images.commit(SUBJECT, repo="matrix", tag="1")

    def verify(self, world: World) -> None:
        assert world.exec("echo", "awake") == ("awake\n", 0), "frozen for a commit, and never thawed"
        super().verify(world)

    def clean(self, world: World) -> None:
        world.remove()
        super().clean(world)


class Build(ImageScenario):
    points = ("build.*", "snapshot.commit.*", "launch.setup.after-exec", "launch.birth.after-run-file")

    def make(self, client: Engine, world: World) -> None:
        context = tar_of(Dockerfile="FROM busybox\nRUN touch /made\nLABEL a=b\n")
        _through(client.builds.build(context, BuildOptions(tags=("matrix:1",))))

    def clean(self, world: World) -> None:
        super().clean(world)
        world.call(lambda c: c.builds.prune(all=True))


class Tag(Scenario):
    points = ("image.tag.*", "image.untag.*")

    def act(self, client: Engine, world: World) -> None:
        client.images.tag("busybox", "matrix", "2")
        client.images.remove("matrix:2")

    def verify(self, world: World) -> None:
        world.call(lambda c: c.images.tag("busybox", "matrix", "2"))
        assert world.images() == {"busybox:latest", "matrix:2"}

    def clean(self, world: World) -> None:
        world.call(lambda c: c.images.remove("matrix:2"))


class RemoveImage(Scenario):
    points = ("image.untag.*", "image.delete.*", "layer.remove.*", "blob.delete.*")

    def prepare(self, world: World) -> None:
        world.call(lambda c: Load().make(c, world))

    def act(self, client: Engine, world: World) -> None:
        client.images.remove("matrix:1")

    def verify(self, world: World) -> None:
        world.call(lambda c: c.images.prune(filters={"dangling": ["true"]}))
        world.call(lambda c: Load().make(c, world))
        Load().check(world)

    def clean(self, world: World) -> None:
        world.call(lambda c: c.images.remove("matrix:1"))


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


SCENARIOS: tuple[type[Scenario], ...] = (
    Create, Start, StartJoined, Stop, RunAndRemove, Remove, VolumeLife, NetworkLife, Connect, Exec, Pause, Change, Import, Load,
    Pull, Commit, Build, Tag, RemoveImage, Rotate, Restart, FirstStart,
)  # fmt: skip
