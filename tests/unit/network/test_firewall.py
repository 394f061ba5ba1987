"""The rule set's text, and the elements' bytes."""

from __future__ import annotations

from berth.network.firewall import BridgeRules, SubnetRules, addition, elements_of, removal, rule_set
from berth.network.foreign import ForeignChain, wanted_rules
from berth.network.record import Published
from berth.network.watch import Change, Notices

WEB = Published(protocol="tcp", address="0.0.0.0", port=8080, target="172.17.0.2", target_port=80, network_id="n")
LOCAL = Published(protocol="udp", address="127.0.0.1", port=53, target="172.17.0.3", target_port=5353, network_id="n")
SIX = Published(protocol="tcp", address="::", port=8080, target="fd00::2", target_port=80, network_id="n")

EXPECTED = """\
table inet berth
delete table inet berth
table inet berth {
	chain enter-berth-1 {
		iifname "berth-1" accept
		drop
	}
	chain leave-berth-1 {
		oifname != "berth-1" drop
	}
	chain appear-berth-1 {
		ip saddr 172.18.0.0/16 oifname "berth-1" ct status dnat masquerade
	}
	chain enter-berth0 {
		ct state established,related accept
		iifname "berth0" accept
		ct status dnat accept
		drop
	}
	chain appear-berth0 {
		ip saddr 172.17.0.0/16 oifname != "berth0" masquerade
		ip saddr 172.17.0.0/16 oifname "berth0" ct status dnat masquerade
		ip6 saddr fd00::/64 oifname != "berth0" masquerade
		ip6 saddr fd00::/64 oifname "berth0" ct status dnat masquerade
	}
	map dnat4 {
		type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
		elements = { udp . 127.0.0.1 . 53 : 172.17.0.3 . 5353 }
	}
	map dnat4_any {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { tcp . 8080 : 172.17.0.2 . 80 }
	}
	set open4 {
		type inet_proto . ipv4_addr . inet_service
	}
	map dnat6 {
		type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service
	}
	map dnat6_any {
		type inet_proto . inet_service : ipv6_addr . inet_service
		elements = { tcp . 8080 : fd00::2 . 80 }
	}
	set open6 {
		type inet_proto . ipv6_addr . inet_service
	}
	set bridges {
		type ifname
		elements = { "berth-1", "berth0" }
	}
	map enter {
		type ifname : verdict
		elements = { "berth-1" : jump enter-berth-1, "berth0" : jump enter-berth0 }
	}
	map leave {
		type ifname : verdict
		elements = { "berth-1" : jump leave-berth-1 }
	}
	map appear4 {
		type ipv4_addr : verdict
		flags interval
		elements = { 172.18.0.0/16 : jump appear-berth-1, 172.17.0.0/16 : jump appear-berth0 }
	}
	map appear6 {
		type ipv6_addr : verdict
		flags interval
		elements = { fd00::/64 : jump appear-berth0 }
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname vmap @leave
		oifname vmap @enter
	}
	chain raw {
		type filter hook prerouting priority raw; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 drop
	}
	chain publish {
		meta nfproto ipv4 dnat ip to meta l4proto . ip daddr . th dport map @dnat4
		meta nfproto ipv4 dnat ip to meta l4proto . th dport map @dnat4_any
		meta nfproto ipv6 dnat ip6 to meta l4proto . ip6 daddr . th dport map @dnat6
		meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @dnat6_any
	}
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump publish
	}
	chain output {
		type nat hook output priority -100; policy accept;
		ip6 daddr ::1 return
		fib daddr type local jump publish
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr vmap @appear4
		ip6 saddr vmap @appear6
		oifname @bridges ip saddr 127.0.0.0/8 masquerade
	}
}
"""


def _subnets(*subnets: str) -> tuple[SubnetRules, ...]:
    return tuple(SubnetRules(subnet=subnet) for subnet in subnets)


def test_rule_set_text() -> None:
    bridges = [
        BridgeRules(name="berth0", subnets=_subnets("172.17.0.0/16", "fd00::/64")),
        BridgeRules(name="berth-1", subnets=_subnets("172.18.0.0/16"), internal=True),
    ]
    assert rule_set("berth", bridges, [WEB, LOCAL, SIX]) == EXPECTED
    assert rule_set("berth", reversed(bridges), [SIX, LOCAL, WEB]) == EXPECTED, "the order of what it is given does not matter"


def test_without_icc_published_ports_come_first() -> None:
    text = rule_set("b", [BridgeRules(name="x", subnets=_subnets("10.0.0.0/24"), icc=False, masquerade=False)])
    chain = text.split("chain enter-x {")[1].split("}")[0].split("\n\t\t")
    assert [line.strip() for line in chain[1:]] == [
        "ct state established,related accept",
        "ct status dnat accept",
        'iifname "x" drop',
        "drop",
    ]
    assert 'oifname != "x" masquerade' not in text


def test_gateway_modes_open_what_they_say() -> None:
    subnets = (
        SubnetRules(subnet="10.0.0.0/24", mode="nat-unprotected"),
        SubnetRules(subnet="fd00::/64", mode="routed"),
    )
    routed = Published(
        protocol="tcp", address="fd00::2", port=80, target="fd00::2", target_port=80, network_id="n", routed=True
    )
    text = rule_set("b", [BridgeRules(name="x", subnets=subnets)], [routed])
    chain = [line.strip() for line in text.split("chain enter-x {")[1].split("}")[0].splitlines()[1:-1]]
    assert chain[3:] == [
        "ip daddr 10.0.0.0/24 accept",
        "ip6 daddr fd00::/64 meta l4proto ipv6-icmp accept",
        "ip6 daddr fd00::/64 meta l4proto . ip6 daddr . th dport @open6 accept",
        "drop",
    ]
    assert "elements = { tcp . fd00::2 . 80 }" in text
    assert "fd00::/64 oifname" not in text and "fd00::/64 : jump" not in text, "what is routed keeps its address"
    ((name, key, value),) = elements_of(routed)
    assert (name, len(key), value) == ("open6", 24, None)


def test_links_that_are_trusted_and_the_source_address() -> None:
    subnet = SubnetRules(subnet="10.0.0.0/24", source="192.0.2.7")
    text = rule_set("b", [BridgeRules(name="x", subnets=(subnet,), trusted=("lan0", "lan1"))])
    port = "meta l4proto . ip daddr . th dport @open4 accept"
    assert f'iifname {{ "lan0", "lan1" }} ip daddr 10.0.0.0/24 {port}' in text
    assert 'ip saddr 10.0.0.0/24 oifname != "x" snat ip to 192.0.2.7' in text
    direct = Published(
        protocol="udp", address="0.0.0.0", port=53, target="10.0.0.2", target_port=5353, network_id="n", direct=True
    )
    assert [name for name, _, _ in elements_of(direct)] == ["open4", "dnat4_any"]


def test_element_bytes_are_padded_and_in_network_order() -> None:
    ((name, key, value),) = elements_of(WEB)
    assert value and (name, key.hex(), value.hex()) == ("dnat4_any", "06000000" + "1f900000", "ac110002" + "00500000")
    ((name, key, value),) = elements_of(LOCAL)
    assert (name, key.hex()) == ("dnat4", "11000000" + "7f000001" + "00350000")
    ((name, _, value),) = elements_of(SIX)
    assert value and name == "dnat6_any" and len(value) == 20


def test_invited_rules_leave_dockers_bridges_to_docker() -> None:
    chain = ForeignChain(family="ip", table="filter", name="DOCKER-USER", invited=True)
    assert wanted_rules(chain, ["berth*"]) == [
        'iifname "berth*" oifname "docker0" counter return',
        'iifname "berth*" oifname "br-*" counter return',
        'iifname "berth*" counter accept',
        'oifname "berth*" counter accept',
    ]


def test_a_bridge_that_comes_and_goes_leaves_the_others_alone() -> None:
    bridge = BridgeRules(name="x", subnets=_subnets("10.1.0.0/16", "fd00:1::/64"), internal=True)
    assert addition("b", bridge).splitlines()[-5:] == [
        'add element inet b bridges { "x" }',
        'add element inet b enter { "x" : jump enter-x }',
        'add element inet b leave { "x" : jump leave-x }',
        "add element inet b appear4 { 10.1.0.0/16 : jump appear-x }",
        "add element inet b appear6 { fd00:1::/64 : jump appear-x }",
    ]
    assert removal("b", bridge).splitlines()[-3:] == [
        "delete chain inet b leave-x",
        "flush chain inet b appear-x",
        "delete chain inet b appear-x",
    ]


_NEW_TABLE, _DEL_TABLE, _NEW_RULE, _DEL_RULE, _NEW_ELEMENT, _DEL_ELEMENT, _NEW_GENERATION = 0, 2, 6, 8, 12, 14, 15


def _notice(kind: int, name: bytes) -> bytes:
    """A notification whose first attribute is this."""
    attribute = (4 + len(name)).to_bytes(2, "little") + (1).to_bytes(2, "little") + name.ljust((len(name) + 3) & ~3, b"\0")
    body = (10 << 8 | kind).to_bytes(2, "little") + bytes(10) + bytes(4) + attribute
    return (4 + len(body)).to_bytes(4, "little") + body


def _told(*messages: tuple[int, str]) -> list[Change]:
    data = b"".join(_notice(kind, table.encode() + b"\0") for kind, table in messages)
    return Notices("berth").feed(data + _notice(_NEW_GENERATION, (7).to_bytes(4, "big")))


def test_elements_of_sets_wake_nobody() -> None:
    assert _told((_NEW_ELEMENT, "berth"), (_DEL_ELEMENT, "berth")) == []
    assert _told((_NEW_ELEMENT, "berth"), (_DEL_TABLE, "theirs")) == [Change(generation=7, own=False)]


def test_what_takes_our_rules_away_is_told_from_what_replaces_them() -> None:
    gone = Change(generation=7, own=True, gone=True)
    assert _told((_DEL_RULE, "berth"), (_DEL_TABLE, "berth")) == [gone]
    assert _told((_DEL_TABLE, "berth"), (_NEW_TABLE, "berth"), (_NEW_RULE, "berth")) == [Change(generation=7, own=True)]
    assert _told((_DEL_TABLE, "berth-1234"), (_DEL_ELEMENT, "berth")) == [Change(generation=7, own=False)]
    assert _told((_NEW_RULE, "berth"), (_DEL_TABLE, "theirs")) == [Change(generation=7, own=True)]
    assert _told((_DEL_TABLE, "berth"), (_NEW_ELEMENT, "berth"), (_NEW_RULE, "theirs")) == [gone]


def test_a_transaction_may_be_told_of_in_pieces() -> None:
    notices = Notices("berth")
    assert notices.feed(_notice(_DEL_TABLE, b"berth\0")) == []
    assert notices.feed(_notice(_NEW_RULE, b"theirs\0") + (20).to_bytes(4, "little") + bytes(16)) == []
    assert notices.feed(_notice(_NEW_GENERATION, (9).to_bytes(4, "big")) * 2) == [Change(generation=9, own=True, gone=True)]
