"""A laboratory for networks: the test's own "host" network namespace with an uplink to a "LAN", and containers that are a
network namespace with a sleeping process in it, connected by a NetworkPlan as the runtime would."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from berth.contract.network import Attachment, ContainerFacts
from berth.contract.usage import User
from berth.engine.config import EngineConfig
from berth.engine.events import Events
from berth.engine.networks import NetworkService
from berth.kernel import netlink, nfnetlink
from berth.kernel.namespace import setns, unshare
from berth.model.identifier import new_id
from berth.network import live, stale
from berth.network.host import write_sysctl
from berth.storage.database import Database
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.network import EndpointSettings, PortBinding

T = TypeVar("T")
_NEWNET = 0x40000000
HOST_ADDRESS = "192.0.2.2"
LAN_ADDRESS = "192.0.2.1"


class Namespace:
    """A network namespace with a process that sleeps in it."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                unshare(_NEWNET)
                os.write(writer, b"x")
                while True:
                    time.sleep(1000)
            finally:
                os._exit(1)
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        os.close(reader)
        self.fd = live.open_namespace(self.pid)

    def inside(self, work: Callable[[], T]) -> T:
        """Run it there."""
        return live.run_inside(self.fd, work)

    def shell(self, command: str) -> None:
        """A command there, for what a hostile root could do."""
        subprocess.run(["nsenter", f"--net=/proc/{self.pid}/ns/net", "sh", "-ec", command], check=True, timeout=20)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; the namespace goes with it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.fd)
            self.pid = 0

    def listen(self, port: int, address: str = "") -> socket.socket:
        """A TCP server there, without an accept."""
        address = address or "0.0.0.0"

        def make() -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.create_server((address, port), family=family)
            sock.settimeout(2)
            return sock

        return self.inside(make)

    def listen_udp(self, port: int) -> socket.socket:
        """A UDP server there."""

        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("0.0.0.0", port))
            sock.settimeout(2)
            return sock

        return self.inside(make)

    def reaches(self, server: socket.socket, address: str, port: int, timeout: float = 2) -> str | None:
        """Connect from there; the address that the server sees, or None when it cannot be reached."""
        return self.inside(lambda: reaches(server, address, port, timeout))


def reaches(server: socket.socket, address: str, port: int, timeout: float = 2) -> str | None:
    """Connect from here; the address that the server sees, or None when it cannot be reached."""
    try:
        client = socket.create_connection((address, port), timeout)
    except OSError:
        return None
    with client:
        try:
            accepted, peer = server.accept()
        except TimeoutError:
            return None
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(10) == b"hello"
        return str(peer[0])


class NoUsage:
    """Nobody but the endpoints themselves uses a network."""

    def of_image(self, image_id: str) -> list[User]:
        return []

    def by_image(self) -> Counter[str]:
        return Counter()

    def by_volume(self) -> Counter[str]:
        return Counter()

    def of_volume(self, name: str) -> list[User]:
        return []

    def of_network(self, network_id: str, name: str) -> list[User]:
        return []


class Lab:
    """An engine's networks in a namespace of the test's own."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.config = EngineConfig(root=str(path / "root"), **settings)
        os.makedirs(self.config.run, exist_ok=True)
        os.makedirs(self.config.root, exist_ok=True)
        self.lan = Namespace()
        self.containers: dict[str, Namespace] = {}
        self.facts: dict[str, ContainerFacts] = {}
        self.workers: list[int] = []
        self.connections: list[socket.socket] = []
        self.sockets: dict[str, Sequence[int]] = {}
        self.dns: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._uplink()
        self.events = Events()
        self.service = self.new_service()

    def new_service(self) -> NetworkService:
        """Another engine on the same root, as after a restart."""
        self.database = Database(str(self.path / "root/berth.db"))
        service = NetworkService(self.config, self.database, self.events, self.spawn)
        service.usage = NoUsage()
        self.service = service
        return service

    def _uplink(self) -> None:
        netlink.configure()
        netlink.create_veth("eth0", "", "eth0", self.lan.fd, "02:00:00:00:00:01", 1400)
        netlink.configure([("eth0", "", [f"{HOST_ADDRESS}/24", "fd00:77::2/64"], 1400)], [("0.0.0.0/0", LAN_ADDRESS, "eth0")])
        self.lan.inside(lambda: netlink.configure([("eth0", "", [f"{LAN_ADDRESS}/24", "fd00:77::1/64"], 1400)]))

    async def spawn(self, module: str, arguments: Sequence[str], fds: Sequence[int]) -> int:
        """What the launcher does for the engine."""
        pid = os.fork()
        if not pid:
            try:
                # The launcher, which does this for an engine, has none of the engine's sockets.
                for fd in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *fds}:
                    with contextlib.suppress(OSError):
                        os.close(fd)
                importlib.import_module(module).main(arguments, fds)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        self.workers.append(pid)
        return pid

    def new_facts(
        self,
        name: str,
        *,
        mode: str = "bridge",
        ports: dict[str, list[tuple[str, str]]] | None = None,
        endpoints: dict[str, EndpointSettings] | None = None,
        host_config: HostConfig | None = None,
        config: ContainerConfig | None = None,
    ) -> ContainerFacts:
        """A container's facts; `ports` are container port to (host address, host port)."""
        host = host_config or HostConfig()
        host.network_mode = mode
        host.port_bindings = {k: [PortBinding(host_ip=a, host_port=p) for a, p in v] for k, v in (ports or {}).items()}
        config = config or ContainerConfig()
        return ContainerFacts(id=new_id(), name=name, config=config, host_config=host, endpoints=endpoints or {})

    async def run(self, name: str, **options: Any) -> Namespace:
        """Attach and start a container."""
        facts = self.new_facts(name, **options)
        facts.endpoints = self.service.check(facts)
        attachment = await self.service.attach(facts)
        return self.start(facts, attachment)

    def start(self, facts: ContainerFacts, attachment: Attachment) -> Namespace:
        """What the runtime does with the plan."""
        container = Namespace()
        self.containers[facts.name] = container
        self.facts[facts.name] = facts
        self.sockets[facts.id] = attachment.reserved
        directory = self.config.container(facts.id)
        os.makedirs(directory, exist_ok=True)
        Path(directory, "hosts").write_text(attachment.hosts)
        Path(directory, "resolv.conf").write_text(attachment.resolv_conf)
        plan = attachment.plan
        assert plan is not None
        for e in plan.endpoints:
            if e.kind == "veth":
                netlink.create_veth(e.host_name, e.parent, e.name, container.fd, e.mac, e.mtu, e.hairpin, e.isolated)
            else:
                netlink.create_macvlan(e.parent, e.name, container.fd, e.mac, e.mtu, e.mode, e.kind)

        def inside() -> None:
            for e in plan.endpoints:
                for key, value in e.sysctls.items():
                    write_sysctl(key, value)
            routes = [(r.destination, r.gateway, e.name) for e in plan.endpoints for r in e.routes]
            netlink.configure([(e.name, "", e.addresses, e.mtu) for e in plan.endpoints], routes)

        container.inside(inside)
        if plan.resolver:
            self._serve(facts.id, container, plan.resolver)
        return container

    def _serve(self, container_id: str, container: Namespace, path: str) -> None:
        def inside() -> tuple[socket.socket, socket.socket]:
            udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
            udp.bind(("127.0.0.11", 0))
            tcp.bind(("127.0.0.11", 0))
            nfnetlink.redirect_dns(udp.getsockname()[1], tcp.getsockname()[1])
            return udp, tcp

        self.dns[container_id] = container.inside(inside)
        self.hand_over(container_id, path)

    def hand_over(self, container_id: str, path: str) -> None:
        """What the shim does with the sockets, at first and when the resolver has been started anew."""
        udp, tcp = self.dns[container_id]
        shim = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        shim.connect(path)
        rights = array("i", [udp.fileno(), tcp.fileno()])
        message = b'{"v":1,"op":"serve","container":"%s"}' % container_id.encode()
        shim.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self.connections.append(shim)

    async def stop(self, name: str) -> None:
        """End a container, as after its exit."""
        self.containers.pop(name).close()
        facts = self.facts.pop(name)
        for fd in self.sockets.pop(facts.id):
            os.close(fd)
        await self.service.release(facts.id)
        self.service.forget(facts.id)

    def address(self, name: str, network: str = "bridge") -> str:
        """A container's IPv4 address."""
        networks = self.service.settings(self.facts[name]).networks or {}
        return networks[network].ip_address or ""

    def read(self, name: str, file: str) -> str:
        """hosts or resolv.conf of a container."""
        return Path(self.config.container(self.facts[name].id), file).read_text()

    def close(self) -> None:
        """End everything that was started."""
        for sock in [*self.connections, *(sock for pair in self.dns.values() for sock in pair)]:
            sock.close()
        for container in self.containers.values():
            container.close()
        for fds in self.sockets.values():
            for fd in fds:
                os.close(fd)
        self.lan.close()
        for pid in self.workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(pid, 0)
        self.database.close()
        stale.withdraw(self.config.name)
        shutil.rmtree(self.config.run, ignore_errors=True)


@contextmanager
def host_namespace() -> Iterator[None]:
    """The calling thread, and threads that it starts, in a network namespace of their own."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(_NEWNET)
        try:
            yield
        finally:
            setns(home, _NEWNET)
    finally:
        os.close(home)


def in_lab(path: Path, test: Callable[[Lab], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a test in a lab with a started engine; at its end nothing may be left. `settings` are the engine's."""
    with host_namespace():
        lab = Lab(path, **settings)

        async def whole() -> None:
            await lab.service.start()
            try:
                await test(lab)
            finally:
                await lab.service.stop()

        try:
            asyncio.run(whole())
        finally:
            lab.close()
