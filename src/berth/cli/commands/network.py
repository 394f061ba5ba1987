"""network: create, ls, inspect, connect, disconnect, rm, prune."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from berth.cli.command import declare, refuse
from berth.cli.commands.inspect import show
from berth.cli.commands.prune import confirm, report
from berth.cli.run.request import pairs
from berth.cli.session import each, engine, filters
from berth.cli.table import print_rows
from berth.client.networks import NetworkCreate
from berth.model.identifier import short_id
from berth.wire.network import IPAM, EndpointIPAMConfig, EndpointSettings, IPAMConfig

COLUMNS = [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")]


@declare("ls")
@click.option("-f", "--filter", "filter_", multiple=True, help='Provide filter values (e.g. "driver=bridge")')
@click.option("--format", "form", help="Format output using a custom template: 'table', 'json' or a Go template")
@click.option("--no-trunc", is_flag=True, help="Do not truncate the output")
@click.option("-q", "--quiet", is_flag=True, help="Only display network IDs")
def ls(filter_: tuple[str, ...], form: str | None, no_trunc: bool, quiet: bool) -> None:
    """List networks."""
    rows = [
        {
            "ID": n.id or "" if no_trunc else short_id(n.id or ""),
            "Name": n.name or "",
            "Driver": n.driver or "",
            "Scope": n.scope or "",
            "IPv4": str(n.enable_ipv4 is not False).lower(),
            "IPv6": str(bool(n.enable_ipv6)).lower(),
            "Internal": str(bool(n.internal)).lower(),
            "Labels": ",".join(f"{k}={v}" for k, v in sorted((n.labels or {}).items())),
            "Label": partial(_label, n.labels),
            "CreatedAt": _created(n.created or ""),
        }
        for n in sorted(engine().networks.list(filters=filters(filter_)), key=lambda n: n.name or "")
    ]
    print_rows(rows, COLUMNS, form=form, quiet="ID" if quiet else "")


def _label(labels: dict[str, str] | None, name: str) -> str:
    return (labels or {}).get(name, "")


def _created(text: str) -> str:
    """2026-01-31T12:00:00.500000000Z as Go prints a time: 2026-01-31 12:00:00.5 +0000 UTC."""
    if not text.endswith("Z"):
        return text
    whole, dot, fraction = text.removesuffix("Z").replace("T", " ").partition(".")
    return whole + (dot + fraction).rstrip("0").rstrip(".") + " +0000 UTC"


def _ipam(options: dict[str, Any]) -> IPAM:
    subnets = options["subnet"]
    if (options["gateway"] or options["ip_range"]) and not subnets:
        raise click.UsageError("--gateway and --ip-range need a --subnet")

    def nth(values: tuple[str, ...], index: int) -> str | None:
        return values[index] if index < len(values) else None

    configs = [
        IPAMConfig(
            subnet=subnet,
            gateway=nth(options["gateway"], index),
            ip_range=nth(options["ip_range"], index),
            auxiliary_addresses=pairs(options["aux_address"]) if index == 0 and options["aux_address"] else None,
        )
        for index, subnet in enumerate(subnets)
    ]
    return IPAM(driver=options["ipam_driver"], options=pairs(options["ipam_opt"]) or None, config=configs or None)


@declare("create")
@click.option("--attachable", is_flag=True, help="Enable manual container attachment")
@click.option("--aux-address", multiple=True, help="Auxiliary IPv4 or IPv6 addresses used by Network driver")
@refuse("--config-from", "configuration-only networks are not kept; give the options here")
@refuse("--config-only", "configuration-only networks are not kept; give the options with each network", switch=True)
@refuse("--ingress", "it is for swarms", switch=True)
@refuse("--scope", "it is for swarms; every network here is local")
@click.option("-d", "--driver", default="bridge", show_default=True, help="Driver to manage the Network")
@click.option("--gateway", multiple=True, help="IPv4 or IPv6 Gateway for the master subnet")
@click.option("--internal", is_flag=True, help="Restrict external access to the network")
@click.option("--ip-range", multiple=True, help="Allocate container ip from a sub-range")
@click.option("--ipam-driver", default="default", help="IP Address Management Driver")
@click.option("--ipam-opt", multiple=True, help="Set IPAM driver specific options")
@click.option("--ipv4/--no-ipv4", default=None, help="Enable or disable IPv4 address assignment")
@click.option("--ipv6/--no-ipv6", default=None, help="Enable or disable IPv6 address assignment")
@click.option("--label", multiple=True, help="Set metadata on a network")
@click.option("-o", "--opt", multiple=True, help="Set driver specific options")
@click.option("--subnet", multiple=True, help="Subnet in CIDR format that represents a network segment")
@click.argument("name", metavar="NETWORK")
def create(name: str, **options: Any) -> None:
    """Create a network."""
    body = NetworkCreate(
        name=name,
        driver=options["driver"],
        internal=options["internal"] or None,
        attachable=options["attachable"] or None,
        enable_ipv4=options["ipv4"],
        enable_ipv6=options["ipv6"],
        ipam=_ipam(options),
        options=pairs(options["opt"]) or None,
        labels=pairs(options["label"]) or None,
        check_duplicate=True,
    )
    click.echo(engine().networks.create(body).id)


@declare("inspect")
@click.option("-f", "--format", "form", help="Format output using a custom template: 'json' or a Go template")
@click.option("-v", "--verbose", is_flag=True, help="Verbose output for diagnostics")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def inspect(names: tuple[str, ...], form: str | None, verbose: bool) -> None:
    """Display detailed information on one or more networks."""
    show(names, ("network",), form)


@declare("rm")
@click.option("-f", "--force", is_flag=True, help="Do not error if the network does not exist")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def rm(names: tuple[str, ...], force: bool) -> None:
    """Remove one or more networks."""
    target = engine()
    each(names, lambda name: target.networks.remove(name))


@declare("connect")
@click.option("--alias", multiple=True, help="Add network-scoped alias for the container")
@click.option("--driver-opt", multiple=True, help="Driver options for the network")
@click.option("--gw-priority", type=int, help="Highest gw-priority provides the default gateway")
@click.option("--ip", help='IPv4 address (e.g., "172.30.100.104")')
@click.option("--ip6", help='IPv6 address (e.g., "2001:db8::33")')
@click.option("--link", multiple=True, help="Add link to another container")
@click.option("--link-local-ip", multiple=True, help="Add a link-local address for the container")
@click.argument("network")
@click.argument("container")
def connect(network: str, container: str, **options: Any) -> None:
    """Connect a container to a network."""
    ipam = EndpointIPAMConfig(
        ipv4_address=options["ip"], ipv6_address=options["ip6"], link_local_ips=list(options["link_local_ip"]) or None
    )
    settings = EndpointSettings(
        aliases=list(options["alias"]) or None,
        driver_opts=pairs(options["driver_opt"]) or None,
        gw_priority=options["gw_priority"],
        ipam_config=ipam if ipam != EndpointIPAMConfig() else None,
        links=list(options["link"]) or None,
    )
    engine().networks.connect(network, container, settings)


@declare("disconnect")
@click.option("-f", "--force", is_flag=True, help="Force the container to disconnect from a network")
@click.argument("network")
@click.argument("container")
def disconnect(network: str, container: str, force: bool) -> None:
    """Disconnect a container from a network."""
    engine().networks.disconnect(network, container, force=force)


@declare("prune")
@click.option("--filter", "filter_", multiple=True, help='Provide filter values (e.g. "until=<timestamp>")')
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")
def prune(filter_: tuple[str, ...], force: bool) -> None:
    """Remove all unused networks."""
    if confirm("This will remove all custom networks not used by at least one container.", force):
        done = engine().networks.prune(filters=filters(filter_))
        report("Deleted Networks:", done.get("NetworksDeleted"), None)


COMMANDS = {f"network {c.name}": c for c in (ls, create, inspect, rm, connect, disconnect, prune)}
