"""Changes in the network namespace of a running container: interfaces come and go, the default route moves, DNS is added.

A namespace is entered by a thread that ends with the work: nothing has to be restored, and no other thread notices.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from berth.errors import NotFound
from berth.kernel import netlink, nfnetlink
from berth.kernel.namespace import setns
from berth.model.endpoint import EndpointPlan
from berth.network.host import write_sysctl
from berth.network.names import RESOLVER_ADDRESS

_CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def open_namespace(pid: int) -> int:
    """A descriptor of the network namespace of a process. NotFound when it has ended."""
    try:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise NotFound(f"process {pid} has ended") from None


def run_inside(netns: int, work: Callable[[], T]) -> T:
    """Run `work` in a network namespace, and return or raise what it does. Blocks."""
    results: list[T] = []
    failures: list[BaseException] = []

    def enter() -> None:
        try:
            setns(netns, _CLONE_NEWNET)
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def free_interface(taken: Iterable[str], prefix: str = "eth") -> str:
    """The first ethN, or another prefix and N, that is not taken."""
    names = set(taken)
    number = 0
    while f"{prefix}{number}" in names:
        number += 1
    return f"{prefix}{number}"


def add_endpoint(pid: int, plan: EndpointPlan, default_routes: Iterable[tuple[str, str, str]]) -> None:
    """Make an interface in the namespace of `pid`, and set the default routes (destination, gateway, interface) anew."""
    netns = open_namespace(pid)
    try:
        if plan.kind == "veth":
            netlink.create_veth(plan.host_name, plan.parent, plan.name, netns, plan.mac, plan.mtu, plan.hairpin, plan.isolated)
        else:
            netlink.create_macvlan(plan.parent, plan.name, netns, plan.mac, plan.mtu, plan.mode, plan.kind)

        def inside() -> None:
            for key, value in plan.sysctls.items():
                write_sysctl(key, value)
            netlink.configure([(plan.name, "", plan.addresses, plan.mtu)], loopback=False)
            _set_default_routes(default_routes)

        try:
            run_inside(netns, inside)
        except BaseException:
            _remove_interface(netns, plan.name)
            raise
    finally:
        os.close(netns)


def remove_endpoint(pid: int, interface: str, default_routes: Iterable[tuple[str, str, str]]) -> None:
    """Remove an interface from the namespace of `pid` and set the default routes anew. Idempotent."""
    netns = open_namespace(pid)
    try:
        if interface:
            # Network none has no interface.
            _remove_interface(netns, interface)
        run_inside(netns, lambda: _set_default_routes(default_routes))
    finally:
        os.close(netns)


def _remove_interface(netns: int, name: str) -> None:
    def inside() -> None:
        try:
            netlink.delete_link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    run_inside(netns, inside)


def _set_default_routes(wanted: Iterable[tuple[str, str, str]]) -> None:
    names = {int(link["index"]): str(link["name"]) for link in netlink.links()}
    have = {(d, gateway, names.get(index, "")) for d, gateway, index in netlink.routes() if d in ("0.0.0.0/0", "::/0")}
    want = set(wanted)
    for destination, gateway, _ in sorted(have - want):
        netlink.delete_route(destination, gateway or None)
    for destination, gateway, name in sorted(want - have):
        netlink.add_route(destination, gateway, name)


def open_resolver_sockets(pid: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets in the namespace of `pid` that get what is sent to 127.0.0.11 port 53 there."""

    def inside() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            udp.bind((RESOLVER_ADDRESS, 0))
            tcp.bind((RESOLVER_ADDRESS, 0))
            tcp.listen(64)
            nfnetlink.redirect_dns(udp.getsockname()[1], tcp.getsockname()[1], replace=True)
        except BaseException:
            udp.close()
            tcp.close()
            raise
        return udp, tcp

    netns = open_namespace(pid)
    try:
        return run_inside(netns, inside)
    finally:
        os.close(netns)
