"""The host's side of all networks of an engine: bridges, the rule set, the elements of published ports, kept as they should be.

Everything that goes through libnftables runs in a thread, one call at a time; elements go inline as raw messages, since
they take 0.02 ms. A network that comes or goes changes its own chains and elements; the whole rule set is loaded at the start of
an engine, and by `mend` when somebody else has touched it (a flushed rule set, another firewall's reload).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from _socket import socket
from collections.abc import Iterable, Sequence

from berth import failpoint
from berth.errors import BerthError
from berth.kernel import netlink
from berth.kernel.netlink import open_socket
from berth.kernel.nfnetlink import FAMILY_INET, NETLINK_NETFILTER, batch, element
from berth.network import bridge, foreign, host, stale
from berth.network.firewall import BridgeRules, SubnetRules, addition, elements_of, removal, rule_set
from berth.network.nftables import Nftables, RuleError
from berth.network.record import BRIDGE, ENABLE_ICC, ENABLE_MASQUERADE, HOST_SOURCES, NetworkRecord, Published
from berth.network.watch import Change, RuleWatch

log = logging.getLogger(__name__)


class Fabric:
    """One per engine. `table` is the engine's name; `pattern` matches its bridges."""

    def __init__(self, table: str, pattern: str, root: str) -> None:
        self.table = table
        self._root = root
        self._pattern = pattern
        self._nft = Nftables()
        self._bridges: dict[str, NetworkRecord] = {}
        self._published: set[Published] = set()
        self._lock = asyncio.Lock()
        # Held while the set of ports and the kernel's maps are changed together: rules are loaded in a thread.
        self._elements = threading.Lock()
        self._watch: RuleWatch | None = None
        self._netlink: socket | None = None
        self._mending: set[asyncio.Task[None]] = set()
        # As nft lists the table; None once it has been changed since.
        self._loaded: str | None = None
        self.blocking: list[foreign.ForeignChain] = []
        self.default_mtu = 1500

    async def clear_abandoned(self) -> None:
        """Remove what engines left whose root is gone, before subnets are chosen around it. Trouble with it stops nobody."""
        try:
            for table in await asyncio.to_thread(stale.remove_abandoned, self._nft):
                log.info("removed the rules and bridges of %s, whose data is gone", table)
        except (BerthError, OSError) as error:
            log.warning("what abandoned engines left behind could not be removed: %s", error)

    async def start(self, networks: Iterable[NetworkRecord], published: Iterable[Published]) -> None:
        """Bridges, rules and elements as they should be. Idempotent."""
        self._bridges = {n.id: n for n in networks if n.driver == BRIDGE and not n.config_only}
        self._published = set(published)
        async with self._lock:
            stale.announce(self.table, self._root)
            await asyncio.to_thread(self._establish, list(self._bridges.values()))
        if self._watch is None:
            self._watch = RuleWatch(self._schedule, self.table)

    def _establish(self, records: list[NetworkRecord]) -> None:
        self.default_mtu = host.default_mtu()
        for record in records:
            bridge.ensure(record, bridge.network_mtu(record, self.default_mtu))
        host.enable_forwarding(ipv6=any(r.enable_ipv6 for r in self._bridges.values()))
        self._apply()

    def _apply(self) -> None:
        bridges = [self._rules_of(record) for record in self._bridges.values()]
        with self._elements:
            self._nft.run(rule_set(self.table, bridges, self._published))
        self._loaded = self._nft.show(f"list table inet {self.table}")
        self.blocking = foreign.reconcile(self._nft, self.table, self._patterns())

    def _patterns(self) -> list[str]:
        stem = self._pattern.removesuffix("*")
        return [self._pattern, *sorted(r.device for r in self._bridges.values() if not r.device.startswith(stem))]

    @staticmethod
    def _rules_of(record: NetworkRecord) -> BridgeRules:
        return BridgeRules(
            name=record.device,
            subnets=tuple(
                SubnetRules(
                    subnet=pool.subnet,
                    mode=record.gateway_mode(v6=pool.is_v6),
                    source=record.options.get(HOST_SOURCES[pool.is_v6], ""),
                )
                for pool in record.pools
            ),
            trusted=record.trusted_interfaces,
            internal=record.internal,
            icc=record.option(ENABLE_ICC, True),
            masquerade=record.option(ENABLE_MASQUERADE, True),
        )

    async def add(self, record: NetworkRecord) -> None:
        """A new bridge network. Leaves nothing behind when it fails."""
        async with self._lock:
            self._bridges[record.id] = record
            try:
                await asyncio.to_thread(self._add, record)
            except BaseException:
                self._bridges.pop(record.id, None)
                await asyncio.to_thread(self._take_out, record)
                await asyncio.to_thread(bridge.remove, record.device)
                raise

    def _add(self, record: NetworkRecord) -> None:
        bridge.ensure(record, bridge.network_mtu(record, self.default_mtu))
        host.enable_forwarding(ipv6=record.enable_ipv6)
        self._change(addition(self.table, self._rules_of(record)))
        self._adapt_others(record)

    async def remove(self, record: NetworkRecord) -> None:
        """Remove the bridge and its rules. Idempotent."""
        async with self._lock:
            known = self._bridges.pop(record.id, None)
            self.unpublish([port for port in self._published if port.network_id == record.id])
            if known is not None:
                await asyncio.to_thread(self._take_out, record)
            failpoint.hit("network.remove.after-rules")
            await asyncio.to_thread(bridge.remove, record.device)

    def _take_out(self, record: NetworkRecord) -> None:
        self._change(removal(self.table, self._rules_of(record)))
        self._adapt_others(record)

    def _change(self, commands: str) -> None:
        """A part of the rule set comes or goes; all of it is loaded when that does not fit what the kernel has."""
        self._loaded = None
        try:
            self._nft.run(commands)
        except RuleError as error:
            log.info("the firewall rules of %s are loaded anew: %s", self.table, error)
            self._apply()

    def _adapt_others(self, record: NetworkRecord) -> None:
        """Accepts in other firewalls' chains for a bridge whose name says nothing of the engine."""
        if not record.device.startswith(self._pattern.removesuffix("*")):
            self.blocking = foreign.reconcile(self._nft, self.table, self._patterns())

    def publish(self, ports: Iterable[Published]) -> None:
        """Add elements. Raises OSError when the kernel refuses."""
        with self._elements:
            new = [port for port in ports if port not in self._published]
            self._published.update(new)
            try:
                self._send(new, add=True)
            except FileNotFoundError:
                # The table has been flushed under us: mending writes all elements.
                self._schedule()

    def unpublish(self, ports: Iterable[Published]) -> None:
        """Remove elements. Idempotent."""
        with self._elements:
            for port in (port for port in ports if port.target):
                self._published.discard(port)
                try:
                    self._send([port], add=False)
                except FileNotFoundError:
                    pass

    def _send(self, ports: Iterable[Published], *, add: bool) -> None:
        messages = []
        for port in ports:
            for name, key, value in elements_of(port):
                messages.append(element(FAMILY_INET, self.table, name, key, value if add else None, add=add))
        if self._netlink is None:
            self._netlink = open_socket(NETLINK_NETFILTER)
        batch(messages, f"nf_tables: {self.table}", self._netlink)

    def _schedule(self, changes: Sequence[Change] = ()) -> None:
        task = asyncio.ensure_future(self._mend_quietly(changes))
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)

    async def _mend_quietly(self, changes: Sequence[Change]) -> None:
        try:
            await self.mend(changes)
        except (BerthError, OSError) as error:
            log.warning("the firewall rules of %s could not be put back: %s", self.table, error)

    async def mend(self, changes: Sequence[Change] = ()) -> None:
        """Look at what others have changed (everything, without `changes`), and put back what is missing."""
        async with self._lock:
            # A transaction of our own that is being told of has ended when the lock is ours, so its number is known.
            by_others = [change for change in changes if not self._nft.has_made(change.generation)]
            if by_others or not changes:
                await asyncio.to_thread(self._mend, own=any(change.own for change in by_others) or not changes)

    def _mend(self, *, own: bool) -> None:
        if own and (self._loaded is None or self._listed() != self._loaded):
            log.info("the firewall rules of %s were changed by somebody else: put back", self.table)
            self._establish(list(self._bridges.values()))
        else:
            self.blocking = foreign.reconcile(self._nft, self.table, self._patterns())

    def _listed(self) -> str:
        try:
            return self._nft.show(f"list table inet {self.table}")
        except RuleError:
            return ""

    async def teardown(self) -> None:
        """Remove everything that this engine made on the host: rules, accepts in other tables, bridges."""
        self.close()
        async with self._lock:
            await asyncio.to_thread(self._demolish)

    def _demolish(self) -> None:
        self._nft.run(f"table inet {self.table}\ndelete table inet {self.table}")
        self._loaded = None
        foreign.remove(self._nft, self.table)
        for record in self._bridges.values():
            bridge.remove(record.device)
        self._bridges = {}
        self._published = set()
        stale.withdraw(self.table)

    def close(self) -> None:
        """Let go; everything on the host stays."""
        if self._watch:
            self._watch.close()
            self._watch = None
        if self._netlink:
            self._netlink.close()
            self._netlink = None
        self._nft.close()
        for task in self._mending:
            task.cancel()


def delete_link_quietly(name: str) -> None:
    """Remove a link that may be gone already."""
    try:
        netlink.delete_link(name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
