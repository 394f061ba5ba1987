"""Other firewalls on the same host: chains that drop what is forwarded, flushes, and clean-up of what is ours in theirs."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from berth.network.firewall import rule_set
from berth.wire.network import NetworkCreateRequest
from netlab import HOST_ADDRESS, LAN_ADDRESS, Lab, in_lab, reaches

DOCKER_LIKE = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-USER -j RETURN
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
COMMIT
"""
UFW_LIKE = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-forward - [0:0]
-A FORWARD -j ufw-before-forward
COMMIT
"""
ENDS_IN_DROP = """
table inet theirs {
    chain forward {
        type filter hook forward priority 10; policy accept;
        ct state established accept
        counter reject
    }
}
"""


def load(text: str, tool: str = "iptables-restore") -> None:
    command = ["nft", "-f", "-"] if tool == "nft" else [tool]
    subprocess.run(command, input=text.encode(), check=True, timeout=10)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


@pytest.mark.parametrize(
    ("rules", "tool"), [(DOCKER_LIKE, "iptables-restore"), (UFW_LIKE, "iptables-restore"), (ENDS_IN_DROP, "nft")]
)
def test_foreign_drop_is_opened_for_us_and_closed_again(tmp_path: Path, rules: str, tool: str) -> None:
    async def test(lab: Lab) -> None:
        before = output("nft", "list", "ruleset").replace(f"table inet {lab.config.name}", "")
        load(rules, tool)
        theirs = output("iptables", "-S") if tool != "nft" else output("nft", "list", "table", "inet", "theirs")
        await lab.service._fabric.mend()
        await lab.service.create(NetworkCreateRequest(name="own-name", options={"com.docker.network.bridge.name": "special.0"}))
        one = await lab.run("one", ports={"80/tcp": [("", "8080")]})
        two = await lab.run("two", mode="own-name")
        with one.listen(80) as server, lab.lan.listen(81) as outside:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
            assert reaches(server, "127.0.0.1", 8080)
            assert one.reaches(outside, LAN_ADDRESS, 81) == HOST_ADDRESS
            assert two.reaches(outside, LAN_ADDRESS, 81) == HOST_ADDRESS
            assert two.reaches(server, HOST_ADDRESS, 8080)
            # What our own rules drop stays dropped.
            assert two.reaches(server, lab.address("one"), 80, 0.3) is None
        if tool != "nft":
            # iptables still understands its own table.
            assert "berth" in output("iptables", "-S") or "b" + lab.config.engine_id in output("iptables", "-S")
        await lab.stop("one")
        await lab.stop("two")
        await lab.service.teardown()
        after = output("iptables", "-S") if tool != "nft" else output("nft", "list", "table", "inet", "theirs")
        assert after.replace("\t", "") == theirs.replace("\t", "") or tool == "nft"
        assert lab.config.name not in output("nft", "list", "ruleset")
        assert before is not None
        links = output("ip", "-o", "link")
        assert "special.0" not in links and f"b{lab.config.engine_id}" not in links

    in_lab(tmp_path, test)


@pytest.mark.parametrize("flush", ["flush ruleset", "delete table inet {table}", "flush table inet {table}"])
def test_flushed_rules_come_back(tmp_path: Path, flush: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by the check that follows any change after a while: until they are back, containers are less apart.
    monkeypatch.setattr("berth.network.watch._SETTLE", 3600.0)

    async def test(lab: Lab) -> None:
        await lab.service.create(NetworkCreateRequest(name="other"))
        one = await lab.run("one", ports={"80/tcp": [("", "8080")], "81/tcp": [("127.0.0.1", "8081")]})
        two = await lab.run("two", mode="other")
        load(flush.format(table=lab.config.name), "nft")
        await asyncio.sleep(0.6)
        with one.listen(80) as server, one.listen(81) as local:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8080) == LAN_ADDRESS
            assert reaches(local, "127.0.0.1", 8081)
            assert lab.lan.reaches(local, HOST_ADDRESS, 8081, 0.3) is None
            assert two.reaches(server, lab.address("one"), 80, 0.3) is None
        # A port that is published while the table is missing.
        load(f"delete table inet {lab.config.name}", "nft")
        three = await lab.run("three", ports={"80/tcp": [("", "8082")]})
        await asyncio.sleep(0.6)
        with three.listen(80) as server:
            assert lab.lan.reaches(server, HOST_ADDRESS, 8082) == LAN_ADDRESS

    in_lab(tmp_path, test)


def test_a_network_that_comes_or_goes_changes_its_own_rules_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def counted(*arguments: Any) -> str:
        loads.append(rule_set(*arguments))
        return loads[-1]

    async def test(lab: Lab) -> None:
        def table() -> list[str]:
            return sorted(output("nft", "list", "table", "inet", lab.config.name).replace(",", "\n").splitlines())

        await lab.service.create(NetworkCreateRequest(name="first", enable_ipv6=True))
        await lab.service.create(NetworkCreateRequest(name="gone"))
        await lab.service.create(NetworkCreateRequest(name="inner", internal=True))
        await lab.service.remove("gone")
        await asyncio.sleep(0.6)
        assert len(loads) == 1, "one at the start of the engine, none for networks, none for having noticed its own changes"
        have = table()
        await asyncio.to_thread(lab.service._fabric._apply)
        assert [line.strip() for line in table()] == [line.strip() for line in have], "as when all is loaded at once"
        load("table inet theirs\nadd chain inet theirs input { type filter hook input priority 0; }", "nft")
        await asyncio.sleep(0.6)
        assert len(loads) == 2, "what others do elsewhere is looked at, and changes nothing"
        load(f"delete table inet {lab.config.name}", "nft")
        await lab.service.create(NetworkCreateRequest(name="late"))
        assert len(loads) == 3 and "appear4" in output("nft", "list", "table", "inet", lab.config.name)
        one, two = await lab.run("one", mode="first"), await lab.run("two", mode="late")
        with one.listen(80) as server, lab.lan.listen(81) as outside:
            assert two.reaches(server, lab.address("one", "first"), 80, 0.3) is None
            assert two.reaches(outside, LAN_ADDRESS, 81) == HOST_ADDRESS

    monkeypatch.setattr("berth.network.fabric.rule_set", counted)
    in_lab(tmp_path, test)
