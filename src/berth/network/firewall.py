"""The rule set of an engine: one table of family inet, written in nft's own language. Pure; the text is what is loaded.

    raw         addresses of the loopback never come from outside the loopback: bridges have route_localnet, and without this a
                container could reach what listens on the host's 127.0.0.1, or a neighbour what is published there
    publish     from prerouting (others) and output (the host itself): the host's port becomes a container's
    leave-*     per internal network: nothing goes to another link
    enter-*     per bridge: what may reach its containers. Answers, neighbours, published ports; nothing else, so other
                bridges are apart and nobody routes to container addresses from outside, unless the network's gateway mode
                says so: routed opens published ports (sets open4, open6) by the container's address, nat-unprotected all
    appear-*    per bridge, from postrouting: containers appear as the host; so does a container that calls its own network
                through a published port (the answer would bypass the translation), and the host's loopback

The hooks find the chains of a bridge by maps (leave, enter by its name; appear4, appear6 by the subnet), so a network that comes
or goes is a few chains and elements (`addition`, `removal`); everything is loaded anew (`rule_set`) only when an engine starts or
somebody else has changed it. The elements of published ports change with containers, by raw messages (kernel.nfnetlink), for
which `elements_of` gives names, keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from msgspec import Struct

from berth.network.record import NAT, NAT_UNPROTECTED, ROUTED, Published

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class SubnetRules(Struct, frozen=True, kw_only=True):
    """One subnet of a bridge. `source`: what its containers appear as, "" for the address of the link that they leave by."""

    subnet: str
    mode: str = NAT
    source: str = ""

    @property
    def family(self) -> str:
        """In nft's words."""
        return "ip6" if ":" in self.subnet else "ip"


class BridgeRules(Struct, frozen=True, kw_only=True):
    """What the rules need to know of a bridge. `trusted` are links from which published ports are open by address."""

    name: str
    subnets: tuple[SubnetRules, ...]
    trusted: tuple[str, ...] = ()
    internal: bool = False
    icc: bool = True
    masquerade: bool = True


def _enter(bridge: BridgeRules) -> list[str]:
    between = "accept" if bridge.icc else "drop"
    if bridge.internal:
        return [f'iifname "{bridge.name}" {between}', "drop"]
    published = "ct status dnat accept"
    neighbours = f'iifname "{bridge.name}" {between}'
    middle = [neighbours, published] if bridge.icc else [published, neighbours]
    return ["ct state established,related accept", *middle, *_direct(bridge), "drop"]


def _direct(bridge: BridgeRules) -> list[str]:
    """What is open by the containers' own addresses."""
    rules = []
    for subnet in bridge.subnets:
        to = f"{subnet.family} daddr {subnet.subnet}"
        port = f"meta l4proto . {subnet.family} daddr . th dport @{'open6' if subnet.family == 'ip6' else 'open4'} accept"
        if subnet.mode == NAT_UNPROTECTED:
            rules.append(f"{to} accept")
        elif subnet.mode == ROUTED:
            rules += [f"{to} meta l4proto {'ipv6-icmp' if subnet.family == 'ip6' else 'icmp'} accept", f"{to} {port}"]
        elif bridge.trusted:
            names = ", ".join(f'"{name}"' for name in bridge.trusted)
            rules.append(f"iifname {{ {names} }} {to} {port}")
    return rules


def _appear(bridge: BridgeRules, subnet: SubnetRules) -> list[str]:
    source = f"{subnet.family} saddr {subnet.subnet}"
    rules = [f'{source} oifname "{bridge.name}" ct status dnat masquerade']
    if bridge.masquerade and not bridge.internal:
        action = f"snat {subnet.family} to {subnet.source}" if subnet.source else "masquerade"
        rules.insert(0, f'{source} oifname != "{bridge.name}" {action}')
    return rules


def _translated(bridge: BridgeRules) -> list[SubnetRules]:
    """The subnets whose containers appear as somebody else. What is routed keeps its address."""
    return [subnet for subnet in bridge.subnets if subnet.mode != ROUTED]


def _chains(bridge: BridgeRules) -> dict[str, list[str]]:
    """The chains of a bridge with their rules."""
    found = {f"enter-{bridge.name}": _enter(bridge)}
    if bridge.internal:
        found[f"leave-{bridge.name}"] = [f'oifname != "{bridge.name}" drop']
    if _translated(bridge):
        found[f"appear-{bridge.name}"] = [rule for subnet in _translated(bridge) for rule in _appear(bridge, subnet)]
    return found


def _verdicts(bridge: BridgeRules) -> list[tuple[str, str, str]]:
    """What leads to the chains of a bridge: map or set, key, verdict ("" in a set)."""
    name = f'"{bridge.name}"'
    found = [("bridges", name, ""), ("enter", name, f"jump enter-{bridge.name}")]
    if bridge.internal:
        found.append(("leave", name, f"jump leave-{bridge.name}"))
    for subnet in _translated(bridge):
        found.append(("appear6" if subnet.family == "ip6" else "appear4", subnet.subnet, f"jump appear-{bridge.name}"))
    return found


def addition(table: str, bridge: BridgeRules) -> str:
    """The commands that add a bridge to the table that is there."""
    body = [line for name, rules in _chains(bridge).items() for line in _block("chain", name, rules)]
    elements = [f"add element inet {table} {name} {{ {_entry(key, verdict)} }}" for name, key, verdict in _verdicts(bridge)]
    return "\n".join([f"table inet {table} {{", *body, "}", *elements, ""])


def removal(table: str, bridge: BridgeRules) -> str:
    """The commands that take a bridge out of the table."""
    commands = [f"delete element inet {table} {name} {{ {_entry(key, verdict)} }}" for name, key, verdict in _verdicts(bridge)]
    for name in _chains(bridge):
        commands += [f"flush chain inet {table} {name}", f"delete chain inet {table} {name}"]
    return "\n".join([*commands, ""])


def _entry(key: str, verdict: str) -> str:
    return f"{key} : {verdict}" if verdict else key


def _block(kind: str, name: str, lines: Iterable[str]) -> list[str]:
    return [f"\t{kind} {name} {{", *(f"\t\t{line}" for line in lines), "\t}"]


def _set(kind: str, name: str, of: str, elements: Sequence[str], *, flags: str = "") -> list[str]:
    """A set or a map."""
    lines = [f"type {of}", *([f"flags {flags}"] if flags else [])]
    if elements:
        lines.append("elements = { " + ", ".join(elements) + " }")
    return _block(kind, name, lines)


def _elements(published: Iterable[Published]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"dnat4": [], "dnat4_any": [], "dnat6": [], "dnat6_any": [], "open4": [], "open6": []}
    for port in published:
        if port.direct or port.routed:
            found[_open_set(port)].append(f"{port.protocol} . {port.target} . {port.target_port}")
        if not port.translated:
            continue
        host = "" if is_any(port.address) else f" . {port.address}"
        found[map_of(port)].append(f"{port.protocol}{host} . {port.port} : {port.target} . {port.target_port}")
    return {name: sorted(set(lines)) for name, lines in found.items()}


def _port_sets(published: Iterable[Published]) -> list[str]:
    elements = _elements(published)
    body: list[str] = []
    for version, family in (("4", "ipv4_addr"), ("6", "ipv6_addr")):
        target = f"{family} . inet_service"
        body += _set("map", f"dnat{version}", f"inet_proto . {family} . inet_service : {target}", elements[f"dnat{version}"])
        body += _set("map", f"dnat{version}_any", f"inet_proto . inet_service : {target}", elements[f"dnat{version}_any"])
        body += _set("set", f"open{version}", f"inet_proto . {family} . inet_service", elements[f"open{version}"])
    return body


def _bridge_sets(bridges: Sequence[BridgeRules]) -> list[str]:
    entries: dict[str, list[str]] = {"bridges": [], "enter": [], "leave": [], "appear4": [], "appear6": []}
    for bridge in bridges:
        for name, key, verdict in _verdicts(bridge):
            entries[name].append(_entry(key, verdict))
    body = _set("set", "bridges", "ifname", entries["bridges"])
    for name in ("enter", "leave"):
        body += _set("map", name, "ifname : verdict", entries[name])
    for name, family in (("appear4", "ipv4_addr"), ("appear6", "ipv6_addr")):
        body += _set("map", name, f"{family} : verdict", entries[name], flags="interval")
    return body


# Each chain that a hook leads into, as it is whatever networks there are. IPv6 has no route_localnet: what is sent to ::1 would
# be lost, so the held socket refuses it at once.
_LOCAL = "fib daddr type local jump publish"
_HOOKS = {
    "forward": ["type filter hook forward priority filter; policy accept;", "iifname vmap @leave", "oifname vmap @enter"],
    "raw": ["type filter hook prerouting priority raw; policy accept;", 'iifname != "lo" ip daddr 127.0.0.0/8 drop'],
    "publish": [
        "meta nfproto ipv4 dnat ip to meta l4proto . ip daddr . th dport map @dnat4",
        "meta nfproto ipv4 dnat ip to meta l4proto . th dport map @dnat4_any",
        "meta nfproto ipv6 dnat ip6 to meta l4proto . ip6 daddr . th dport map @dnat6",
        "meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @dnat6_any",
    ],
    "prerouting": ["type nat hook prerouting priority dstnat; policy accept;", _LOCAL],
    "output": ["type nat hook output priority -100; policy accept;", "ip6 daddr ::1 return", _LOCAL],
    "postrouting": [
        "type nat hook postrouting priority srcnat; policy accept;",
        "ip saddr vmap @appear4",
        "ip6 saddr vmap @appear6",
        "oifname @bridges ip saddr 127.0.0.0/8 masquerade",
    ],
}


def rule_set(table: str, bridges: Iterable[BridgeRules], published: Iterable[Published] = ()) -> str:
    """The commands that replace the engine's table by one for these bridges and ports."""
    ordered = sorted(bridges, key=lambda bridge: bridge.name)
    # Chains come before the maps whose verdicts name them.
    body = [line for bridge in ordered for name, rules in _chains(bridge).items() for line in _block("chain", name, rules)]
    body += _port_sets(published) + _bridge_sets(ordered)
    for name, lines in _HOOKS.items():
        body += _block("chain", name, lines)
    return "\n".join([f"table inet {table}", f"delete table inet {table}", f"table inet {table} {{", *body, "}", ""])


def is_any(address: str) -> bool:
    """Whether the address stands for all of the host's."""
    return address in ("0.0.0.0", "::")


def map_of(port: Published) -> str:
    """The map that a published port is in."""
    return ("dnat6" if ":" in port.target else "dnat4") + ("_any" if is_any(port.address) else "")


def _open_set(port: Published) -> str:
    return "open6" if ":" in port.target else "open4"


def elements_of(port: Published) -> list[tuple[str, bytes, bytes | None]]:
    """The map or set, the key and, in maps, the value of a published port, as the kernel has them: parts padded to four
    bytes."""
    protocol = bytes([PROTOCOLS[port.protocol], 0, 0, 0])
    inside = ip_address(port.target).packed, port.target_port.to_bytes(2, "big") + b"\0\0"
    found: list[tuple[str, bytes, bytes | None]] = []
    if port.direct or port.routed:
        found.append((_open_set(port), protocol + inside[0] + inside[1], None))
    if port.translated:
        found.append((map_of(port), protocol + _host_key(port), inside[0] + inside[1]))
    return found


def _host_key(port: Published) -> bytes:
    address = b"" if is_any(port.address) else ip_address(port.address).packed
    return address + port.port.to_bytes(2, "big") + b"\0\0"
