"""Names, /etc/hosts, /etc/resolv.conf, and published ports as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.errors import InvalidArgument
from berth.network.bridge import default_device_name, device_name, device_pattern
from berth.network.host import reachable_servers, read_resolv_conf
from berth.network.names import (
    dns_names,
    embedded_options,
    gateway_order,
    hosts_file,
    interface_name,
    interface_sysctls,
    own_names,
    parse_extra_hosts,
    parse_links,
    resolv_conf,
)
from berth.network.port import PortWish, parse_port, wishes
from berth.network.record import NetworkRecord, Pool
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.network import EndpointSettings, PortBinding


def test_dns_names_are_unique_and_in_order() -> None:
    found = dns_names("web", "0123456789abcdef", "web", EndpointSettings(aliases=["front", "web", ""]))
    assert found == ("web", "front", "0123456789ab")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("db", ("db", "db")), ("db:store", ("db", "store")), ("/db:/web/store", ("db", "store")), ("/db:/web/db", ("db", "db"))],
)
def test_links(text: str, expected: tuple[str, str]) -> None:
    assert parse_links([text]) == [expected]


def test_extra_hosts() -> None:
    entries = ["a:198.51.100.1", "b=198.51.100.2", "c:fd00::1", "d:[fd00::2]", "e:host-gateway"]
    assert parse_extra_hosts(entries, "172.17.0.1") == [
        ("198.51.100.1", "a"),
        ("198.51.100.2", "b"),
        ("fd00::1", "c"),
        ("fd00::2", "d"),
        ("172.17.0.1", "e"),
    ]
    for bad in ("a", "a:", ":198.51.100.1", "a:b"):
        with pytest.raises(InvalidArgument, match="bad format for add-host"):
            parse_extra_hosts([bad], "172.17.0.1")


def test_hosts_file() -> None:
    text = hosts_file([("198.51.100.1", "api")], [("172.17.0.2", own_names("web", "example.test"))], ipv6=False)
    assert text == "127.0.0.1\tlocalhost\n198.51.100.1\tapi\n172.17.0.2\tweb.example.test web\n"
    assert "::1\tlocalhost ip6-localhost ip6-loopback\n" in hosts_file([], [], ipv6=True)


def test_resolv_conf() -> None:
    assert resolv_conf(["127.0.0.11"], ["a.test", "."], ["ndots:0"]) == "nameserver 127.0.0.11\nsearch a.test\noptions ndots:0\n"
    assert embedded_options(["edns0", "ndots:5"], None) == ["edns0", "ndots:0"]
    assert embedded_options(["edns0"], ["ndots:2", "timeout:1"]) == ["ndots:2", "timeout:1"]


def test_servers_behind_a_stub_are_found(tmp_path: Path) -> None:
    stub, real, none = tmp_path / "stub", tmp_path / "real", tmp_path / "none"
    stub.write_text("# made by a program\nnameserver 127.0.0.53\nsearch a.test b.test\noptions edns0 trust-ad ; more\n")
    real.write_text("nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver nonsense\n")
    assert read_resolv_conf(str(stub)) == (["127.0.0.53"], ["a.test", "b.test"], ["edns0", "trust-ad"])
    assert reachable_servers([str(stub), str(none), str(real)]) == ["192.0.2.53", "fe80::1"]
    assert reachable_servers([str(stub), str(none)]) == []


def test_ports_asked_for() -> None:
    host = HostConfig(
        port_bindings={
            "80/tcp": [PortBinding(host_ip="127.0.0.1", host_port="8080"), PortBinding(host_port="8000-8010")],
            "53/udp": [PortBinding()],
            "99/tcp": None,
        },
        publish_all_ports=True,
    )
    found = wishes(ContainerConfig(exposed_ports={"80/tcp": {}, "443": {}}), host)
    assert found == [
        PortWish(protocol="udp", container_port=53),
        PortWish(protocol="tcp", container_port=80, address="127.0.0.1", first=8080, last=8080),
        PortWish(protocol="tcp", container_port=80, first=8000, last=8010),
        PortWish(protocol="tcp", container_port=443),
    ]


@pytest.mark.parametrize("text", ["0/tcp", "70000/tcp", "x/tcp", "80/icmp", "", "-1"])
def test_bad_ports(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid port specification"):
        parse_port(text)


@pytest.mark.parametrize(("address", "port"), [("", "x"), ("", "9-8"), ("", "70000"), ("host", "80")])
def test_bad_bindings(address: str, port: str) -> None:
    binding = PortBinding(host_ip=address, host_port=port)
    with pytest.raises(InvalidArgument):
        wishes(ContainerConfig(), HostConfig(port_bindings={"80/tcp": [binding]}))


def test_default_route_goes_by_priority_then_name() -> None:
    def network(name: str, **more: bool) -> NetworkRecord:
        return NetworkRecord(id=name, name=name, created=0, pools=(Pool(subnet="10.0.0.0/24", gateway="10.0.0.1"),), **more)

    networks = [
        (network("zoo"), EndpointSettings()),
        (network("app"), EndpointSettings()),
        (network("first", internal=True), EndpointSettings(gw_priority=9)),
        (network("win"), EndpointSettings(gw_priority=1)),
    ]
    assert [n.name for n in gateway_order(networks)] == ["win", "app", "zoo"]


def test_bridge_names_fit_the_kernel_and_their_pattern() -> None:
    for default in (True, False):
        own = device_name("0123abcd", "f" * 64, is_default_engine=default)
        names = [default_device_name("0123abcd", is_default_engine=default), own]
        pattern = device_pattern("0123abcd", is_default_engine=default)
        assert all(len(name) <= 15 and name.startswith(pattern.removesuffix("*")) for name in names)


def test_interface_names_and_sysctls_of_an_endpoint() -> None:
    options = {
        "com.docker.network.endpoint.ifname": "lan0",
        "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2",
    }
    wish = EndpointSettings(driver_opts=options)
    assert interface_name(wish) == "lan0" and interface_name(EndpointSettings()) == ""
    assert interface_sysctls(wish, "lan0") == {"net.ipv4.conf.lan0.log_martians": "1", "net.ipv6.conf.lan0.accept_ra": "2"}
    for bad in ("kernel.x.y.IFNAME.z=1", "net.ipv4.conf.eth0.x=1", "net.ipv4.conf.IFNAME.x", "net.ipv4/../conf.IFNAME.x=1"):
        with pytest.raises(InvalidArgument, match="invalid sysctl"):
            interface_sysctls(EndpointSettings(driver_opts={"com.docker.network.endpoint.sysctls": bad}), "eth0")
    for bad in ("a/b", "0", "x" * 16):
        with pytest.raises(InvalidArgument, match="invalid interface name"):
            interface_name(EndpointSettings(driver_opts={"com.docker.network.endpoint.ifname": bad}))
