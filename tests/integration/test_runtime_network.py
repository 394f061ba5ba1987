"""Network plans carried out: links, addresses, routes, sysctls, the sockets of the resolver."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Iterator

import pytest

from berth.kernel import netlink
from berth.model.endpoint import EndpointPlan, NetworkPlan, Route
from support.launching import Bench, Running, Wish

pytest_plugins = ["support.launch_fixture"]


@pytest.fixture
def bridge(bench: Bench) -> Iterator[str]:
    name = "btlb" + secrets.token_hex(4)
    netlink.create_bridge(name, "02:42:0a:df:37:01", 1450)
    netlink.add_address(name, "10.223.55.1/24")
    netlink.set_link(name, True)
    yield name
    netlink.delete_link(name)


def endpoint(bridge: str, number: int = 2, **more: object) -> EndpointPlan:
    return EndpointPlan(
        parent=bridge,
        host_name="btl" + secrets.token_hex(4),
        name=more.pop("name", "eth0"),
        mac=f"02:42:0a:df:37:0{number}",
        addresses=(f"10.223.55.{number}/24",),
        routes=(Route(destination="0.0.0.0/0", gateway="10.223.55.1"),),
        mtu=1450,
        **more,
    )


def test_loopback_only_without_endpoints(bench: Bench) -> None:
    assert bench.shell("ls /sys/class/net; ping -c 1 -W 2 127.0.0.1 | grep -c '1 packets received'") == "lo\n1\n"


def test_veth_address_route_and_ping(bench: Bench, bridge: str) -> None:
    plan = NetworkPlan(endpoints=(endpoint(bridge),), sysctls={"net.ipv4.ping_group_range": "0 65535"})
    out = bench.shell("ip -o addr show eth0; ip route; cat /sys/class/net/eth0/mtu; ping -c 1 -W 5 10.223.55.1", network=plan)
    assert "10.223.55.2/24" in out
    assert "default via 10.223.55.1 dev eth0" in out
    assert "1450\n" in out
    assert "1 packets received" in out


def test_two_links_and_sysctls_of_one(bench: Bench, bridge: str) -> None:
    second = EndpointPlan(
        parent=bridge,
        host_name="btl" + secrets.token_hex(4),
        name="eth1",
        mac="02:42:0a:df:37:03",
        addresses=("10.223.56.3/24",),
        sysctls={"net.ipv4.conf.eth1.rp_filter": "2"},
    )
    plan = NetworkPlan(endpoints=(endpoint(bridge), second))
    out = bench.shell("ls /sys/class/net; cat /proc/sys/net/ipv4/conf/eth1/rp_filter; ip -o addr show eth1", network=plan)
    assert out.startswith("eth0\neth1\nlo\n2\n")
    assert "10.223.56.3/24" in out


def test_missing_bridge_leaves_nothing(bench: Bench) -> None:
    outcome = bench.run(Wish(["true"], network=NetworkPlan(endpoints=(endpoint("nobridge0"),))))
    assert outcome.failure is not None and outcome.failure[0] == "network"
    assert outcome.extra == []


def test_resolver_sockets_answer_on_port_53(bench: Bench) -> None:
    def use(container: Running) -> list[object]:
        udp, tcp = (socket.socket(fileno=fd) for fd in container.started.resolver_sockets)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            client, _ = tcp.accept()
            client.sendall(b"by tcp")
            client.close()
            query, peer = udp.recvfrom(512)
            # the question again, as an answer: NXDOMAIN
            udp.sendto(query[:2] + b"\x81\x83" + query[4:], peer)
            os._exit(0)
        by_tcp = container.shell("timeout 5 nc 127.0.0.11 53")
        by_udp = container.shell("timeout 5 nslookup -type=a some.name 127.0.0.11 2>&1; true")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        free = container.shell("timeout 1 nc -l -p 53; test $? = 143 && echo free")
        return [udp.getsockname()[0], udp.getsockname()[1] > 1023, tcp.getsockname()[0], by_tcp, by_udp, free]

    out = bench.running(Wish(["sleep", "1000"], network=NetworkPlan(resolver="/run/none.sock")), use)
    assert out[:4] == ["127.0.0.11", True, "127.0.0.11", "by tcp"]
    assert "127.0.0.11:53" in out[4] and "NXDOMAIN" in out[4]
    assert out[5].endswith("free\n")
