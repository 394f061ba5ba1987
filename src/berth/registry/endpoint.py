"""Where a registry is: its mirrors before it, and who may be spoken to without TLS.

Plain HTTP, and TLS without a check of the certificate, are only for loopback addresses and for registries that the
operator listed as insecure. Nobody else is ever fallen back to HTTP for, whatever goes wrong with TLS (CVE-2014-5277).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from berth.errors import InvalidArgument
from berth.model.reference import DEFAULT_DOMAIN

HUB = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. `schemes` are tried in order, the first that answers is kept; `verify` is about its certificate."""

    host: str
    schemes: tuple[str, ...] = ("https",)
    verify: bool = True
    mirror: bool = False


def endpoints(domain: str, mirrors: Sequence[str], insecure: Sequence[str]) -> list[Endpoint]:
    """The servers to ask for images of `domain`, in order. A mirror is an address (Docker Hub's), or HOST=address."""
    own = [address for host, address in map(split_mirror, mirrors) if host == domain]
    last = Endpoint(HUB) if domain == DEFAULT_DOMAIN else endpoint(domain, insecure)
    return [*(_mirror(text, insecure) for text in own), last]


def split_mirror(text: str) -> tuple[str, str]:
    """The registry that a mirror is for, and the mirror's address. InvalidArgument."""
    host, equals, address = text.partition("=")
    host, address = (host, address) if equals else (DEFAULT_DOMAIN, text)
    if not host or "/" in host or not address:
        raise InvalidArgument(f"invalid registry mirror {text!r}: give http(s)://mirror, or REGISTRY=http(s)://mirror")
    _mirror(address, ())
    return DEFAULT_DOMAIN if host in ("index.docker.io", HUB) else host, address


def endpoint(host: str, insecure: Sequence[str], *, mirror: bool = False) -> Endpoint:
    """A server by its host[:port]."""
    if is_insecure(host, insecure):
        return Endpoint(host, ("https", "http"), verify=False, mirror=mirror)
    return Endpoint(host, mirror=mirror)


def _mirror(text: str, insecure: Sequence[str]) -> Endpoint:
    if "://" not in text:
        return endpoint(text.strip("/"), insecure, mirror=True)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise InvalidArgument(f"invalid registry mirror {text!r}: it must be http(s)://host[:port] and nothing more")
    if parts.scheme == "http":
        return Endpoint(parts.netloc, ("http",), verify=False, mirror=True)
    return Endpoint(parts.netloc, verify=not is_insecure(parts.netloc, insecure), mirror=True)


def host_name(host: str) -> str:
    """host[:port] without the port and without the brackets of an IPv6 address."""
    return urlsplit(f"//{host}").hostname or ""


def is_loopback(host: str) -> bool:
    """localhost and the loopback addresses."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def is_insecure(host: str, insecure: Sequence[str]) -> bool:
    """Whether plain HTTP is allowed: loopback, or listed by name, by name:port, by address or by network (CIDR)."""
    if is_loopback(host):
        return True
    name = host_name(host)
    address = _address(name)
    for entry in insecure:
        if entry in (host, name):
            return True
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
    return False


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def same_site(registry: str, realm: str) -> bool:
    """Whether a token server may get the credentials that were given for a registry: it is the same host, or a sibling
    below the domain that the registry is in (registry.example.com and auth.example.com). Both are host[:port]."""
    one, other = host_name(registry), host_name(realm)
    if one == other:
        return True
    if _address(one) is not None or _address(other) is not None:
        return False
    labels = one.split(".")
    parent = labels[1:] if len(labels) > 2 else labels
    # example.co.uk and the like: a parent that is itself a public suffix unites strangers.
    least = 3 if len(parent[-1]) == 2 and len(parent) >= 2 and len(parent[-2]) <= 3 else 2
    if len(parent) < least:
        return other.endswith("." + one)
    site = ".".join(parent)
    return other == site or other.endswith("." + site)
