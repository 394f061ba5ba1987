"""Port maps with bindings added and taken away."""

from __future__ import annotations

import pytest

from berth.engine.port_bindings import added, canonical, without
from berth.errors import Conflict, InvalidArgument, NotFound
from berth.network.record import Published
from berth.wire.network import PortBinding


def binding(port: str = "", address: str = "") -> PortBinding:
    return PortBinding(host_ip=address, host_port=port)


def live(port: int, address: str = "0.0.0.0", target: int = 80) -> Published:
    return Published(protocol="tcp", address=address, port=port, target="172.17.0.2", target_port=target, network_id="n")


def test_keys_get_their_protocol() -> None:
    assert canonical({"80": [binding("1")], "80/tcp": [binding("2")], "53/udp": None}) == {
        "80/tcp": [binding("1"), binding("2")],
        "53/udp": [],
    }
    with pytest.raises(InvalidArgument):
        canonical({"80/icmp": []})


def test_adding_keeps_what_is_there() -> None:
    have = {"80/tcp": [binding("8080")]}
    assert added(have, {"80/tcp": [binding("8081")], "81/tcp": []}) == {
        "80/tcp": [binding("8080"), binding("8081")],
        "81/tcp": [PortBinding()],
    }
    assert have == {"80/tcp": [binding("8080")]}
    with pytest.raises(Conflict, match=r"port 80/tcp is already published on 0.0.0.0:8080"):
        added(have, {"80/tcp": [binding("8080")]})


def test_a_port_alone_takes_all_of_its_bindings() -> None:
    have = {"80/tcp": [binding("8080"), binding("8081")], "81/tcp": [binding("9")]}
    rest, gone = without(have, {"80/tcp": []}, [live(8080), live(8081), live(9, target=81)])
    assert rest == {"81/tcp": [binding("9")]} and gone == [live(8080), live(8081)]


def test_one_binding_takes_both_families() -> None:
    ports = [live(8080), live(8080, "::"), live(8081)]
    rest, gone = without({"80/tcp": [binding("8080"), binding("8081")]}, {"80/tcp": [binding("8080")]}, ports)
    assert rest == {"80/tcp": [binding("8081")]} and gone == ports[:2]


def test_a_binding_without_a_number_goes_by_the_port_that_came_of_it() -> None:
    have = {"80/tcp": [binding("8080"), binding(), binding("9000-9010")]}
    rest, gone = without(have, {"80/tcp": [binding("32768")]}, [live(8080), live(32768)])
    assert rest == {"80/tcp": [binding("8080"), binding("9000-9010")]} and gone == [live(32768)]


def test_what_is_not_there_is_named_beside_what_is() -> None:
    words = "port 80/tcp is not published on 0.0.0.0:1: the container publishes 127.0.0.1:8080 for 80/tcp"
    with pytest.raises(NotFound, match=words):
        without({"80/tcp": [binding("8080", "127.0.0.1")]}, {"80/tcp": [binding("1")]}, [live(8080, "127.0.0.1")])
    with pytest.raises(NotFound, match=r"port 81/tcp is not published: the container publishes none"):
        without({}, {"81/tcp": []}, [])
