"""DNS in containers: names of neighbours, forwarding, what internal networks do not do, and a resolver that outlives engines."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dnslib
import pytest

from berth.network import host
from berth.wire.container import HostConfig
from berth.wire.network import EndpointSettings, NetworkCreateRequest
from netlab import LAN_ADDRESS, Lab, Namespace, in_lab


def ask(container: Namespace, name: str, kind: str = "A", *, tcp: bool = False, timeout: float = 3) -> dnslib.DNSRecord:
    """What 127.0.0.11 answers in a container."""
    query = dnslib.DNSRecord.question(name, kind)

    def inside() -> dnslib.DNSRecord:
        return dnslib.DNSRecord.parse(query.send("127.0.0.11", 53, tcp=tcp, timeout=timeout))

    return container.inside(inside)


def addresses(answer: dnslib.DNSRecord) -> list[str]:
    return sorted(str(record.rdata) for record in answer.rr)


@contextmanager
def upstream(lab: Lab, seen: list[str], port: int = 53) -> Iterator[None]:
    """A recording name server in the LAN, over UDP and TCP."""

    def make() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((LAN_ADDRESS, port))
        return udp, socket.create_server((LAN_ADDRESS, port))

    udp, tcp = lab.lan.inside(make)

    def answer(data: bytes, truncate: bool) -> bytes:
        query = dnslib.DNSRecord.parse(data)
        seen.append(str(query.q.qname))
        reply = query.reply()
        if "large" in str(query.q.qname) and truncate:
            reply.header.tc = 1
        else:
            reply.add_answer(dnslib.RR(query.q.qname, dnslib.QTYPE.A, rdata=dnslib.A("198.51.100.7"), ttl=60))
        return bytes(reply.pack())

    def serve_udp() -> None:
        while True:
            try:
                data, peer = udp.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            udp.sendto(answer(data, True), peer)

    def serve_tcp() -> None:
        while True:
            try:
                connection, _ = tcp.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(4096)
                if data:
                    reply = answer(data[2:], False)
                    connection.sendall(len(reply).to_bytes(2, "big") + reply)

    threads = [threading.Thread(target=serve_udp), threading.Thread(target=serve_tcp)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        lab.lan.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", (LAN_ADDRESS, port)))
        tcp.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        udp.close()
        tcp.close()


def test_names_aliases_and_reverse(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="app"))
        await lab.service.create(NetworkCreateRequest(name="back"))
        refusing = HostConfig(dns=["127.0.0.9"])
        web = await lab.run("web", mode="app", endpoints={"app": EndpointSettings(links=["db:store"])}, host_config=refusing)
        await lab.run("db", mode="app", endpoints={"app": EndpointSettings(aliases=["database", "both"])})
        await lab.run("db2", mode="app", endpoints={"app": EndpointSettings(aliases=["both"])})
        await lab.run("far", mode="back")
        db = lab.address("db", "app")
        for name in ("db", "DB", "database", "store", "db.app", lab.facts["db"].id[:12]):
            assert addresses(ask(web, name)) == [db], name
        assert addresses(ask(web, "db", tcp=True)) == [db]
        assert addresses(ask(web, "both")) == sorted([db, lab.address("db2", "app")])
        assert ask(web, "db", "AAAA").rr == []
        assert ask(web, "db", "AAAA").header.rcode == 0
        pointer = ".".join(reversed(db.split("."))) + ".in-addr.arpa"
        assert str(ask(web, pointer, "PTR").rr[0].rdata) == "db.app."
        # A name of another network is not ours, and the server that it is forwarded to refuses.
        assert ask(web, "far").header.rcode == dnslib.RCODE.SERVFAIL
        await lab.service.renamed(lab.facts["db"].id, "db-new")
        assert addresses(ask(web, "db-new")) == [db]
        assert "nameserver 127.0.0.11\n" in lab.read("web", "resolv.conf")
        assert "ndots:0" in lab.read("web", "resolv.conf")
        assert f"{lab.address('web', 'app')}\t" in lab.read("web", "hosts")

    in_lab(tmp_path, test)


def test_other_names_are_forwarded_unchanged(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        seen: list[str] = []
        await lab.service.create(NetworkCreateRequest(name="app"))
        # The first server does not answer, the second refuses by ICMP, the third is the one.
        config = HostConfig(dns=["127.0.0.9", LAN_ADDRESS])
        web = await lab.run("web", mode="app", host_config=config)
        with upstream(lab, seen):
            assert addresses(ask(web, "example.test")) == ["198.51.100.7"]
            assert addresses(ask(web, "large.test", tcp=True)) == ["198.51.100.7"]
            assert ask(web, "large.test").header.tc == 1
            assert addresses(ask(web, "web")) == [lab.address("web", "app")]
        assert seen == ["example.test.", "large.test.", "large.test."]

    in_lab(tmp_path, test)


def test_application_may_bind_port_53_itself(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="app"))
        web = await lab.run("web", mode="app")
        with web.listen_udp(53):
            assert addresses(ask(web, "web")) == [lab.address("web", "app")]

    in_lab(tmp_path, test)


def test_names_survive_the_engine_and_the_resolver(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="app"))
        web = await lab.run("web", mode="app")
        # The engine goes, names stay.
        await lab.service.stop()
        assert addresses(ask(web, "web")) == [lab.address("web", "app")]
        lab.database.close()
        service = lab.new_service()
        await service.start()
        facts = lab.facts["web"]
        await service.restore([(facts, web.pid)])
        assert len(lab.workers) == 1
        await lab.run("db", mode="app")
        assert addresses(ask(web, "db")) == [lab.address("db", "app")]
        # The resolver goes: it is started again, the shim hands its sockets over anew.
        os.kill(lab.workers[0], signal.SIGKILL)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if len(lab.workers) == 2:
                break
        lab.hand_over(facts.id, lab.config.resolver)
        assert addresses(ask(web, "db")) == [lab.address("db", "app")]

    in_lab(tmp_path, test)


def test_connect_and_disconnect_of_a_running_container(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="app"))
        await lab.service.create(NetworkCreateRequest(name="zoo"))
        web = await lab.run("web")
        # Port 53 of that address refuses: an unknown name is answered at once.
        db = await lab.run("db", mode="app", host_config=HostConfig(dns=["127.0.0.9"]))
        facts = lab.facts["web"]
        await lab.service.connect(facts, "app", EndpointSettings(aliases=["front"]), web.pid)
        with db.listen(80) as server, lab.lan.listen(81) as outside:
            assert web.reaches(server, lab.address("db", "app"), 80) == lab.address("web", "app")
            assert addresses(ask(web, "db")) == [lab.address("db", "app")]
            assert addresses(ask(db, "front")) == [lab.address("web", "app")]
            assert "nameserver 127.0.0.11" in lab.read("web", "resolv.conf")
            assert web.reaches(outside, LAN_ADDRESS, 81)
            await lab.service.disconnect(facts, "bridge", web.pid, force=False)
            assert web.reaches(outside, LAN_ADDRESS, 81)
            networks = lab.service.settings(facts).networks or {}
            assert list(networks) == ["app"]
            await lab.service.disconnect(facts, "app", web.pid, force=False)
            assert web.reaches(server, lab.address("db", "app"), 80, 0.3) is None
            await lab.service.connect(facts, "zoo", EndpointSettings(), web.pid)
            assert web.reaches(outside, LAN_ADDRESS, 81)
            assert ask(db, "front").header.rcode == dnslib.RCODE.SERVFAIL

    in_lab(tmp_path, test)


def test_default_bridge_without_reachable_servers_uses_the_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "resolv.conf"
    stub.write_text("nameserver 127.0.0.53\nsearch a.test\n")
    monkeypatch.setattr(host, "RESOLV_CONF", str(stub))
    monkeypatch.setattr(host, "UPSTREAM_FILES", ())

    async def test(lab: Lab) -> None:
        await lab.run("one")
        assert lab.read("one", "resolv.conf") == "nameserver 127.0.0.11\nsearch a.test\noptions ndots:0\n"
        await lab.run("two", host_config=HostConfig(dns=["198.51.100.9"]))
        assert lab.read("two", "resolv.conf") == "nameserver 198.51.100.9\nsearch a.test\n"
        assert len(lab.workers) == 1

    in_lab(tmp_path, test)
