"""Published and exposed ports as the API wants them."""

from __future__ import annotations

from berth.compose.model import Service
from berth.wire.network import PortBinding


def exposed_ports(service: Service) -> dict[str, dict[str, str]] | None:
    """Ports of `ports` and `expose`, as 80/tcp."""
    found: dict[str, dict[str, str]] = {}
    for port in service.ports:
        found[f"{port.target}/{port.protocol}"] = {}
    for entry in service.expose:
        number, slash, protocol = entry.partition("/")
        low, dash, high = number.partition("-")
        for each in range(int(low), int(high if dash else low) + 1):
            found[f"{each}/{protocol if slash else 'tcp'}"] = {}
    return found or None


def port_bindings(service: Service) -> dict[str, list[PortBinding] | None] | None:
    """Bindings by port."""
    found: dict[str, list[PortBinding] | None] = {}
    for port in service.ports:
        binding = PortBinding(host_ip=port.host_ip or "", host_port=port.published or "")
        key = f"{port.target}/{port.protocol}"
        found[key] = [*(found.get(key) or []), binding]
    return found or None
