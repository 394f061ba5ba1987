"""/etc/hosts and /etc/resolv.conf of containers: composed at attach, rewritten in place when networks change."""

from __future__ import annotations

import os
from collections.abc import Sequence

from berth.contract.network import ContainerFacts
from berth.engine.config import EngineConfig
from berth.engine.network_catalog import NetworkCatalog
from berth.engine.network_wish import Wish, hostname_of, is_user_defined, mode_of, shares_namespace
from berth.errors import Conflict
from berth.kernel.fs import naming
from berth.model.identifier import short_id
from berth.network import host, names
from berth.network.record import BRIDGE, HOST, NONE, Endpoint


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _has_ipv6_loopback(facts: ContainerFacts) -> bool:
    """Whether ::1 is there, which does not depend on the container's networks."""
    switches = facts.host_config.sysctls or {}
    off = any(switches.get(f"net.ipv6.conf.{name}.disable_ipv6") == "1" for name in ("all", "lo"))
    return not off and os.path.exists("/proc/net/if_inet6")


class Files:
    """Composes the two files from the container's wishes and its endpoints."""

    def __init__(self, config: EngineConfig, catalog: NetworkCatalog) -> None:
        self._config = config
        self._catalog = catalog

    def needs_resolver(self, facts: ContainerFacts, networks: Sequence[Wish]) -> bool:
        """In user-defined networks names are answered; on the default bridge the host's servers are used directly, unless
        there is none that a container can reach."""
        if any(network.has_links and is_user_defined(network) for network, _ in networks):
            return True
        on_bridge = any(network.name == BRIDGE for network, _ in networks)
        return on_bridge and not facts.host_config.dns and not host.reachable_servers()

    def contents(
        self, facts: ContainerFacts, networks: Sequence[Wish], rows: Sequence[Endpoint], *, embedded: bool
    ) -> tuple[str, str]:
        """/etc/hosts and /etc/resolv.conf."""
        return self._hosts(facts, rows), self._resolv(facts, embedded=embedded)

    def _hosts(self, facts: ContainerFacts, rows: Sequence[Endpoint]) -> str:
        extra = names.parse_extra_hosts(facts.host_config.extra_hosts, self._host_gateway())
        if mode_of(facts) == HOST:
            text = _read("/etc/hosts")
            lines = [f"{address}\t{name}\n" for address, name in extra]
            return (text if text.endswith("\n") or not text else text + "\n") + "".join(lines)
        entries = [row.live for row in rows if row.live]
        own = names.own_names(hostname_of(facts), facts.config.domainname or "")
        addresses = [(a, own) for entry in entries for a in (entry.ipv4, entry.ipv6) if a]
        return names.hosts_file([*extra, *self._linked_hosts(facts, rows)], addresses, ipv6=_has_ipv6_loopback(facts))

    def _host_gateway(self) -> str:
        default = self._catalog.by_name(BRIDGE)
        return default.pools[0].gateway if default and default.pools else ""

    def bridge_links(self, facts: ContainerFacts, rows: Sequence[Endpoint]) -> list[tuple[str, str, str]]:
        """Alias, id and address of each container that it is linked to on the default bridge. Conflict if one does not run."""
        default = self._catalog.by_name(BRIDGE)
        if default is None or all(row.network_id != default.id for row in rows):
            return []
        found = []
        for target, alias in names.parse_links(facts.host_config.links):
            row = self._live_row(default.id, target)
            if row is None or row.live is None:
                raise Conflict(f"Cannot link to a non running container: /{target} AS /{facts.name}/{alias}")
            found.append((alias, row.container_id, row.live.ipv4))
        return found

    def _linked_hosts(self, facts: ContainerFacts, rows: Sequence[Endpoint]) -> list[tuple[str, str]]:
        """Links of the default bridge are lines in /etc/hosts; those of other networks are answered by DNS."""
        called = {row.container_id: row.live.name for row in self._catalog.live_in(self._bridge_id()) if row.live}
        return [
            (address, " ".join(dict.fromkeys([alias, short_id(identifier), called.get(identifier, alias)])))
            for alias, identifier, address in self.bridge_links(facts, rows)
        ]

    def _bridge_id(self) -> str:
        default = self._catalog.by_name(BRIDGE)
        return default.id if default else ""

    def _live_row(self, network_id: str, reference: str) -> Endpoint | None:
        rows = self._catalog.live_in(network_id)
        named = [row for row in rows if row.live and row.live.name == reference]
        return next(iter(named or [row for row in rows if row.container_id.startswith(reference)]), None)

    def links(self, facts: ContainerFacts, rows: Sequence[Endpoint]) -> dict[str, str]:
        """What a container calls others in its user-defined networks: alias to name or id."""
        found: dict[str, str] = {}
        wishes = [row.wish.links for row in rows] + [settings.links for settings in facts.endpoints.values() if settings]
        for links in [*wishes, facts.host_config.links]:
            for target, alias in names.parse_links(links):
                if alias != target:
                    found[alias.lower()] = target
        return found

    def _resolv(self, facts: ContainerFacts, *, embedded: bool) -> str:
        asked = facts.host_config
        servers, search, options = host.read_resolv_conf(host.RESOLV_CONF)
        mode = mode_of(facts)
        untouched = not (asked.dns or asked.dns_search or asked.dns_options)
        if (shares_namespace(mode) or mode == NONE) and untouched:
            return _read(host.RESOLV_CONF)
        if asked.dns_search:
            search = list(asked.dns_search)
        if embedded:
            return names.resolv_conf([names.RESOLVER_ADDRESS], search, names.embedded_options(options, asked.dns_options))
        if not shares_namespace(mode):
            servers = host.reachable_servers()
        return names.resolv_conf(asked.dns or servers, search, asked.dns_options or options)

    def rewrite(self, facts: ContainerFacts, networks: Sequence[Wish], rows: Sequence[Endpoint], *, embedded: bool) -> None:
        """Bring the files of a running container up to date; in place, since they are bind-mounted. A file that is not there
        is left alone."""
        hosts, resolv = self.contents(facts, networks, rows, embedded=embedded)
        for name, text in (("hosts", hosts), ("resolv.conf", resolv)):
            path = f"{self._config.container(facts.id)}/{name}"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            with naming(path), open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.truncate()
