"""Driver options of a network, `com.docker.network.*`: whether they make sense. What they do is where it is done."""

from __future__ import annotations

import re
from ipaddress import ip_address

from berth.errors import InvalidArgument
from berth.network.record import (
    DEFAULT_BRIDGE,
    DRIVER_MTU,
    ENABLE_ICC,
    ENABLE_MASQUERADE,
    GATEWAY_MODES,
    HOST_BINDING,
    HOST_SOURCES,
    INHIBIT_IPV4,
    INTERFACE_PREFIX,
    ISOLATED,
    NAT,
    NAT_UNPROTECTED,
    ROUTED,
    TRUSTED_INTERFACES,
)

_SWITCHES = (ENABLE_ICC, ENABLE_MASQUERADE, INHIBIT_IPV4, DEFAULT_BRIDGE)
_BOOLEANS = ("1", "t", "true", "0", "f", "false", "")
_PREFIX = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,11}\Z")
_LINK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}\Z")
_HIGHEST_MTU = 65535


def check(options: dict[str, str], *, internal: bool) -> None:
    """InvalidArgument names the first option whose value makes no sense."""
    for key in _SWITCHES:
        if options.get(key, "").lower() not in _BOOLEANS:
            raise _invalid(options, key, "give true or false")
    for key in GATEWAY_MODES.values():
        _check_mode(options, key, internal=internal)
    for v6, key in HOST_SOURCES.items():
        _check_address(options, key, v6=v6)
    _check_address(options, HOST_BINDING)
    mtu = options.get(DRIVER_MTU, "")
    if mtu and not (mtu.isascii() and mtu.isdigit() and int(mtu) <= _HIGHEST_MTU):
        raise _invalid(options, DRIVER_MTU, f"give a number of bytes up to {_HIGHEST_MTU}, 0 for the default")
    for name in filter(None, options.get(TRUSTED_INTERFACES, "").split(":")):
        if not _LINK.match(name):
            raise _invalid(options, TRUSTED_INTERFACES, "give names of links with colons between them")
    if options.get(INTERFACE_PREFIX) and not _PREFIX.match(options[INTERFACE_PREFIX]):
        raise _invalid(options, INTERFACE_PREFIX, "1 to 12 letters, digits, dashes and underscores")


def _check_mode(options: dict[str, str], key: str, *, internal: bool) -> None:
    mode = options.get(key, "")
    if mode not in ("", NAT, NAT_UNPROTECTED, ROUTED, ISOLATED):
        raise _invalid(options, key, f"choose one of {NAT}, {NAT_UNPROTECTED}, {ROUTED}, {ISOLATED}")
    if mode == ISOLATED and not internal:
        raise InvalidArgument(f"{key}: gateway mode 'isolated' can only be used for an internal network: add --internal")


def _check_address(options: dict[str, str], key: str, *, v6: bool | None = None) -> None:
    text = options.get(key, "")
    if not text:
        return
    try:
        address = ip_address(text)
    except ValueError:
        raise _invalid(options, key, "give an IP address") from None
    if v6 is not None and (address.version == 6) != v6:
        raise _invalid(options, key, f"give an IPv{6 if v6 else 4} address")


def _invalid(options: dict[str, str], key: str, hint: str) -> InvalidArgument:
    return InvalidArgument(f"invalid value {options.get(key, '')!r} for {key}: {hint}")
