"""Whom a published port is open to, by the host's address that it is bound to."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_address


class Exposure(StrEnum):
    """`local`: this host alone. `lan`: one address of this host that is no public one. `any`: whoever reaches this host."""

    LOCAL = "local"
    LAN = "lan"
    ANY = "any"


_ORDER = (Exposure.LOCAL, Exposure.LAN, Exposure.ANY)


def of_address(text: str) -> Exposure:
    """Of one address; "" stands for all of the host's. ValueError for what is no address."""
    address = ip_address(text or "0.0.0.0")
    if address.is_loopback:
        return Exposure.LOCAL
    if address.is_unspecified or address.is_global:
        return Exposure.ANY
    return Exposure.LAN


def widest(exposures: list[Exposure]) -> Exposure | None:
    """The one that counts of several; None without any."""
    return max(exposures, key=_ORDER.index, default=None)
