"""What the runtime has to make of a container's endpoints: links, addresses, routes, switches. Pure but for what the host has."""

from __future__ import annotations

import os
from collections.abc import Sequence

from berth.engine.network_definition import gateway, prefix_length
from berth.engine.network_wish import Wish, link_local
from berth.model.endpoint import EndpointPlan, NetworkPlan, Route
from berth.network import bridge, parent
from berth.network.fabric import Fabric
from berth.network.names import gateway_order, interface_sysctls
from berth.network.record import BRIDGE, ENABLE_ICC, Endpoint, Live, NetworkRecord
from berth.wire.network import EndpointSettings

_SMALLEST_IPV6_MTU = 1280


class Planner:
    """Compiles endpoints into plans. `resolver` is the path of the socket that DNS sockets are handed to."""

    def __init__(self, resolver: str, fabric: Fabric) -> None:
        self._resolver_path = resolver
        self._fabric = fabric
        self._has_ipv6 = os.path.isdir("/proc/sys/net/ipv6")

    def plan(self, networks: Sequence[Wish], rows: Sequence[Endpoint], publishing: set[str], *, dns: bool) -> NetworkPlan:
        """Of a container that is about to be launched. `publishing`: the networks through which it publishes ports."""
        routes = {(d, g, i) for d, g, i in default_routes(networks, rows)}
        plans = []
        for (network, wish), row in zip(networks, rows, strict=True):
            if network.has_links and row.live:
                own = tuple(Route(destination=d, gateway=g or None) for d, g, i in sorted(routes) if i == row.live.interface)
                plans.append(self.endpoint(network, wish, row.live, own, hairpin=network.id in publishing))
        return NetworkPlan(endpoints=tuple(plans), resolver=self._resolver_path if dns else None)

    def endpoint(
        self, network: NetworkRecord, wish: EndpointSettings, entry: Live, routes: tuple[Route, ...], *, hairpin: bool = False
    ) -> EndpointPlan:
        """Of one endpoint."""
        addresses = tuple(f"{a}/{prefix_length(network, a)}" for a in (entry.ipv4, entry.ipv6) if a)
        addresses += tuple(f"{a}/{64 if ':' in a else 16}" for a in link_local(wish))
        sysctls: dict[str, str] = {}
        mtu = bridge.network_mtu(network, self._fabric.default_mtu)
        # The kernel has no IPv6, nor switches for it, on links that are too small for it (RFC 8200, section 5).
        if self._has_ipv6 and mtu >= _SMALLEST_IPV6_MTU:
            switches = {"accept_ra": "0", "accept_dad": "0"} if entry.ipv6 else {"disable_ipv6": "1"}
            sysctls = {f"net.ipv6.conf.{entry.interface}.{key}": value for key, value in switches.items()}
        sysctls |= interface_sysctls(wish, entry.interface)
        is_bridge = network.driver == BRIDGE
        return EndpointPlan(
            kind="veth" if is_bridge else network.driver,
            parent=network.device,
            # A link that was made ahead has a name already.
            host_name=entry.host_name if is_bridge else "",
            name=entry.interface,
            mac=entry.mac,
            addresses=addresses,
            routes=routes,
            mtu=mtu,
            mode=0 if is_bridge else parent.mode(network),
            # Where bridged packets pass the firewall too, a container that calls its own published port is answered by a
            # frame that leaves through the port it came in by.
            hairpin=is_bridge and hairpin,
            isolated=is_bridge and not network.option(ENABLE_ICC, True),
            sysctls=sysctls,
        )


def default_routes(networks: Sequence[Wish], rows: Sequence[Endpoint]) -> list[tuple[str, str, str]]:
    """(destination, gateway, interface) for each family that has a way out."""
    interfaces = {row.network_id: row.live for row in rows if row.live}
    found = []
    for destination, v6 in (("0.0.0.0/0", False), ("::/0", True)):
        for network in gateway_order(networks):
            entry = interfaces.get(network.id)
            if entry and (entry.ipv6 if v6 else entry.ipv4) and gateway(network, v6=v6):
                found.append((destination, gateway(network, v6=v6), entry.interface))
                break
    return found
