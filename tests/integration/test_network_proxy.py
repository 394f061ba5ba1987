"""Ports that the proxy passes on: IPv6 to containers without it, ::1, and engines that respect the host's own firewall."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.wire.network import EndpointSettings, NetworkCreateRequest, PortBinding
from netlab import HOST_ADDRESS, Lab, in_lab, reaches

HOST6 = "fd00:77::2"
_BIG = 8 << 20


def gateway(lab: Lab, name: str) -> str:
    """What a container sees of whoever comes through the proxy."""
    return (lab.service.settings(lab.facts[name]).networks or {})["bridge"].gateway or ""


async def threaded(work: Callable[[], object]) -> object:
    return await asyncio.to_thread(work)


async def eventually(check: Callable[[], bool]) -> None:
    for _ in range(200):
        if check():
            return
        await asyncio.sleep(0.03)
    raise AssertionError("it did not come about")


def proxy_pid(lab: Lab) -> int:
    return lab.workers[-1]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def shim_ends(lab: Lab, name: str) -> None:
    """The end of a container while there is no engine: what its shim held is closed."""
    lab.containers.pop(name).close()
    for fd in lab.sockets.pop(lab.facts[name].id):
        os.close(fd)


def test_ipv6_reaches_a_container_that_has_ipv4_only(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        ports = {"80/tcp": [("", "8080")], "81/tcp": [("::1", "8081")], "82/tcp": [("127.0.0.1", "8082")]}
        one = await lab.run("one", ports=ports)
        shown = lab.service.settings(lab.facts["one"]).ports or {}
        assert [(b.host_ip, b.host_port) for b in shown["80/tcp"] or []] == [("0.0.0.0", "8080"), ("::", "8080")]
        assert len(lab.workers) == 1, "one process, however many ports"
        with one.listen(80) as server, one.listen(81) as local:
            assert reaches(server, "::1", 8080) == gateway(lab, "one")
            assert lab.lan.reaches(server, HOST6, 8080) == gateway(lab, "one")
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == "192.0.2.1", "IPv4 goes through the kernel, with its source"
            assert reaches(local, "::1", 8081)
            assert lab.lan.reaches(local, HOST6, 8081, 0.3) is None, "what is published on the loopback"
        with pytest.raises(ConnectionResetError), socket.create_connection(("::1", 8080), 2) as client:
            client.recv(1)
        await lab.stop("one")
        await eventually(lambda: _free(8080))

    in_lab(tmp_path, test)


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("::1", port))
        except OSError:
            return False
    return True


def test_bytes_pass_in_both_directions_with_half_closes(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        server = one.listen(80)
        data = os.urandom(_BIG)

        def echo_afterwards() -> None:
            """Answers when the client has said that there is no more."""
            accepted, _ = server.accept()
            with accepted:
                got = b"".join(iter(lambda: accepted.recv(1 << 16), b""))
                accepted.sendall(got[::-1])

        def ask() -> bytes:
            thread = threading.Thread(target=echo_afterwards)
            thread.start()
            with socket.create_connection(("::1", 8080), 10) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
            thread.join(10)
            return answer

        server.settimeout(10)
        assert await threaded(ask) == data[::-1]
        # A reader that does not read slows the writer down: what is held meanwhile is in the kernel's buffers.
        with socket.create_connection(("::1", 8080), 2) as client:
            accepted, _ = server.accept()
            before = _memory(proxy_pid(lab))
            client.setblocking(False)
            sent = 0
            for _ in range(200):
                try:
                    sent += client.send(data)
                except BlockingIOError:
                    await asyncio.sleep(0.005)
            assert sent > 1 << 18 and _memory(proxy_pid(lab)) - before < 2048, "kilobytes"
            accepted.close()
        server.close()

    in_lab(tmp_path, test)


def _memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_many_connections_leave_no_descriptor(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        with one.listen(80) as server:
            assert reaches(server, "::1", 8080)
            await asyncio.sleep(0.1)
            before = descriptors(proxy_pid(lab))
            clients = [socket.create_connection(("::1", 8080), 5) for _ in range(100)]
            ends = [server.accept()[0] for _ in clients]
            for number, client in enumerate(clients):
                client.sendall(b"%d" % number)
            assert sorted(int(end.recv(9)) for end in ends) == list(range(100))
            assert descriptors(proxy_pid(lab)) >= before + 200
            for sock in [*clients[:50], *ends[50:]]:
                sock.close()
            for sock in [*clients[50:], *ends[:50]]:
                assert sock.recv(1) == b""
                sock.close()
            await eventually(lambda: descriptors(proxy_pid(lab)) <= before)

    in_lab(tmp_path, test)


def test_datagrams_pass_and_answers_come_from_where_they_went(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one", ports={"53/udp": [("", "5300")]})
        server = one.listen_udp(53)

        def ask(client: socket.socket, to: str, text: bytes) -> tuple[bytes, str]:
            client.settimeout(2)
            client.connect((to, 5300))
            client.send(text)
            question, asker = server.recvfrom(100)
            server.sendto(question.upper(), asker)
            return client.recv(100), asker[0]

        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            assert ask(client, "::1", b"near") == (b"NEAR", gateway(lab, "one"))
        # A connected socket takes answers from the address that it sent to only; the host has several.
        subprocess.run(["ip", "address", "add", "fd00:77::9/64", "dev", "eth0", "nodad"], check=True)
        far = lab.lan.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        with far:
            assert ask(far, "fd00:77::9", b"far") == (b"FAR", gateway(lab, "one"))
        server.close()
        await lab.stop("one")
        before = descriptors(proxy_pid(lab))
        await asyncio.sleep(0.3)
        assert descriptors(proxy_pid(lab)) <= before

    in_lab(tmp_path, test)


def test_ports_outlive_the_engine_but_not_their_container(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        await lab.run("two", ports={"80/tcp": [("", "8081")]})
        with one.listen(80) as server:
            assert reaches(server, "::1", 8080)
            # Killed.
            lab.service._fabric.close()
            lab.service._resolver.close()
            lab.service._proxy.close()
            lab.database.close()
            assert reaches(server, "::1", 8080)
            shim_ends(lab, "two")
            await eventually(lambda: _free(8081))
            service = lab.new_service()
            await service.start()
            await service.restore([(lab.facts["one"], one.pid)])
            assert reaches(server, "::1", 8080) and len(lab.workers) == 1
            # The proxy itself ends: a new one takes the ports.
            os.kill(proxy_pid(lab), signal.SIGKILL)
            await eventually(lambda: len(lab.workers) == 2)
            await eventually(lambda: not _free(8080))
            assert reaches(server, "::1", 8080)
        await lab.stop("one")
        await eventually(lambda: _free(8080))

    in_lab(tmp_path, test)


def test_ports_follow_a_running_container(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="other"))
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        facts = lab.facts["one"]
        more = {"81/tcp": [PortBinding(host_ip="", host_port="8081")]}
        change = lab.service.change_ports(facts, more, {}, running=True)
        with one.listen(80) as server, one.listen(81) as added:
            await eventually(lambda: bool(reaches(added, "::1", 8081)))
            facts.host_config.port_bindings = change.bindings
            await lab.service.connect(facts, "other", EndpointSettings(gw_priority=1), one.pid)
            await eventually(lambda: reaches(server, "::1", 8080) == "172.18.0.1")
            lab.service.change_ports(facts, {}, more, running=True)
            await eventually(lambda: _free(8081))
        for fd in change.sockets:
            os.close(fd)

    in_lab(tmp_path, test)


def _reject_input() -> None:
    rules = "table inet theirs\nadd chain inet theirs input { type filter hook input priority 0; }\n"
    rules += "add rule inet theirs input tcp dport 8080 reject\nadd rule inet theirs input udp dport 5300 drop\n"
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)


def test_by_default_published_ports_pass_by_the_hosts_input_rules(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one", ports={"80/tcp": [("0.0.0.0", "8080")]})
        _reject_input()
        with one.listen(80) as server:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == "192.0.2.1", "as with Docker"

    in_lab(tmp_path, test)


def test_the_hosts_input_rules_decide_when_they_are_respected(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one", ports={"80/tcp": [("", "8080")], "81/tcp": [("", "8081")], "53/udp": [("", "5300")]})
        with one.listen(80) as server, one.listen(81) as allowed:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == gateway(lab, "one")
            _reject_input()
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080, 0.5) is None
            assert lab.lan.reaches(server, HOST6, 8080, 0.5) is None
            assert one.reaches(server, HOST_ADDRESS, 8080, 0.5) is None
            assert lab.lan.reaches(allowed, HOST_ADDRESS, 8081) == gateway(lab, "one")
            assert reaches(allowed, "127.0.0.1", 8081)
        await lab.stop("one")
        await eventually(lambda: _free(8081))
        with socket.create_server((HOST_ADDRESS, 8081)):
            pass

    in_lab(tmp_path, test, respect_host_firewall=True)


def test_the_helper_gives_up_root(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        await lab.run("one", ports={"80/tcp": [("", "8080")]})
        await eventually(lambda: bool(lab.workers) and "Uid:\t65534\t65534\t65534\t65534" in _status(lab))
        assert "CapEff:\t0000000000000000" in _status(lab)

    in_lab(tmp_path, test)


def _status(lab: Lab) -> str:
    return Path(f"/proc/{proxy_pid(lab)}/status").read_text()


def test_it_ends_when_nothing_is_published_and_comes_again(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        with one.listen(80) as server:
            client = socket.create_connection(("::1", 8080), 2)
            accepted, _ = server.accept()
            facts = lab.facts["one"]
            facts.host_config.port_bindings = lab.service.change_ports(facts, {}, {"80/tcp": None}, running=True).bindings
            await asyncio.sleep(3)
            client.sendall(b"still")
            assert accepted.recv(9) == b"still", "a connection that there is goes on"
            client.close()
            accepted.close()
            await eventually(lambda: "Z (zombie)" in _status(lab) and not os.path.exists(lab.config.proxy))
            change = lab.service.change_ports(facts, {"80/tcp": [PortBinding(host_port="8082")]}, {}, running=True)
            await eventually(lambda: len(lab.workers) == 2)
            await asyncio.sleep(0.2)
            assert reaches(server, "::1", 8082)
            for fd in change.sockets:
                os.close(fd)

    in_lab(tmp_path, test)
