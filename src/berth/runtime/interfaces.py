"""The network interfaces of a container, made from outside by its setter-up. Lean."""

from __future__ import annotations

import errno
import os

from berth.kernel import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # As in a plan: kind, host_name, parent, name, mac, mtu, mode, hairpin, isolated.
    Link = dict[str, Any]


def make(links: list[Link], pid: int) -> None:
    """All that a container has: they appear in the network namespace of its init."""
    if not links:
        return
    netns = _namespace(pid)
    try:
        for link in links:
            if link["kind"] == "veth":
                _make_veth(link, netns)
            else:
                netlink.create_macvlan(link["parent"], link["name"], netns, link["mac"], link["mtu"], link["mode"], link["kind"])
    finally:
        os.close(netns)


def make_ahead(host_name: str, name: str, pid: int) -> int:
    """The link of a container that is still to come. The index of the host's end."""
    netns = _namespace(pid)
    try:
        return netlink.prepare_veth(host_name, name, netns)
    finally:
        os.close(netns)


def connect(index: int, link: Link) -> None:
    """What is left to do of a link that was made ahead, when it is known for whom."""
    netlink.connect_veth(index, link["parent"], link["mac"], link["mtu"], link["hairpin"], link["isolated"])


def _namespace(pid: int) -> int:
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _make_veth(link: Link, netns: int) -> None:
    arguments = link["parent"], link["name"], netns, link["mac"], link["mtu"], link["hairpin"], link["isolated"]
    try:
        netlink.create_veth(link["host_name"], *arguments)
    except FileExistsError:
        # The slot that this container was to start from has died, and the kernel has not taken down its namespace yet.
        try:
            netlink.delete_link(link["host_name"])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        netlink.create_veth(link["host_name"], *arguments)
