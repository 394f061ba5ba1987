"""Networks as users define them: a create request becomes a record (with subnets chosen), a record becomes Docker's JSON."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_network

import msgspec

from berth.engine.config import EngineConfig
from berth.errors import AlreadyExists, Forbidden, InvalidArgument, NotFound, NotImplementedKind
from berth.model.identifier import new_id
from berth.model.instant import rfc3339
from berth.network import bridge, host, ipam, option
from berth.network.record import (
    BRIDGE,
    BRIDGE_NAME,
    DEFAULT_BRIDGE,
    ENABLE_ICC,
    ENABLE_MASQUERADE,
    HOST,
    HOST_BINDING,
    IPVLAN,
    ISOLATED,
    MACVLAN,
    NONE,
    Endpoint,
    NetworkRecord,
    Pool,
)
from berth.wire.network import (
    IPAM,
    ConfigReference,
    EndpointResource,
    IPAMConfig,
    NetworkCreateRequest,
    NetworkInspect,
    NetworkSummary,
)

HOST_LOCK = "/run/berth-networks.lock"
_LINK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}\Z")


@asynccontextmanager
async def host_lock(own: asyncio.Lock) -> AsyncIterator[None]:
    """Held while subnets are chosen and their bridges made, so that engines on one host do not choose the same. `own` keeps
    this engine's requests apart."""
    async with own:
        fd = os.open(HOST_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def predefined(config: EngineConfig, taken: Iterable[ipam.Subnet]) -> list[NetworkRecord]:
    """The networks bridge, host and none, as they are made at the first start of an engine."""
    subnet = str(ipam.free_pool(ipam.pools_of(config.address_pools, 4, config.engine_id), taken))
    device = bridge.default_device_name(config.engine_id, is_default_engine=config.is_default)
    options = {
        DEFAULT_BRIDGE: "true",
        ENABLE_ICC: "true",
        ENABLE_MASQUERADE: "true",
        HOST_BINDING: "0.0.0.0",
        BRIDGE_NAME: device,
    }
    pool = ipam.complete_pool(subnet, "", "", {}, with_gateway=True)
    now = time.time()
    return [
        NetworkRecord(id=new_id(), name=BRIDGE, created=now, pools=(pool,), options=options, device=device),
        NetworkRecord(id=new_id(), name=HOST, created=now, driver=HOST),
        NetworkRecord(id=new_id(), name=NONE, created=now, driver="null"),
    ]


def with_ipv6(config: EngineConfig, record: NetworkRecord, taken: Iterable[ipam.Subnet]) -> NetworkRecord:
    """The default network as the engine's setting wants it: with an IPv6 subnet, or without."""
    if config.ipv6 == record.enable_ipv6:
        return record
    pools = tuple(pool for pool in record.pools if not pool.is_v6)
    if config.ipv6:
        free = str(ipam.free_pool(ipam.pools_of(config.address_pools, 6, config.engine_id), taken))
        pools += (ipam.complete_pool(free, "", "", {}, with_gateway=True),)
    return msgspec.structs.replace(record, pools=pools, enable_ipv6=config.ipv6)


class Definitions:
    """Makes records from requests. `networks` are those that exist."""

    def __init__(self, config: EngineConfig, networks: dict[str, NetworkRecord]) -> None:
        self._config = config
        self._networks = networks

    def record(self, request: NetworkCreateRequest) -> NetworkRecord:
        """A new network's record, with everything chosen that the user left open. Call it under `host_lock`."""
        name = self._check_name(request.name or "")
        request = self._with_config_from(request)
        driver = request.driver or BRIDGE
        self._check_driver(driver, request)
        identifier = new_id()
        options = dict(request.options or {})
        record = NetworkRecord(
            id=identifier,
            name=name,
            created=time.time(),
            driver=driver,
            enable_ipv4=request.enable_ipv4 is not False,
            internal=bool(request.internal),
            attachable=bool(request.attachable),
            config_only=bool(request.config_only),
            config_from=(request.config_from.network or "") if request.config_from else "",
            options=options,
            labels=dict(request.labels or {}),
            ipam_options=request.ipam.options if request.ipam else None,
            device=self._device(driver, identifier, options),
        )
        pools = self._pools(request, record)
        given = bool(request.ipam and any(c.subnet for c in request.ipam.config or []))
        v6 = any(pool.is_v6 for pool in pools)
        return _replace(record, pools=pools, chosen=given, v6=v6)

    def _check_name(self, name: str) -> str:
        if not name.strip():
            raise InvalidArgument("network name cannot be empty")
        if "/" in name or name != name.strip() or len(name) > 255:
            raise InvalidArgument(f"invalid network name {name!r}: no slashes and no spaces around it")
        if name in (BRIDGE, HOST, NONE, "default"):
            raise Forbidden(f"operation is not permitted on predefined {name} network")
        if any(n.name == name for n in self._networks.values()):
            raise AlreadyExists(f"network with name {name} already exists")
        return name

    def _with_config_from(self, request: NetworkCreateRequest) -> NetworkCreateRequest:
        source = request.config_from.network if request.config_from else ""
        if not source:
            return request
        found = next((n for n in self._networks.values() if source in (n.name, n.id)), None)
        if not found or not found.config_only:
            raise NotFound(f"configuration network {source} not found: create it with --config-only")
        if request.ipam and request.ipam.config:
            raise Forbidden("user specified configurations are not supported if the network depends on a configuration network")
        pools = [_ipam_config(pool) for pool in found.pools]
        return NetworkCreateRequest(
            name=request.name,
            driver=request.driver,
            attachable=request.attachable,
            config_from=request.config_from,
            internal=found.internal,
            enable_ipv6=found.enable_ipv6,
            ipam=IPAM(driver=found.ipam_driver, config=pools, options=found.ipam_options),
            options={**found.options, **(request.options or {})},
            labels={**found.labels, **(request.labels or {})},
        )

    def _check_driver(self, driver: str, request: NetworkCreateRequest) -> None:
        if driver in (HOST, "null", NONE):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if driver == "overlay" or request.ingress or request.scope == "swarm":
            raise NotImplementedKind("overlay networks need a swarm, which berth does not have: use bridge, macvlan or ipvlan")
        if request.scope not in (None, "", "local"):
            raise InvalidArgument(f"invalid network scope {request.scope!r}: all networks of this engine are local")
        if driver not in (BRIDGE, MACVLAN, IPVLAN):
            raise NotFound(f"could not find plugin {driver} in v1 plugin registry: plugin not found")
        if request.ipam and request.ipam.driver not in (None, "", "default"):
            raise NotFound(f"could not find IPAM plugin {request.ipam.driver}: only the driver default is there")
        option.check(request.options or {}, internal=bool(request.internal))

    def _device(self, driver: str, identifier: str, options: dict[str, str]) -> str:
        if driver == BRIDGE:
            name = options.get(BRIDGE_NAME)
            if name is None:
                return bridge.device_name(self._config.engine_id, identifier, is_default_engine=self._config.is_default)
        else:
            # Without a parent the network gets a link of its own: containers reach each other and nothing else.
            name = options.get("parent") or f"dm-{identifier[:12]}"
        if not _LINK_NAME.match(name):
            raise InvalidArgument(f"invalid link name {name!r}: 1 to 15 letters, digits, dots, dashes and underscores")
        if driver == BRIDGE and any(n.device == name for n in self._networks.values()):
            raise Forbidden(f"cannot create network: the bridge name {name} is in use by another network")
        return name

    def _pools(self, request: NetworkCreateRequest, record: NetworkRecord) -> tuple[Pool, ...]:
        known: list[ipam.Subnet] = [ip_network(p.subnet) for n in self._networks.values() for p in n.pools if not n.config_only]
        pools: list[Pool] = []
        for entry in (request.ipam.config or []) if request.ipam else []:
            if not entry.subnet:
                if entry.ip_range or entry.gateway or entry.auxiliary_addresses:
                    raise InvalidArgument("invalid IPAM configuration: ip-range, gateway and aux-address need a subnet")
                continue
            pool = ipam.complete_pool(
                entry.subnet,
                entry.ip_range or "",
                entry.gateway or "",
                entry.auxiliary_addresses or {},
                with_gateway=not record.config_only and not isolated(record, entry.subnet),
            )
            if any(other.is_v6 == pool.is_v6 for other in pools):
                raise InvalidArgument(f"network {record.name}: more than one subnet of a family is not supported")
            if record.driver == BRIDGE and not record.config_only:
                ipam.refuse_overlap(pool.subnet, known)
            pools.append(pool)
        if record.config_only:
            return tuple(pools)
        taken = [*known, *host.subnets_in_use()]
        if record.enable_ipv4 and not any(not pool.is_v6 for pool in pools):
            free = ipam.free_pool(ipam.pools_of(self._config.address_pools, 4, self._config.engine_id), taken)
            pools.insert(0, ipam.complete_pool(str(free), "", "", {}, with_gateway=not isolated(record, str(free))))
        if request.enable_ipv6 and not any(pool.is_v6 for pool in pools):
            free = ipam.free_pool(ipam.pools_of(self._config.address_pools, 6, self._config.engine_id), taken)
            pools.append(ipam.complete_pool(str(free), "", "", {}, with_gateway=not isolated(record, str(free))))
        if not pools:
            raise InvalidArgument(f"network {record.name}: IPv4 and IPv6 cannot both be disabled")
        return tuple(pools)


def isolated(record: NetworkRecord, subnet: str) -> bool:
    """Whether the host has no address in this subnet of the network."""
    return record.driver == BRIDGE and record.gateway_mode(v6=":" in subnet) == ISOLATED


def _replace(record: NetworkRecord, *, pools: tuple[Pool, ...], chosen: bool, v6: bool) -> NetworkRecord:
    v4 = any(not pool.is_v6 for pool in pools) or record.config_only
    return msgspec.structs.replace(record, pools=pools, chosen=chosen, enable_ipv6=v6, enable_ipv4=v4)


def _ipam_config(pool: Pool) -> IPAMConfig:
    return IPAMConfig(
        subnet=pool.subnet,
        ip_range=pool.ip_range or None,
        gateway=pool.gateway or None,
        auxiliary_addresses=pool.auxiliary or None,
    )


def _ipam(record: NetworkRecord) -> IPAM:
    return IPAM(driver=record.ipam_driver, options=record.ipam_options, config=[_ipam_config(pool) for pool in record.pools])


def summary(record: NetworkRecord) -> NetworkSummary:
    """An entry of the list."""
    return NetworkSummary(
        name=record.name, id=record.id, created=rfc3339(record.created), scope="local", driver=record.driver,
        enable_ipv4=record.enable_ipv4, enable_ipv6=record.enable_ipv6, ipam=_ipam(record), internal=record.internal,
        attachable=record.attachable, ingress=record.ingress, config_from=ConfigReference(network=record.config_from),
        config_only=record.config_only, options=record.options, labels=record.labels,
    )  # fmt: skip


def inspection(record: NetworkRecord, endpoints: Iterable[Endpoint]) -> NetworkInspect:
    """A network with the running containers in it."""
    containers: dict[str, EndpointResource] = {}
    for endpoint in endpoints:
        if live := endpoint.live:
            containers[endpoint.container_id] = EndpointResource(
                name=live.name,
                endpoint_id=endpoint.id,
                mac_address=live.mac,
                ipv4_address=_with_prefix(record, live.ipv4),
                ipv6_address=_with_prefix(record, live.ipv6),
            )
    return NetworkInspect(
        name=record.name, id=record.id, created=rfc3339(record.created), scope="local", driver=record.driver,
        enable_ipv4=record.enable_ipv4, enable_ipv6=record.enable_ipv6, ipam=_ipam(record), internal=record.internal,
        attachable=record.attachable, ingress=record.ingress, config_from=ConfigReference(network=record.config_from),
        config_only=record.config_only, containers=containers, options=record.options, labels=record.labels,
    )  # fmt: skip


def prefix_length(record: NetworkRecord, address: str) -> int:
    """The prefix length of the pool that an address of this network is from; 0 without one."""
    if not address:
        return 0
    return next((ip_network(p.subnet).prefixlen for p in record.pools if p.is_v6 == (":" in address)), 0)


def _with_prefix(record: NetworkRecord, address: str) -> str:
    return f"{address}/{prefix_length(record, address)}" if address else ""


def gateway(record: NetworkRecord, *, v6: bool) -> str:
    """The gateway that containers use, "" without one or in an internal network. An auxiliary address of Docker's name for it
    stands in for the bridge's."""
    if record.internal:
        return ""
    other = "DefaultGatewayIPv6" if v6 else "DefaultGatewayIPv4"
    return next((p.auxiliary.get(other) or p.gateway for p in record.pools if p.is_v6 == v6), "")
