"""`--publish` and `--expose`: [address:][host[-host]:]container[-container][/protocol], or the long key=value form."""

from __future__ import annotations

from berth.errors import InvalidArgument
from berth.wire.network import PortBinding

Bindings = dict[str, list[PortBinding] | None]
_PROTOCOLS = ("tcp", "udp", "sctp")


def _range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        low, high = int(first), int(last) if dash else int(first)
    except ValueError:
        raise InvalidArgument(f"invalid containerPort: {whole}") from None
    if not 0 < low <= high <= 65535:
        raise InvalidArgument(f"invalid port range: {whole}: ports go from 1 to 65535, the smaller one first")
    return low, high


def parse_expose(text: str) -> list[str]:
    """`80`, `80/udp`, `8000-8010/tcp` as ["80/tcp", ...]."""
    ports, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {protocol}")
    low, high = _range(ports, text)
    return [f"{port}/{protocol}" for port in range(low, high + 1)]


def _long(text: str) -> str:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if "target" not in fields:
        raise InvalidArgument(f"invalid publish value {text!r}: target= is missing")
    host = fields.get("published", "")
    return f"{host + ':' if host else ''}{fields['target']}/{fields.get('protocol', 'tcp')}"


def parse_publish(text: str) -> Bindings:
    """The port map of one `--publish`."""
    spec = _long(text) if "target=" in text else text
    ports, _, protocol = spec.partition("/")
    address, host, container = _split(ports, text)
    low, high = _range(container, text)
    proto = protocol.lower() or "tcp"
    if proto not in _PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {proto}")
    if host in ("", "0"):
        # 0, as everywhere: one that is free.
        return {f"{port}/{proto}": [PortBinding(host_ip=address, host_port=host)] for port in range(low, high + 1)}
    host_low, host_high = _range(host, text)
    if high - low != host_high - host_low:
        if low != high:
            raise InvalidArgument(f"invalid ranges specified for container and host Ports: {container} and {host}")
        return {f"{low}/{proto}": [PortBinding(host_ip=address, host_port=f"{host_low}-{host_high}")]}
    return {
        f"{port}/{proto}": [PortBinding(host_ip=address, host_port=str(host_low + port - low))] for port in range(low, high + 1)
    }


def _split(ports: str, whole: str) -> tuple[str, str, str]:
    if ports.startswith("["):
        address, bracket, rest = ports[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise InvalidArgument(f"invalid publish value {whole!r}: an IPv6 address looks like [::1]:80:80")
        host, _, container = rest[1:].rpartition(":")
        return address, host, container
    parts = ports.rsplit(":", 2)
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return parts[0], parts[1], parts[2]


def merge(into: Bindings, more: Bindings) -> None:
    """Several `--publish` of one container port add up."""
    for port, bindings in more.items():
        into[port] = [*(into.get(port) or []), *(bindings or [])]
