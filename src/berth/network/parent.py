"""The parent links of macvlan and ipvlan networks."""

from __future__ import annotations

import errno

from berth.errors import InvalidArgument, NotFound, NotImplementedKind
from berth.kernel import netlink
from berth.network import host
from berth.network.record import IPVLAN, MACVLAN, NetworkRecord

_MACVLAN_MODES = {"": 4, "bridge": 4, "private": 1, "vepa": 2, "passthru": 8}
_IPVLAN_MODES = {"": 0, "l2": 0, "l3": 1, "l3s": 2}
_OWN_PREFIX = "dm-"


def mode(record: NetworkRecord) -> int:
    """The kernel's number for the mode of a macvlan or ipvlan network."""
    modes, key = (_IPVLAN_MODES, "ipvlan_mode") if record.driver == IPVLAN else (_MACVLAN_MODES, "macvlan_mode")
    text = record.options.get(key, "")
    if text not in modes:
        raise InvalidArgument(f"unknown {key} {text!r}: choose one of {', '.join(m for m in modes if m)}")
    return modes[text]


def prepare(record: NetworkRecord) -> None:
    """Check the parent, make it when the network was given none, and see whether the kernel has the driver."""
    mode(record)
    names = {str(link["name"]) for link in netlink.links()}
    if record.device not in names:
        if not record.device.startswith(_OWN_PREFIX):
            if "." in record.device:
                raise NotImplementedKind(f"there is no link {record.device}: make the VLAN link first, berth does not yet")
            raise NotFound(f"-o parent={record.device}: there is no such link on the host")
        # Two ends that are both up have a carrier, which macvlan needs; a bridge without ports has none.
        other = "dp-" + record.device.removeprefix(_OWN_PREFIX)
        netlink.create_veth(record.device, "", other, -1, "", host.default_mtu())
        netlink.set_link(other, True)
    try:
        _probe(record)
    except BaseException:
        remove_own(record)
        raise


def _probe(record: NetworkRecord) -> None:
    probe = f"pr-{record.id[:12]}"
    try:
        netlink.create_macvlan(record.device, probe, -1, "", 0, mode(record), "ipvlan" if record.driver == IPVLAN else MACVLAN)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise NotImplementedKind(f"the kernel of this host has no {record.driver}: the network cannot be made") from error
        raise
    netlink.delete_link(probe)


def remove_own(record: NetworkRecord) -> None:
    """Remove the parent that was made for a network. Idempotent."""
    if record.device.startswith(_OWN_PREFIX):
        try:
            netlink.delete_link(record.device)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
