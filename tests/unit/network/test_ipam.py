"""Addresses and pools."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.errors import Forbidden, InvalidArgument, ResourceExhausted
from berth.network.ipam import (
    Addresses,
    complete_pool,
    default_pools,
    derive_mac,
    free_pool,
    overlaps,
    parse_subnet,
    refuse_overlap,
    unique_local_pools,
)
from berth.network.record import Pool

SUBNETS = st.builds(
    lambda base, prefix: str(ip_network((base, prefix), strict=False)), st.integers(0x0A000000, 0x0AFFFFFF), st.integers(20, 29)
)


@given(SUBNETS, st.lists(st.sampled_from(["take", "give", "wanted"]), max_size=60), st.randoms())
@settings(max_examples=60, deadline=None)
def test_no_address_is_given_twice_or_from_outside(subnet: str, steps: list[str], random: object) -> None:
    pool = complete_pool(subnet, "", "", {}, with_gateway=True)
    addresses = Addresses(pool)
    net = ip_network(subnet)
    forbidden = {str(net.network_address), str(net.broadcast_address), pool.gateway}
    held: set[str] = set()
    for step in steps:
        if step == "give" and held:
            gone = sorted(held)[len(held) // 2]
            held.remove(gone)
            addresses.give(gone)
            continue
        wanted = str(net.network_address + net.num_addresses // 2) if step == "wanted" else ""
        try:
            got = addresses.take(wanted)
        except (ResourceExhausted, Forbidden):
            assert wanted in held | forbidden or len(held) == net.num_addresses - 3
            continue
        assert got not in held | forbidden or (wanted and got not in held)
        assert ip_address(got) in net
        held.add(got)


def test_the_lowest_free_address_is_given_first() -> None:
    addresses = Addresses(complete_pool("172.17.0.0/16", "", "", {}, with_gateway=True))
    assert [addresses.take() for _ in range(3)] == ["172.17.0.2", "172.17.0.3", "172.17.0.4"]
    addresses.give("172.17.0.3")
    addresses.give("172.17.0.1")
    assert addresses.take() == "172.17.0.3"
    assert addresses.take() == "172.17.0.5"


def test_a_full_pool_says_so() -> None:
    addresses = Addresses(complete_pool("10.0.0.0/30", "", "", {}, with_gateway=True))
    assert addresses.take() == "10.0.0.2"
    with pytest.raises(ResourceExhausted, match=r"no available IPv4 addresses on this network's address pools: 10.0.0.0/30"):
        addresses.take()


def test_ranges_gateways_and_auxiliary_addresses_are_respected() -> None:
    pool = complete_pool("10.1.0.0/16", "10.1.5.0/29", "10.1.0.9", {"printer": "10.1.5.1"}, with_gateway=True)
    addresses = Addresses(pool, ["10.1.5.2"])
    assert [addresses.take() for _ in range(2)] == ["10.1.5.0", "10.1.5.3"]
    assert addresses.take("10.1.200.1") == "10.1.200.1"
    with pytest.raises(Forbidden, match="Address already in use"):
        addresses.take("10.1.0.9")


def test_ipv6_pools() -> None:
    addresses = Addresses(complete_pool("fd00:1::/64", "", "", {}, with_gateway=True))
    assert addresses.pool.gateway == "fd00:1::1"
    assert addresses.take() == "fd00:1::2"
    pools = unique_local_pools("engine")
    first, second = next(pools), next(pools)
    assert str(first).startswith("fd") and first.prefixlen == 64 and not first.overlaps(second)
    assert next(unique_local_pools("engine")) == first


@given(st.lists(SUBNETS, max_size=5), SUBNETS)
def test_a_free_pool_overlaps_nothing(taken: list[str], wanted: str) -> None:
    used = [ip_network(t) for t in taken]
    found = free_pool(default_pools(), used)
    assert not any(overlaps(found, other) for other in used)
    try:
        refuse_overlap(wanted, used)
    except Forbidden:
        assert any(ip_network(wanted).overlaps(other) for other in used)
    else:
        assert not any(ip_network(wanted).overlaps(other) for other in used)


def test_pools_run_out_with_an_explanation() -> None:
    with pytest.raises(ResourceExhausted, match="could not find an available, non-overlapping address pool"):
        free_pool(default_pools(), [ip_network("172.16.0.0/12"), ip_network("192.168.0.0/16"), ip_network("10.224.0.0/11")])
    assert str(free_pool(default_pools(), [ip_network("172.16.0.0/12")])) == "192.168.0.0/20"
    assert len(list(default_pools())) == 543


@pytest.mark.parametrize(
    ("text", "message"),
    [("10.0.0.1/24", "it should be 10.0.0.0/24"), ("nonsense", "address/prefix length"), ("10.0.0.0/31", "too small")],
)
def test_bad_subnets_are_explained(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_subnet(text) if "31" not in text else complete_pool(text, "", "", {}, with_gateway=True)


@pytest.mark.parametrize(
    ("ip_range", "gateway", "auxiliary"),
    [("10.1.0.0/24", "", {}), ("", "10.1.0.1", {}), ("", "", {"x": "10.1.0.1"}), ("", "x", {})],
)
def test_what_is_outside_the_subnet_is_refused(ip_range: str, gateway: str, auxiliary: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        complete_pool("10.0.0.0/24", ip_range, gateway, auxiliary, with_gateway=True)


def test_mac_addresses_come_from_the_address() -> None:
    assert derive_mac("172.17.0.2", "") == "02:42:ac:11:00:02"
    assert derive_mac("", "fd00::2").startswith("02:42:")
    assert Pool(subnet="fd00::/64").is_v6
