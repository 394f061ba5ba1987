"""Living with other firewalls: an accept in our table does not help when another table's forward chain drops.

Docker (also when it is gone: its rules stay), ufw and others leave a forward hook with policy drop, or one that ends in a drop.
Into each of those go a few accepts for our bridges, at the head of DOCKER-USER where there is one (that is what it is for),
else of the chain itself. They are safe, since our own table has dropped what must not pass. Each carries a comment with the
name of the engine, by which it is found again and removed. Interface matches only, so that iptables can still list its tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from berth.network.nftables import Nftables, RuleError

INVITED = "DOCKER-USER"
_OWN_TABLES = "berth"
_DOCKER_BRIDGES = ("docker0", "br-*")


class ForeignChain(Struct, frozen=True, kw_only=True):
    """Where our accepts have to be. `invited`: the owner's chain for the rules of others."""

    family: str
    table: str
    name: str
    invited: bool = False

    @property
    def place(self) -> str:
        """As nft names it."""
        return f"{self.family} {self.table} {self.name}"


def _ends_in_drop(rules: Sequence[dict[str, Any]]) -> bool:
    """Whether the last rule drops or rejects everything."""
    if not rules:
        return False
    expressions = [e for e in rules[-1].get("expr", []) if "counter" not in e and "log" not in e]
    return len(expressions) == 1 and bool({"drop", "reject"} & set(expressions[0]))


def find_blocking(nft: Nftables) -> list[ForeignChain]:
    """The chains of other tables that drop what is forwarded, or the chains that they invite to."""
    return find_dropping(nft, "forward")


def find_dropping(nft: Nftables, hook: str) -> list[ForeignChain]:
    """Of any hook. Only what is forwarded has chains to invite to."""
    chains = [entry["chain"] for entry in nft.query("list chains") if "chain" in entry]
    invitations = {(c["family"], c["table"]) for c in chains if c["name"] == INVITED and hook == "forward"}
    found: list[ForeignChain] = []
    for chain in chains:
        family, table = chain["family"], chain["table"]
        if chain.get("hook") != hook or chain.get("type") != "filter" or family not in ("ip", "ip6", "inet"):
            continue
        if table.partition("-")[0] == _OWN_TABLES:
            continue
        here = ForeignChain(family=family, table=table, name=chain["name"])
        if chain.get("policy") != "drop" and not _ends_in_drop(_rules(nft, here)):
            continue
        if (family, table) in invitations:
            here = ForeignChain(family=family, table=table, name=INVITED, invited=True)
        found.append(here)
    return list(dict.fromkeys(found))


def _rules(nft: Nftables, chain: ForeignChain) -> list[dict[str, Any]]:
    try:
        return [entry["rule"] for entry in nft.query(f"list chain {chain.place}") if "rule" in entry]
    except RuleError:
        # Gone since it was listed.
        return []


def wanted_rules(chain: ForeignChain, patterns: Sequence[str]) -> list[str]:
    """The rules that have to be at the head of the chain, in order; `patterns` match our bridges."""
    found: list[str] = []
    for pattern in patterns:
        if chain.invited:
            # Docker's own bridges stay under Docker's rules.
            found += [f'iifname "{pattern}" oifname "{bridge}" counter return' for bridge in _DOCKER_BRIDGES]
        found += [f'iifname "{pattern}" counter accept', f'oifname "{pattern}" counter accept']
    return found


def reconcile(nft: Nftables, tag: str, patterns: Sequence[str]) -> list[ForeignChain]:
    """Put our accepts where they are missing. Returns the chains that needed them."""
    blocking = find_blocking(nft)
    for chain in blocking:
        wanted = wanted_rules(chain, patterns)
        have = _ours(_rules(nft, chain), tag)
        if len(have) == len(wanted):
            continue
        commands = [f"delete rule {chain.place} handle {handle}" for handle in have]
        commands += [f'insert rule {chain.place} {rule} comment "{tag}"' for rule in reversed(wanted)]
        nft.run("\n".join(commands))
    return blocking


def remove(nft: Nftables, tag: str) -> None:
    """Take our accepts out of all chains of others."""
    entries = [entry["rule"] for entry in nft.query("list ruleset") if "rule" in entry]
    commands = [
        f"delete rule {rule['family']} {rule['table']} {rule['chain']} handle {rule['handle']}"
        for rule in entries
        if rule.get("comment") == tag and rule["table"].partition("-")[0] != _OWN_TABLES
    ]
    if commands:
        nft.run("\n".join(commands))


def _ours(rules: Sequence[dict[str, Any]], tag: str) -> list[int]:
    return [int(rule["handle"]) for rule in rules if rule.get("comment") == tag]
