"""Options of networks by their effect: gateway modes, the bridge's address, trusted links, source addresses; ports that move."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from berth.engine.networks import NetworkService
from berth.errors import InvalidArgument
from berth.kernel import netlink
from berth.wire.network import IPAM, EndpointIPAMConfig, EndpointSettings, IPAMConfig, NetworkCreateRequest
from netlab import HOST_ADDRESS, LAN_ADDRESS, Lab, in_lab, reaches

_BRIDGE = "com.docker.network.bridge."
_MODE4, _MODE6 = f"{_BRIDGE}gateway_mode_ipv4", f"{_BRIDGE}gateway_mode_ipv6"


def request(name: str, subnet: str = "", *, internal: bool = False, v6: bool = False, **options: str) -> NetworkCreateRequest:
    ipam = IPAM(config=[IPAMConfig(subnet=subnet)]) if subnet else None
    names = {"mode4": _MODE4, "mode6": _MODE6, "device": f"{_BRIDGE}name", "inhibit": f"{_BRIDGE}inhibit_ipv4",
             "trusted": f"{_BRIDGE}trusted_host_interfaces", "source": "com.docker.network.host_ipv4",
             "prefix": "com.docker.network.container_iface_prefix", "mtu": "com.docker.network.driver.mtu"}  # fmt: skip
    given = {names[key]: value for key, value in options.items()}
    return NetworkCreateRequest(name=name, ipam=ipam, internal=internal, enable_ipv6=v6, options=given)


def route(lab: Lab, subnet: str, via: str = HOST_ADDRESS) -> None:
    """The way from the LAN to the containers' own addresses."""
    lab.lan.shell(f"ip route add {subnet} via {via}")


def test_routed_opens_published_ports_by_the_containers_address(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("r", "10.81.0.0/24", mode4="routed"))
        one = await lab.run("one", mode="r", ports={"80/tcp": [("", "8080")]})
        other = await lab.run("other")
        route(lab, "10.81.0.0/24")
        address = lab.address("one", "r")
        with one.listen(80) as server, one.listen(81) as closed, lab.lan.listen(90) as outside:
            assert lab.lan.reaches(server, address, 80) == LAN_ADDRESS
            assert other.reaches(server, address, 80), "another network of ours is no stranger than the LAN"
            assert reaches(server, address, 80)
            assert lab.lan.reaches(closed, address, 81, 0.3) is None
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080, 0.3) is None
            assert one.reaches(outside, LAN_ADDRESS, 90) == address, "its own address, not the host's"
        lab.lan.shell(f"ping -c 1 -W 2 {address}")
        shown = (lab.service.settings(lab.facts["one"]).ports or {})["80/tcp"] or []
        assert [(b.host_ip, b.host_port) for b in shown] == [("0.0.0.0", "")]
        with socket.create_server(("0.0.0.0", 8080)):
            pass
        await lab.stop("one")
        two = await lab.run("two", mode="r")
        assert lab.address("two", "r") == address
        with two.listen(80) as server:
            assert lab.lan.reaches(server, address, 80, 0.3) is None, "the successor has published nothing"

    in_lab(tmp_path, test)


def test_each_family_has_its_mode(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("r", mode6="routed", v6=True))
        one = await lab.run("one", mode="r", ports={"80/tcp": [("", "8080")]})
        address = (lab.service.settings(lab.facts["one"]).networks or {})["r"].global_ipv6_address or ""
        lab.lan.shell("ip -6 route add fd00::/8 via fd00:77::2")
        with one.listen(80, "::") as server, one.listen(80) as server4:
            assert lab.lan.reaches(server4, HOST_ADDRESS, 8080)
            assert lab.lan.reaches(server, address, 80) == "fd00:77::1"
            assert lab.lan.reaches(server, "fd00:77::2", 8080, 0.3) is None

    in_lab(tmp_path, test)


def test_nat_unprotected_opens_every_port(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("u", "10.82.0.0/24", mode4="nat-unprotected"))
        await lab.service.create(request("nat", "10.83.0.0/24"))
        one = await lab.run("one", mode="u", ports={"80/tcp": [("", "8080")]})
        two = await lab.run("two", mode="nat")
        route(lab, "10.82.0.0/23")
        with one.listen(80) as server, one.listen(81) as more, two.listen(81) as closed, lab.lan.listen(90) as outside:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
            assert lab.lan.reaches(more, lab.address("one", "u"), 81) == LAN_ADDRESS
            assert one.reaches(outside, LAN_ADDRESS, 90) == HOST_ADDRESS
            assert lab.lan.reaches(closed, lab.address("two", "nat"), 81, 0.3) is None

    in_lab(tmp_path, test)


def test_isolated_and_inhibited_bridges_have_no_address(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("i", "10.84.0.0/24", internal=True, mode4="isolated", device="iso0"))
        await lab.service.create(request("h", "10.85.0.0/24", inhibit="true", device="inh0"))
        one = await lab.run("one", mode="i")
        two = await lab.run("two", mode="i")
        own = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout.split()
        assert "iso0" not in own and "inh0" not in own
        with one.listen(80) as server, socket.create_server(("0.0.0.0", 9999)):
            assert lab.address("one", "i") == "10.84.0.1", "no gateway takes the first address"
            assert two.reaches(server, lab.address("one", "i"), 80)
            with pytest.raises(OSError, match="unreachable"):
                one.inside(lambda: socket.create_connection((HOST_ADDRESS, 9999), 1))
        with pytest.raises(InvalidArgument, match="can only be used for an internal network: add --internal"):
            await lab.service.create(request("bad", mode4="isolated"))
        with pytest.raises(InvalidArgument, match="choose one of nat, nat-unprotected, routed, isolated"):
            await lab.service.create(request("bad", mode6="open"))

    in_lab(tmp_path, test)


def test_trusted_links_reach_published_ports_directly(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("t", "10.86.0.0/24", trusted="eth0"))
        await lab.service.create(request("n", "10.87.0.0/24", trusted="other0"))
        one = await lab.run("one", mode="t", ports={"80/tcp": [("127.0.0.1", "8080")]})
        two = await lab.run("two", mode="n", ports={"80/tcp": [("127.0.0.1", "8081")]})
        route(lab, "10.86.0.0/23")
        with one.listen(80) as server, one.listen(81) as closed, two.listen(80) as stranger:
            assert lab.lan.reaches(server, lab.address("one", "t"), 80) == LAN_ADDRESS
            assert lab.lan.reaches(closed, lab.address("one", "t"), 81, 0.3) is None
            assert lab.lan.reaches(stranger, lab.address("two", "n"), 80, 0.3) is None

    in_lab(tmp_path, test)


def test_source_address_interface_names_and_mtu(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        netlink.add_address("eth0", "192.0.2.77/24")
        await lab.service.create(request("s", source="192.0.2.77", prefix="lan", mtu="1234"))
        one = await lab.run("one", mode="s")
        with lab.lan.listen(80) as server:
            assert one.reaches(server, LAN_ADDRESS, 80) == "192.0.2.77"
        links = one.inside(lambda: {str(link["name"]): link["mtu"] for link in netlink.links()})
        assert links["lan0"] == 1234
        await lab.service.create(request("plain"))
        await lab.service.connect(lab.facts["one"], "plain", EndpointSettings(), one.pid)
        assert "eth0" in one.inside(lambda: [name for _, name in socket.if_nameindex()])
        for options in ({"mtu": "much"}, {"source": "::1"}, {"prefix": "0/"}, {"inhibit": "maybe"}, {"trusted": "a b"}):
            with pytest.raises(InvalidArgument, match="invalid value"):
                await lab.service.create(request("bad", **options))

    in_lab(tmp_path, test)


def test_link_local_addresses_and_another_gateway(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        pool = IPAMConfig(subnet="10.88.0.0/24", auxiliary_addresses={"DefaultGatewayIPv4": "10.88.0.9"})
        await lab.service.create(NetworkCreateRequest(name="l", ipam=IPAM(config=[pool]), enable_ipv6=True))
        asked = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.7.7", "fe80::77"]))
        one = await lab.run("one", mode="l", endpoints={"l": asked})
        two = await lab.run("two", mode="l")
        two.shell("ip addr add 169.254.1.1/16 dev eth0")
        with one.listen(80) as server:
            assert two.reaches(server, "169.254.7.7", 80) == "169.254.1.1"
        addresses = {address for _, address in one.inside(netlink.addresses)}
        assert {"169.254.7.7/16", "fe80::77/64"} <= addresses
        routes = one.inside(netlink.routes)
        assert ("0.0.0.0/0", "10.88.0.9") in {(d, g) for d, g, _ in routes}
        for address in ("10.88.0.7", "nonsense"):
            bad = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=[address]))
            with pytest.raises(InvalidArgument, match="invalid link-local IP address"):
                await lab.run("bad", mode="l", endpoints={"l": bad})

    in_lab(tmp_path, test)


def test_ports_follow_a_running_container_to_another_network(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        for name in ("first", "second", "inner"):
            await lab.service.create(request(name, internal=name == "inner"))
        one = await lab.run("one", mode="first", ports={"80/tcp": [("", "8080")], "53/udp": [("127.0.0.1", "5300")]})
        facts = lab.facts["one"]
        with one.listen(80) as server:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080)
            await lab.service.connect(facts, "second", EndpointSettings(), one.pid)
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080)
            await lab.service.disconnect(facts, "first", one.pid, force=False)
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
            assert reaches(server, "127.0.0.1", 8080)
            assert one.reaches(server, HOST_ADDRESS, 8080), "its own published port"
            shown = lab.service.settings(facts).ports or {}
            assert {b.host_port for b in shown["80/tcp"] or []} == {"8080"}
            # Nowhere to lead it: the port stays taken, and nothing answers.
            await lab.service.connect(facts, "inner", EndpointSettings(), one.pid)
            await lab.service.disconnect(facts, "second", one.pid, force=False)
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080, 0.3) is None
            assert (lab.service.settings(facts).ports or {})["80/tcp"] is None
            # Over a restart of the engine.
            lab.service._fabric.close()
            lab.service._resolver.close()
            lab.database.close()
            service = lab.new_service()
            await service.start()
            await service.restore([(facts, one.pid)])
            await service.connect(facts, "first", EndpointSettings(), one.pid)
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
            # A network of higher priority takes them over.
            await service.connect(facts, "second", EndpointSettings(gw_priority=10), one.pid)
            target = lab.address("one", "second")
            rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
            assert f"tcp . 8080 : {target} . 80" in rules and f"127.0.0.1 . 5300 : {target} . 53" in rules
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
        await lab.stop("one")
        with socket.create_server(("0.0.0.0", 8080)):
            pass

    in_lab(tmp_path, test)


def test_the_default_network_with_ipv6_and_without(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        def restarted(ipv6: bool) -> NetworkService:
            lab.service._fabric.close()
            lab.service._resolver.close()
            lab.database.close()
            lab.config = msgspec.structs.replace(lab.config, ipv6=ipv6)
            return lab.new_service()

        assert next(p.subnet for p in (lab.service.inspect("bridge").ipam or IPAM()).config or []) == "10.99.0.0/24"
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        address = (lab.service.settings(lab.facts["one"]).networks or {})["bridge"].global_ipv6_address or ""
        assert address.startswith("fd99:")
        with one.listen(80, "::") as server:
            assert lab.lan.reaches(server, "fd00:77::2", 8080) == "fd00:77::1"
        await lab.service.create(NetworkCreateRequest(name="more", enable_ipv6=True))
        subnets = [p.subnet for p in (lab.service.inspect("more").ipam or IPAM()).config or []]
        assert subnets == ["10.99.1.0/24", "fd99:0:0:1::/64"]
        # Without it again: not while a container uses it, then gone.
        service = restarted(False)
        await service.start()
        await service.restore([(lab.facts["one"], one.pid)])
        assert service.inspect("bridge").enable_ipv6
        await lab.stop("one")
        service = restarted(False)
        await service.start()
        assert not service.inspect("bridge").enable_ipv6
        await lab.run("two")
        assert not (service.settings(lab.facts["two"]).networks or {})["bridge"].global_ipv6_address
        service = restarted(True)
        await service.start()
        await service.restore([(lab.facts["two"], lab.containers["two"].pid)])
        await lab.run("three")
        assert (service.settings(lab.facts["three"]).networks or {})["bridge"].global_ipv6_address

    in_lab(tmp_path, test, ipv6=True, address_pools=(("10.99.0.0/16", 24), ("fd99::/48", 64)))
