"""Networks, a container's connections to them, and volumes."""

from __future__ import annotations

import socket
from contextlib import suppress

from berth.client.engine import Engine
from berth.client.networks import NetworkCreate
from berth.client.volumes import VolumeCreate
from berth.errors import NotFound
from berth.wire.container import HostConfig
from berth.wire.network import PortBinding
from support import leak
from support.scenarios.world import SUBJECT, Scenario, World, eventually


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


class Ports(Scenario):
    """Ports of a running container that come and go: record, rules of the firewall and who holds the host's port are one."""

    points = ("container.ports.*", "network.publish.*", "network.unpublish.*")

    def prepare(self, world: World) -> None:
        world.notes["ports"] = ports = _free_ports()
        world.create(host=HostConfig(network_mode="matrix-net", port_bindings=_bindings(80, ports[0])))
        world.start()

    def act(self, client: Engine, world: World) -> None:
        old, new = world.notes["ports"]
        client.containers.change_ports(SUBJECT, publish=_bindings(81, new), unpublish=_bindings(80, old))

    def verify(self, world: World) -> None:
        old, new = world.notes["ports"]
        now = self._check(world)
        assert now in ({80: old}, {81: new}), now
        if "engine" not in world.killed or world.point == "container.ports.after-record":
            assert now == {81: new}
        if now == {80: old}:
            world.call(lambda c: self.act(c, world))
        assert self._check(world) == {81: new}
        world.call(lambda c: c.containers.change_ports(SUBJECT, publish=_bindings(80, old)))
        assert self._check(world) == {80: old, 81: new}

    @staticmethod
    def _check(world: World) -> dict[int, int]:
        """The container's ports and the host's that lead there, by its record, its run, the firewall and the sockets."""
        found = world.call(lambda c: c.containers.inspect_raw(SUBJECT))
        recorded, live = (
            {int(key.split("/")[0]): int(entry["HostPort"]) for key, entries in ports.items() for entry in entries or []}
            for ports in (found["HostConfig"]["PortBindings"], found["NetworkSettings"]["Ports"])
        )
        rules = "\n".join(leak.firewall(world.engine.config.name))
        assert recorded == live
        for port in world.notes["ports"]:
            led = port in live.values()
            assert (str(port) in rules) is led, (port, rules)
            said = f"port {port} is {'not ' if led else ''}held"
            eventually(lambda port=port, led=led: _is_held(port) is led, said)  # type: ignore[misc]  # its defaults bind the loop's values
        return recorded


def _bindings(inside: int, port: int) -> dict[str, list[PortBinding] | None]:
    return {f"{inside}/tcp": [PortBinding(host_ip="127.0.0.1", host_port=str(port))]}


def _free_ports() -> tuple[int, int]:
    """Two that nobody has, below those that the kernel gives out."""
    free = [port for port in range(23000, 23500) if not _is_held(port)]
    return free[0], free[1]


def _is_held(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


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
