"""Networks, a container's connections to them, and volumes."""

from __future__ import annotations

from contextlib import suppress

from berth.client.engine import Engine
from berth.client.networks import NetworkCreate
from berth.client.volumes import VolumeCreate
from berth.errors import NotFound
from berth.wire.container import HostConfig
from support.scenarios.world import SUBJECT, Scenario, World


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
