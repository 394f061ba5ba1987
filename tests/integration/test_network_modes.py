"""IPv6, macvlan, host and none, static addresses, recovery, and what inspect shows."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from berth.contract.network import Attachment
from berth.errors import AlreadyExists, Conflict, Forbidden, InvalidArgument, NotFound, NotImplementedKind, Unavailable
from berth.kernel import netlink
from berth.model.filters import Filters
from berth.network import stale
from berth.network.host import write_sysctl
from berth.network.nftables import Nftables
from berth.wire.container import ContainerConfig, HostConfig
from berth.wire.network import IPAM, EndpointIPAMConfig, EndpointSettings, IPAMConfig, NetworkCreateRequest
from netlab import HOST_ADDRESS, LAN_ADDRESS, Lab, Namespace, in_lab, reaches


def request(name: str, subnet: str = "", **options: object) -> NetworkCreateRequest:
    ipam = IPAM(config=[IPAMConfig(subnet=subnet)]) if subnet else None
    return NetworkCreateRequest(name=name, ipam=ipam, **options)  # type: ignore[arg-type]


def test_ipv6_addresses_ports_and_ways_out(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("six", enable_ipv6=True))
        one = await lab.run("one", mode="six", ports={"80/tcp": [("", "8080")]})
        two = await lab.run("two", mode="six")
        networks = lab.service.settings(lab.facts["one"]).networks or {}
        address = networks["six"].global_ipv6_address or ""
        assert address.startswith("fd") and networks["six"].global_ipv6_prefix_len == 64
        with one.listen(80, "::") as server, lab.lan.listen(81, "::") as outside:
            assert two.reaches(server, address, 80)
            assert lab.lan.reaches(server, "fd00:77::2", 8080) == "fd00:77::1"
            assert reaches(server, "fd00:77::2", 8080)
            # localhost is tried as ::1 first. The kernel translates nothing there; the proxy does.
            assert reaches(server, "::1", 8080) == networks["six"].ipv6_gateway
            assert one.reaches(outside, "fd00:77::1", 81) == "fd00:77::2"
            lab.lan.shell("ip -6 route add fd00::/8 via fd00:77::2")
            assert lab.lan.reaches(server, address, 80, 0.3) is None
        ports = lab.service.settings(lab.facts["one"]).ports or {}
        assert {b.host_ip for b in ports["80/tcp"] or []} == {"0.0.0.0", "::"}

    in_lab(tmp_path, test)


def test_static_addresses_and_ranges(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        taken = {"x": "10.77.5.1"}
        pool = IPAMConfig(subnet="10.77.0.0/16", ip_range="10.77.5.0/24", gateway="10.77.0.9", auxiliary_addresses=taken)
        await lab.service.create(NetworkCreateRequest(name="own", ipam=IPAM(config=[pool])))
        asked = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.77.9.9"), mac_address="02:11:22:33:44:55")
        await lab.run("fixed", mode="own", endpoints={"own": asked})
        await lab.run("free", mode="own")
        assert lab.address("fixed", "own") == "10.77.9.9"
        assert lab.address("free", "own") == "10.77.5.0"
        await lab.run("next", mode="own")
        assert lab.address("next", "own") == "10.77.5.2"
        shown = (lab.service.settings(lab.facts["fixed"]).networks or {})["own"]
        assert (shown.gateway, shown.mac_address, shown.ip_prefix_len) == ("10.77.0.9", "02:11:22:33:44:55", 16)
        with pytest.raises(Forbidden, match="Address already in use"):
            await lab.run("again", mode="own", endpoints={"own": asked})
        bad = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.78.0.1"))
        with pytest.raises(InvalidArgument, match="no configured subnet contains IP address"):
            await lab.run("bad", mode="own", endpoints={"own": bad})
        with pytest.raises(InvalidArgument, match="user defined networks only"):
            await lab.run("bad", endpoints={"bridge": asked})
        with pytest.raises(Forbidden, match="Pool overlaps with other one"):
            await lab.service.create(request("clash", "10.77.128.0/24"))
        with pytest.raises(AlreadyExists, match="network with name own already exists"):
            await lab.service.create(request("own"))
        await lab.service.release(lab.facts["fixed"].id)
        await lab.run("again", mode="own", endpoints={"own": asked})

    in_lab(tmp_path, test)


def test_macvlan_without_a_parent_gets_one_of_its_own(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        identifier, _ = await lab.service.create(request("flat", "10.79.0.0/24", driver="macvlan"))
        one = await lab.run("one", mode="flat")
        two = await lab.run("two", mode="flat")
        with one.listen(80) as server:
            assert two.reaches(server, lab.address("one", "flat"), 80) == lab.address("two", "flat")
        await lab.stop("one")
        await lab.stop("two")
        await lab.service.remove(identifier[:12])
        assert "dm-" not in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        with pytest.raises(NotFound, match="no such link"):
            await lab.service.create(request("bad", driver="macvlan", options={"parent": "nothing0"}))

    in_lab(tmp_path, test)


def test_modes_without_a_bridge(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        facts = lab.new_facts("host", mode="host")
        facts.endpoints = lab.service.check(facts)
        attachment = await lab.service.attach(facts)
        assert attachment.plan is None
        assert attachment.resolv_conf == Path("/etc/resolv.conf").read_text()
        networks = lab.service.settings(facts).networks or {}
        assert list(networks) == ["host"] and networks["host"].endpoint_id
        with pytest.raises(Forbidden, match="host network"):
            await lab.service.connect(facts, "bridge", EndpointSettings(), None)
        await lab.service.release(facts.id)
        facts = lab.new_facts("none", mode="none")
        facts.endpoints = lab.service.check(facts)
        attachment = await lab.service.attach(facts)
        assert attachment.plan is not None and attachment.plan.endpoints == ()
        facts = lab.new_facts("joined", mode="container:abc")
        assert lab.service.check(facts) == {}
        assert await lab.service.attach(facts) == Attachment(plan=None)
        with pytest.raises(InvalidArgument, match="conflicting options: port publishing and the container type"):
            lab.service.check(lab.new_facts("joined", mode="container:abc", ports={"80/tcp": [("", "80")]}))
        facts = lab.new_facts("lost", mode="nowhere")
        facts.endpoints = lab.service.check(facts)
        assert list(facts.endpoints) == ["nowhere"]
        with pytest.raises(NotFound, match="network nowhere not found"):
            await lab.service.attach(facts)
        assert list(lab.service.settings(facts).networks or {}) == ["nowhere"]
        await lab.service.create(request("nowhere"))
        await lab.service.attach(facts)

    in_lab(tmp_path, test)


def test_restart_of_the_engine_keeps_the_living_and_drops_the_dead(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("other"))
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        await lab.run("two", mode="other", ports={"80/tcp": [("", "8081")]})
        before = lab.service.inspect("bridge").id
        # Killed: nothing is released, the rules go too, container two ends meanwhile.
        lab.service._fabric.close()
        lab.service._resolver.close()
        lab.database.close()
        lab.containers.pop("two").close()
        for fd in lab.sockets.pop(lab.facts["two"].id):
            os.close(fd)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        service = lab.new_service()
        await service.start()
        await service.restore([(lab.facts["one"], one.pid)])
        assert service.inspect("bridge").id == before
        assert list(service.inspect("bridge").containers or {}) == [lab.facts["one"].id]
        assert not service.inspect("other").containers
        with one.listen(80) as server:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
        three = await lab.run("three", mode="other", ports={"80/tcp": [("", "8081")]})
        assert lab.address("three", "other") == "172.18.0.2"
        four = await lab.run("four")
        assert lab.address("four") == "172.17.0.3"
        with three.listen(80) as server:
            assert four.reaches(server, HOST_ADDRESS, 8081)

    in_lab(tmp_path, test)


def test_removal_prune_and_lists(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        busy, _ = await lab.service.create(request("busy", labels={"a": "b"}))
        await lab.service.create(request("idle"))
        await lab.run("one", mode="busy")
        with pytest.raises(Forbidden, match=f"error while removing network: network busy id {busy} has active endpoints"):
            await lab.service.remove("busy")
        with pytest.raises(Forbidden, match="pre-defined network"):
            await lab.service.remove("bridge")
        assert [n.name for n in lab.service.list(Filters.parse('{"label":["a=b"]}', ["label"]))] == ["busy"]
        assert {n.name for n in lab.service.list(Filters.parse('{"type":["builtin"]}', ["type"]))} == {"bridge", "host", "none"}
        assert [n.name for n in lab.service.list(Filters.parse('{"dangling":["true"]}', ["dangling"]))] == ["idle"]
        assert await lab.service.prune(Filters.parse('{"until":["1h"]}', ["until"])) == []
        assert await lab.service.prune(Filters()) == ["idle"]
        with pytest.raises(NotFound, match="network idle not found"):
            lab.service.inspect("idle")
        # Docker's habit: connect and disconnect of a stopped container are remembered.
        facts = lab.new_facts("stopped")
        facts.endpoints = lab.service.check(facts)
        await lab.service.connect(facts, "busy", EndpointSettings(aliases=["x"]), None)
        assert list(lab.service.settings(facts).networks or {}) == ["bridge", "busy"]
        await lab.service.disconnect(facts, "bridge", None, force=False)
        assert list(lab.service.settings(facts).networks or {}) == ["busy"]
        container = lab.start(facts, await lab.service.attach(facts))
        assert container.inside(lambda: [name for _, name in socket.if_nameindex()]) == ["lo", "eth0"]

    in_lab(tmp_path, test)


def test_links_and_hosts_on_the_default_bridge(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        with pytest.raises(Conflict, match="Cannot link to a non running container: /db AS /web/store"):
            await lab.run("web", host_config=HostConfig(links=["db:store"]))
        await lab.run("db", config=ContainerConfig(hostname="data"))
        extra = ["api:198.51.100.1", "me:host-gateway"]
        host = HostConfig(links=["db:store"], extra_hosts=extra, dns=["198.51.100.9"], dns_search=["a.test"])
        await lab.run("web", host_config=host)
        hosts = lab.read("web", "hosts")
        assert f"{lab.address('db')}\tstore {lab.facts['db'].id[:12]} db\n" in hosts
        assert "198.51.100.1\tapi\n" in hosts and "172.17.0.1\tme\n" in hosts
        assert lab.read("web", "resolv.conf") == "nameserver 198.51.100.9\nsearch a.test\n"
        assert f"{lab.address('db')}\tdata\n" in lab.read("db", "hosts")

    in_lab(tmp_path, test)


def test_no_icc_keeps_neighbours_apart(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        # Where bridged packets pass the firewall, isolated ports stop the detour over a published port as well.
        if os.path.exists("/proc/sys/net/bridge"):
            write_sysctl("net.bridge.bridge-nf-call-iptables", "0")
        await lab.service.create(request("apart", options={"com.docker.network.bridge.enable_icc": "false"}))
        one = await lab.run("one", mode="apart", ports={"80/tcp": [("", "8080")]})
        two = await lab.run("two", mode="apart")
        with one.listen(80) as server, lab.lan.listen(81) as outside:
            assert two.reaches(server, lab.address("one", "apart"), 80, 0.3) is None
            assert two.reaches(server, HOST_ADDRESS, 8080)
            assert two.reaches(outside, LAN_ADDRESS, 81)

    in_lab(tmp_path, test)


def test_networks_created_at_the_same_time_get_different_subnets(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await asyncio.gather(*(lab.service.create(request(f"net{n}")) for n in range(5)))
        subnets = [config.subnet for n in range(5) for config in (lab.service.inspect(f"net{n}").ipam or IPAM()).config or []]
        assert len(set(subnets)) == 5
        answers = await asyncio.gather(*(lab.service.create(request("same")) for _ in range(2)), return_exceptions=True)
        assert sorted(isinstance(answer, AlreadyExists) for answer in answers) == [False, True]

    in_lab(tmp_path, test)


def test_interfaces_get_the_names_and_settings_asked_for(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(request("other"))
        options = {
            "com.docker.network.endpoint.ifname": "lan0",
            "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1",
        }
        one = await lab.run(
            "one", mode="other", endpoints={"other": EndpointSettings(driver_opts=options), "bridge": EndpointSettings()}
        )
        assert one.inside(lambda: [name for _, name in socket.if_nameindex()]) == ["lo", "lan0", "eth0"]
        assert one.inside(lambda: Path("/proc/sys/net/ipv4/conf/lan0/log_martians").read_text()) == "1\n"

    in_lab(tmp_path, test)


def test_engine_starts_without_nftables_and_says_why_networks_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: Nftables) -> None:
        raise Unavailable("libnftables.so.1 cannot be loaded: install nftables, networks need it")

    monkeypatch.setattr(Nftables, "_load", missing)

    async def test(lab: Lab) -> None:
        facts = lab.new_facts("one")
        facts.endpoints = lab.service.check(facts)
        with pytest.raises(Unavailable, match=r"networks are not available on this host: libnftables.so.1 cannot be loaded"):
            await lab.service.attach(facts)
        await lab.run("two", mode="none")

    in_lab(tmp_path, test)


def test_ipvlan_works_or_is_refused_by_name(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        try:
            await lab.service.create(request("flat", "10.79.0.0/24", driver="ipvlan"))
        except NotImplementedKind as error:
            assert "no ipvlan" in error.message
            assert "dm-" not in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
            return
        one = await lab.run("one", mode="flat")
        two = await lab.run("two", mode="flat")
        with one.listen(80) as server:
            assert two.reaches(server, lab.address("one", "flat"), 80) == lab.address("two", "flat")

    in_lab(tmp_path, test)


def test_what_a_deleted_engine_left_is_removed_by_the_next(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        directory = tmp_path / "announced"
        nft = Nftables()
        gone, busy, there = (f"berth-{digit * 8}" for digit in "abc")
        for table in (gone, busy, there):
            stale.announce(table, str(tmp_path if table == there else tmp_path / "deleted"), str(directory))
            nft.run(f"table inet {table} {{ chain x {{ }}; }}")
            netlink.create_bridge(f"b{table[-8:]}-0", "02:00:00:00:00:07", 1500)
        with Namespace() as container:
            netlink.create_veth("port0", "bbbbbbbbb-0", "eth0", container.fd, "02:00:00:00:00:08", 1500)
            assert stale.remove_abandoned(nft, str(directory)) == [gone]
        assert {link["name"] for link in netlink.links()} >= {"bbbbbbbbb-0", "bcccccccc-0"}
        assert "baaaaaaaa-0" not in {link["name"] for link in netlink.links()}
        tables = {entry["table"]["name"] for entry in nft.query("list tables")}
        assert gone not in tables and {busy, there} <= tables
        assert sorted(os.listdir(directory)) == [busy, there]

    in_lab(tmp_path, test)
