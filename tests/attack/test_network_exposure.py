"""SECURITY rows 47, 48, 50 and the host's loopback: what a container with full power in its own namespace must not get at."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path

from berth.wire.container import HostConfig
from berth.wire.network import NetworkCreateRequest
from netlab import HOST_ADDRESS, LAN_ADDRESS, Lab, Namespace, in_lab, reaches


def route_loopback_out(container: Namespace, gateway: str) -> None:
    """Make the container send packets for 127.0.0.0/8 to its gateway, with its own address."""
    container.shell(
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet;"
        "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local;"
        "ip addr del 127.0.0.1/8 dev lo || true;"
        f"ip route add 127.0.0.0/8 via {gateway}"
    )


def test_container_does_not_reach_the_hosts_loopback(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one")
        await lab.run("two", ports={"80/tcp": [("127.0.0.1", "8080")], "81/tcp": [("", "8081")]})
        two = lab.containers["two"]
        route_loopback_out(one, "172.17.0.1")
        with socket.create_server(("127.0.0.1", 7000)) as server:
            server.settimeout(0.5)
            assert one.reaches(server, "127.0.0.1", 7000, 0.5) is None
        with two.listen(80) as published:
            assert reaches(published, "127.0.0.1", 8080)
            assert one.reaches(published, "127.0.0.1", 8080, 0.5) is None
            # Neither by the host's own address: the port was published on the loopback only.
            assert one.reaches(published, HOST_ADDRESS, 8080, 0.5) is None
        with two.listen(81) as server:
            assert one.reaches(server, HOST_ADDRESS, 8081), "the path itself works"

    in_lab(tmp_path, test)


def test_lan_does_not_reach_the_hosts_loopback_or_ports_published_there(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        two = await lab.run("two", ports={"80/tcp": [("127.0.0.1", "8080")]})
        # As bad as it gets: the host lets 127/8 in on its uplink, as other software switches on.
        subprocess.run(["sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"], check=True)
        route_loopback_out(lab.lan, HOST_ADDRESS)
        with two.listen(80) as published, socket.create_server(("127.0.0.1", 7000)) as server:
            server.settimeout(0.5)
            assert lab.lan.reaches(server, "127.0.0.1", 7000, 0.5) is None
            assert lab.lan.reaches(published, "127.0.0.1", 8080, 0.5) is None

    in_lab(tmp_path, test)


def test_row_47_internal_network_forwards_no_query(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="inner", internal=True))
        await lab.service.create(NetworkCreateRequest(name="outer"))
        config = HostConfig(dns=[LAN_ADDRESS])
        closed = await lab.run("closed", mode="inner", host_config=config)
        open_ = await lab.run("open", mode="outer", host_config=HostConfig(dns=[LAN_ADDRESS]))
        query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x04test\x00\x00\x01\x00\x01"

        def ask(container: Namespace) -> bytes:
            def inside() -> bytes:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.settimeout(1)
                    sock.sendto(query, ("127.0.0.11", 53))
                    try:
                        return sock.recv(512)
                    except TimeoutError:
                        return b""

            return container.inside(inside)

        with lab.lan.listen_udp(53) as recorder:
            recorder.settimeout(0.5)
            answer = ask(closed)
            assert answer[3] & 0xF == 2
            try:
                packet, _ = recorder.recvfrom(512)
            except TimeoutError:
                packet = b""
            assert packet == b""
            ask(open_)
            assert b"secret" in recorder.recv(512), "the recorder itself works"

    in_lab(tmp_path, test)


def test_row_48_isolation_survives_a_flush(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="other"))
        one = await lab.run("one", ports={"80/tcp": [("127.0.0.1", "8080")]})
        two = await lab.run("two", mode="other")
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        import asyncio

        await asyncio.sleep(0.6)
        lab.lan.shell(f"ip route add 172.16.0.0/12 via {HOST_ADDRESS}")
        with one.listen(80) as server:
            assert two.reaches(server, lab.address("one"), 80, 0.3) is None
            assert lab.lan.reaches(server, lab.address("one"), 80, 0.3) is None
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080, 0.3) is None
            assert reaches(server, "127.0.0.1", 8080)

    in_lab(tmp_path, test)


def router_advertisement() -> bytes:
    """ICMPv6 type 134: a router for 1800 s, with a prefix to configure addresses from."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
    return struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix


def test_row_50_router_advertisements_of_a_container_move_nothing(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="six", enable_ipv6=True))
        rogue = await lab.run("rogue", mode="six")
        victim = await lab.run("victim", mode="six")
        plain = await lab.run("plain")
        other = await lab.run("other")

        def advertise() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
                for _ in range(3):
                    sock.sendto(router_advertisement(), ("ff02::1", 0))

        def advertise_when_ready() -> None:
            # A link-local address is tentative for a second, under emulation for longer: sending is refused until then.
            for _ in range(100):
                try:
                    advertise()
                    return
                except OSError:
                    time.sleep(0.2)
            advertise()

        rogue.inside(advertise_when_ready)
        plain.shell("echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        plain.inside(advertise_when_ready)
        time.sleep(0.3)
        for namespace in (victim, other, None):
            command = ["ip", "-6", "route"]
            if namespace:
                command = ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", *command]
            routes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert "proto ra" not in routes and "2001:db8:bad" not in routes, routes

    in_lab(tmp_path, test)


def test_bridge_without_ipv6_gives_no_link_local_way_to_the_host(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.run("one")
        device = f"b{lab.config.engine_id}-0"
        shown = subprocess.run(["ip", "-6", "addr", "show", "dev", device], capture_output=True, text=True, check=True).stdout
        assert "inet6" not in shown

    in_lab(tmp_path, test)


def quit_as_nobody(path: str) -> int:
    """The exit status of a child without power that tells the resolver to quit: 7 when it hangs up on it."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresuid(65534, 65534, 65534)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(path)
                sock.send(b'{"v":1,"op":"quit"}')
                sock.settimeout(2)
                os._exit(7 if sock.recv(1) == b"" else 1)
        except (ConnectionResetError, BrokenPipeError):
            os._exit(7)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def has_ended(pid: int) -> bool:
    """Whether a child of this process has ended."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_resolver_obeys_root_only(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="app"))
        await lab.run("web", mode="app")
        assert stat.S_IMODE(os.stat(lab.config.resolver).st_mode) == 0o600
        # Suppose that somebody gets past the file's mode: the kernel's word on who is asking still counts.
        os.chmod(lab.config.resolver, 0o666)
        assert quit_as_nobody(lab.config.resolver) == 7
        assert not has_ended(lab.workers[0])

    in_lab(tmp_path, test)
