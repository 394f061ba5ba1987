"""Addresses: which subnets networks get, and which address a container gets. Pure: the caller says what is taken.

The lowest free address is given, as with Docker: a container that is started again finds its old one. Network, broadcast and
gateway addresses and those of `auxiliary` are never given.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import (
    IPv4Network,
    IPv6Network,
    ip_address,
    ip_network,
)

from berth.errors import Forbidden, InvalidArgument, ResourceExhausted
from berth.network.record import Pool

Subnet = IPv4Network | IPv6Network


def default_pools() -> Iterator[IPv4Network]:
    """Docker's: 172.17 to 172.31 as /16, then 192.168 in steps of /20. Where Docker gives up after these 31, 512 more."""
    for second in range(17, 32):
        yield IPv4Network(f"172.{second}.0.0/16")
    yield from IPv4Network("192.168.0.0/16").subnets(new_prefix=20)
    # High in 10/8, where offices and clouds number their machines last. What the host has a route to is left out anyway.
    yield from IPv4Network("10.224.0.0/11").subnets(new_prefix=20)


def unique_local_pools(seed: str) -> Iterator[IPv6Network]:
    """/64 networks of a /48 of its own below fd00::/8, derived from the seed (RFC 4193)."""
    digest = hashlib.sha256(seed.encode()).digest()
    base = b"\xfd" + digest[:5]
    for number in range(1 << 16):
        yield IPv6Network((base + number.to_bytes(2, "big") + bytes(8), 64))


def pools_of(given: Sequence[tuple[str, int]], version: int, seed: str) -> Iterator[Subnet]:
    """The subnets that networks of a family may get: parts of the (base, prefix length) given, else the defaults."""
    bases = [(ip_network(base), size) for base, size in given]
    own = [(base, size) for base, size in bases if base.version == version]
    if not own:
        yield from default_pools() if version == 4 else unique_local_pools(seed)
    for base, size in own:
        yield from base.subnets(new_prefix=size)


def parse_base(text: str) -> tuple[str, int]:
    """base=10.1.0.0/16,size=24 as (base, prefix length). InvalidArgument."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if set(fields) != {"base", "size"} or not fields["size"].isdigit():
        raise InvalidArgument(f"invalid address pool {text!r}: write it as base=10.1.0.0/16,size=24")
    base, size = parse_subnet(fields["base"]), int(fields["size"])
    smallest = 30 if base.version == 4 else 126
    if not base.prefixlen <= size <= smallest:
        raise InvalidArgument(f"invalid address pool {text!r}: the size must be from {base.prefixlen} to {smallest}")
    return str(base), size


def parse_subnet(text: str) -> Subnet:
    """A subnet, or InvalidArgument. Bits right of the prefix are an error that names the right subnet."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgument(f"invalid subnet {text}: write it as address/prefix length, such as 172.28.0.0/16") from None
    raise InvalidArgument(f"invalid subnet {text}: it should be {meant}")


def overlaps(one: Subnet, other: Subnet) -> bool:
    """Whether two subnets of the same family share addresses."""
    return one.version == other.version and one.overlaps(other)


def free_pool(candidates: Iterable[Subnet], taken: Iterable[Subnet]) -> Subnet:
    """The first candidate that overlaps nothing."""
    used = list(taken)
    ends = {version: _united(used, version) for version in (4, 6)}
    for candidate in candidates:
        firsts, lasts = ends[candidate.version]
        # Of the stretches that begin before the candidate ends, only the last can reach into it.
        before = bisect(firsts, int(candidate.broadcast_address))
        if not before or lasts[before - 1] < int(candidate.network_address):
            return candidate
    raise ResourceExhausted(
        "could not find an available, non-overlapping address pool among the defaults to assign to the network: "
        "remove unused networks or give the network a --subnet"
    )


def _united(subnets: Iterable[Subnet], version: int) -> tuple[list[int], list[int]]:
    """What the subnets cover: first and last addresses of stretches that do not overlap, in order."""
    firsts: list[int] = []
    lasts: list[int] = []
    stretches = ((int(s.network_address), int(s.broadcast_address)) for s in subnets if s.version == version)
    for first, last in sorted(set(stretches)):
        if lasts and first <= lasts[-1]:
            lasts[-1] = max(last, lasts[-1])
        else:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts


def first_host(subnet: Subnet) -> str:
    """The first address that a host may have."""
    return str(subnet.network_address + (1 if subnet.num_addresses > 2 else 0))


def complete_pool(subnet: str, ip_range: str, gateway: str, auxiliary: dict[str, str], *, with_gateway: bool) -> Pool:
    """A pool from what a user gave. The gateway is the first address of the range, unless given."""
    net = parse_subnet(subnet)
    smallest = 30 if net.version == 4 else 126
    if net.prefixlen > smallest:
        raise InvalidArgument(f"invalid subnet {subnet}: too small, use a prefix of {smallest} or less")
    area = net
    if ip_range:
        area = parse_subnet(ip_range)
        if area.version != net.version or not area.subnet_of(net):  # type: ignore[arg-type]
            raise InvalidArgument(f"invalid ip-range {ip_range}: it is not within the subnet {subnet}")
    for name, address in [*auxiliary.items(), *([("gateway", gateway)] if gateway else [])]:
        if not contains(subnet, address):
            raise InvalidArgument(f"invalid address {address} for {name}: it is not within the subnet {subnet}")
    if not gateway and with_gateway:
        base = area.network_address
        gateway = str(base + 1 if base == net.network_address or area.num_addresses > 2 else base)
    return Pool(subnet=str(net), ip_range=str(area) if ip_range else "", gateway=gateway, auxiliary=auxiliary)


def contains(subnet: str, address: str) -> bool:
    """Whether the address lies in the subnet. InvalidArgument when it is not an address."""
    try:
        value = ip_address(address)
    except ValueError:
        raise InvalidArgument(f"invalid IP address {address!r}") from None
    net = ip_network(subnet)
    return value.version == net.version and value in net


def refuse_overlap(subnet: str, taken: Iterable[Subnet]) -> None:
    """Forbidden, in Docker's words, when the subnet overlaps with one that is taken."""
    net = parse_subnet(subnet)
    for other in taken:
        if overlaps(net, other):
            raise Forbidden(f"invalid pool request: Pool overlaps with other one on this address space ({subnet} and {other})")


class Addresses:
    """The addresses of one pool that are in use."""

    def __init__(self, pool: Pool, used: Iterable[str] = ()) -> None:
        self.pool = pool
        self._subnet = ip_network(pool.subnet)
        self._area = ip_network(pool.ip_range) if pool.ip_range else self._subnet
        fixed = [pool.gateway, *pool.auxiliary.values()]
        self._used = {int(ip_address(a)) for a in [*fixed, *used] if a}

    def take(self, wanted: str = "") -> str:
        """The address wanted, or the lowest free one. ResourceExhausted when there is none."""
        if wanted:
            number = int(ip_address(wanted))
            if number in self._used:
                raise Forbidden(f"Address already in use: {wanted}")
            self._used.add(number)
            return wanted
        first, last = self._bounds()
        number = first
        while number in self._used:
            number += 1
        if number > last:
            raise ResourceExhausted(
                f"no available IPv{self._subnet.version} addresses on this network's address pools: {self.pool.subnet}"
            )
        self._used.add(number)
        return str(self._subnet.network_address + (number - int(self._subnet.network_address)))

    def give(self, address: str) -> None:
        """Free an address. Idempotent. The fixed ones stay taken."""
        if address and address != self.pool.gateway and address not in self.pool.auxiliary.values():
            self._used.discard(int(ip_address(address)))

    def hold(self, address: str) -> None:
        """Mark an address as used, whatever it was."""
        self._used.add(int(ip_address(address)))

    def _bounds(self) -> tuple[int, int]:
        low, high = int(self._area.network_address), int(self._area.broadcast_address)
        if low == int(self._subnet.network_address):
            low += 1
        if self._subnet.version == 4 and high == int(self._subnet.broadcast_address):
            high -= 1
        return low, high


def derive_mac(ipv4: str, ipv6: str) -> str:
    """A locally administered MAC: 02:42 and the four bytes of the IPv4 address, else of a hash of the IPv6 address."""
    tail = ip_address(ipv4).packed if ipv4 else hashlib.sha256(ipv6.encode()).digest()[:4]
    return (b"\x02\x42" + tail).hex(":")
