"""Changes of what a container publishes, as values: the port map of its record with bindings added and taken away. Pure.

{"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}      added, or taken away where it is exactly that
{"80/tcp": []}                                                 taken away: every binding of the port
"""

from __future__ import annotations

from collections.abc import Mapping

from berth.contract.network import Bindings
from berth.errors import Conflict, NotFound
from berth.network.port import join, parse_port
from berth.network.record import Published
from berth.wire.network import PortBinding


def canonical(bindings: Mapping[str, list[PortBinding] | None]) -> Bindings:
    """With the protocol in each key."""
    found: Bindings = {}
    for key, entries in bindings.items():
        number, protocol = parse_port(key)
        found[f"{number}/{protocol}"] = [*(found.get(f"{number}/{protocol}") or []), *(entries or [])]
    return found


def added(have: Bindings, more: Bindings) -> Bindings:
    """Conflict for a binding that is there already, to the letter."""
    found: Bindings = {key: list(entries or []) for key, entries in have.items()}
    for key, entries in more.items():
        for entry in entries or [PortBinding()]:
            if entry.host_port and any(_same(entry, old) for old in found.get(key) or []):
                raise Conflict(f"port {key} is already published on {_text(entry)}")
            found[key] = [*(found.get(key) or []), entry]
    return found


def without(have: Bindings, fewer: Bindings, live: list[Published]) -> tuple[Bindings, list[Published]]:
    """The map without these bindings, and which of the live ports go with them. NotFound when there is no such binding."""
    found: Bindings = {key: list(entries or []) for key, entries in have.items()}
    gone: list[Published] = []
    for key, entries in fewer.items():
        of_port = [p for p in live if f"{p.target_port}/{p.protocol}" == key]
        if not entries:
            if key not in found:
                raise NotFound(f"port {key} is not published: {_published(have)}")
            del found[key]
            gone += of_port
            continue
        for entry in entries:
            rest = found.get(key) or []
            ports = [p for p in of_port if _leads_to(p, entry)]
            taken = next((b for b in rest if _same(b, entry)), None) or _chosen(rest, ports)
            if taken is None:
                raise NotFound(f"port {key} is not published on {_text(entry)}: {_published(have)}")
            rest.remove(taken)
            gone += ports
            if not rest:
                del found[key]
    return found, gone


def _same(one: PortBinding, other: PortBinding) -> bool:
    return (one.host_ip or "", one.host_port or "") == (other.host_ip or "", other.host_port or "")


def _leads_to(port: Published, entry: PortBinding) -> bool:
    return str(port.port) == entry.host_port and entry.host_ip in (None, "", port.address)


def _chosen(rest: list[PortBinding], ports: list[Published]) -> PortBinding | None:
    """The binding that a live port came from: one that says the number, else one that left it to the engine."""
    numbers = {str(port.port) for port in ports}
    addresses = {port.address for port in ports}
    fitting = [b for b in rest if not b.host_ip or b.host_ip in addresses] if ports else []
    return next((b for b in fitting if b.host_port in numbers), None) or next(
        (b for b in fitting if not b.host_port or "-" in b.host_port), None
    )


def _text(entry: PortBinding) -> str:
    return f"{join(entry.host_ip or '0.0.0.0', 0).removesuffix(':0')}:{entry.host_port or 'any port'}"


def _published(have: Bindings) -> str:
    shown = [f"{_text(entry)} for {key}" for key, entries in have.items() for entry in entries or []]
    return f"the container publishes {', '.join(shown)}" if shown else "the container publishes none"
