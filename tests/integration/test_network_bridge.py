"""The default bridge and user-defined bridges on a real kernel: ways out, published ports, isolation."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from berth.errors import ResourceExhausted
from berth.wire.network import NetworkCreateRequest
from netlab import HOST_ADDRESS, LAN_ADDRESS, Lab, in_lab, reaches


def test_container_reaches_the_lan_masqueraded(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one")
        with lab.lan.listen(80) as server:
            assert one.reaches(server, LAN_ADDRESS, 80) == HOST_ADDRESS
        assert lab.address("one") == "172.17.0.2"
        await lab.stop("one")
        assert not lab.database.rows("SELECT * FROM endpoints")

    in_lab(tmp_path, test)


def test_published_port_is_reached_from_everywhere(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="other"))
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        two = await lab.run("two")
        three = await lab.run("three", mode="other")
        with one.listen(80) as server:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
            assert reaches(server, "127.0.0.1", 8080) == "172.17.0.1"
            assert reaches(server, HOST_ADDRESS, 8080)
            assert one.reaches(server, HOST_ADDRESS, 8080) == "172.17.0.1"
            assert two.reaches(server, HOST_ADDRESS, 8080) == "172.17.0.1"
            assert two.reaches(server, lab.address("one"), 80) == lab.address("two")
            assert three.reaches(server, HOST_ADDRESS, 8080)
        ports = lab.service.settings(lab.facts["one"]).ports
        assert ports is not None
        assert [(b.host_ip, b.host_port) for b in ports["80/tcp"] or []] == [("0.0.0.0", "8080"), ("::", "8080")]

    in_lab(tmp_path, test)


def test_port_is_free_again_after_release(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        for _ in range(2):
            one = await lab.run("one", ports={"80/tcp": [("127.0.0.1", "8080")]})
            with one.listen(80) as server:
                assert reaches(server, "127.0.0.1", 8080) == "172.17.0.1"
                assert lab.lan.reaches(server, HOST_ADDRESS, 8080, 0.3) is None
            await lab.stop("one")
        with socket.create_server(("127.0.0.1", 8080)):
            pass

    in_lab(tmp_path, test)


def test_container_is_reached_though_its_predecessors_namespace_lives_on(tmp_path: Path) -> None:
    """The kernel takes a namespace down some time after its last process: until then two ports carry one MAC address."""

    async def test(lab: Lab) -> None:
        first = await lab.run("one")
        with first.listen(80) as server:
            assert reaches(server, "172.17.0.2", 80) == "172.17.0.1"
        held = os.dup(first.fd)
        try:
            await lab.stop("one")
            second = await lab.run("one")
            assert lab.address("one") == "172.17.0.2"
            with second.listen(80) as server:
                assert reaches(server, "172.17.0.2", 80) == "172.17.0.1"
        finally:
            os.close(held)

    in_lab(tmp_path, test)


def test_port_conflicts_are_told_in_dockers_words(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.run("one", ports={"80/tcp": [("", "8080")]})
        with pytest.raises(ResourceExhausted, match=r"driver failed programming external connectivity on endpoint two \(\w+\): "
                           r"Bind for 0.0.0.0:8080 failed: port is already allocated"):  # fmt: skip
            await lab.run("two", ports={"80/tcp": [("", "8080")]})
        with (
            socket.create_server(("127.0.0.1", 9090)),
            pytest.raises(ResourceExhausted, match=r"listen tcp4 0.0.0.0:9090: bind: address already in use"),
        ):
            await lab.run("three", ports={"80/tcp": [("", "9090")]})
        with pytest.raises(OSError, match="already in use"):
            socket.create_server(("0.0.0.0", 8080))
        assert lab.address("one") == "172.17.0.2"
        four = await lab.run("four", ports={"80/tcp": [("", "8080-8090")], "81/tcp": [("", "")]})
        with four.listen(80) as server:
            assert reaches(server, "127.0.0.1", 8081)
        assert lab.address("four") == "172.17.0.3"

    in_lab(tmp_path, test)


def test_networks_are_apart(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="other"))
        await lab.service.create(NetworkCreateRequest(name="inner", internal=True))
        one = await lab.run("one")
        two = await lab.run("two", mode="other")
        three = await lab.run("three", mode="inner")
        four = await lab.run("four", mode="inner")
        with one.listen(80) as server, lab.lan.listen(81) as outside, four.listen(82) as inner:
            assert two.reaches(server, lab.address("one"), 80, 0.3) is None
            assert three.reaches(server, lab.address("one"), 80, 0.3) is None
            assert three.reaches(outside, LAN_ADDRESS, 81, 0.3) is None
            assert three.reaches(inner, lab.address("four", "inner"), 82) == lab.address("three", "inner")
            # Not even by setting routes by hand.
            three.shell(f"ip route add default via {lab.address('four', 'inner').rpartition('.')[0]}.1")
            assert three.reaches(server, lab.address("one"), 80, 0.3) is None
            assert three.reaches(outside, LAN_ADDRESS, 81, 0.3) is None
            # The LAN routes to container addresses by itself.
            lab.lan.shell(f"ip route add 172.16.0.0/12 via {HOST_ADDRESS}")
            assert lab.lan.reaches(server, lab.address("one"), 80, 0.3) is None
            assert reaches(server, lab.address("one"), 80)

    in_lab(tmp_path, test)


def test_udp_port_answers_from_the_published_address(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        def ask() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(2)
                client.connect((HOST_ADDRESS, 5353))
                client.send(b"hi")
                packet, peer = server.recvfrom(100)
                server.sendto(packet.upper(), peer)
                return client.recv(100)

        one = await lab.run("one", ports={"53/udp": [("", "5353")]})
        with one.listen_udp(53) as server:
            assert lab.lan.inside(ask) == b"HI"
            assert ask() == b"HI"
        await lab.stop("one")

    in_lab(tmp_path, test)


def test_udp_flows_follow_the_port(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        def client_socket() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((LAN_ADDRESS, 40000))
            sock.settimeout(2)
            return sock

        with lab.lan.inside(client_socket) as client:
            # A flow from before the port was published, and then one to a container that has gone.
            client.sendto(b"early", (HOST_ADDRESS, 5353))
            for name in ("one", "two"):
                await lab.run("spare" + name)
                container = await lab.run(name, ports={"53/udp": [("", "5353")]})
                await asyncio.sleep(0.2)
                with container.listen_udp(53) as server:
                    client.sendto(name.encode(), (HOST_ADDRESS, 5353))
                    assert server.recvfrom(100) == (name.encode(), (LAN_ADDRESS, 40000))
                await lab.stop(name)
                await asyncio.sleep(0.2)

    in_lab(tmp_path, test)
