"""port: what a container publishes, and (beyond Docker) publishing more or less while it runs."""

from __future__ import annotations

import click

from berth.cli.command import declare
from berth.cli.run.port import Bindings, merge, parse_publish
from berth.cli.session import engine
from berth.errors import InvalidArgument
from berth.model.exposure import of_address
from berth.wire.network import PortBinding

_CHANGES = ("add", "rm")


@declare("port")
@click.option("--exposure", is_flag=True, help="Say whom each is open to: local (this host), lan, any")
@click.argument("words", nargs=-1, required=True, metavar="CONTAINER [PRIVATE_PORT[/PROTO]] | add|rm CONTAINER PORT...")
def port(words: tuple[str, ...], exposure: bool) -> None:
    """List port mappings or a specific mapping for the container.

    `port add web 8080:80` publishes a port of a container that runs, as --publish does; `port rm web 8080:80` ends that, and
    `port rm web 80` ends all of port 80.
    """
    if words[0] in _CHANGES and len(words) > 2:
        _change(words[0], words[1], words[2:])
    elif len(words) > 2:
        raise click.UsageError("it takes a container and at most one port, or `add` or `rm` before a container and ports")
    else:
        _show(words[0], words[1] if len(words) > 1 else None, exposure=exposure)


def _change(what: str, name: str, ports: tuple[str, ...]) -> None:
    bindings: Bindings = {}
    for text in ports:
        merge(bindings, parse_publish(text) if what == "add" else _taken_away(text))
    containers = engine().containers
    if what == "add":
        containers.change_ports(name, publish=bindings)
    else:
        containers.change_ports(name, unpublish=bindings)
    _show(name)


def _taken_away(text: str) -> Bindings:
    """A port alone stands for all that leads to it."""
    return {key: [b for b in bindings or [] if _says_where(b)] for key, bindings in parse_publish(text).items()}


def _says_where(binding: PortBinding) -> bool:
    return bool(binding.host_ip or binding.host_port)


def _show(name: str, private: str | None = None, *, exposure: bool = False) -> None:
    ports = (engine().containers.inspect_raw(name).get("NetworkSettings") or {}).get("Ports") or {}
    wanted = None if private is None else private if "/" in private else f"{private}/tcp"
    if wanted is not None and not ports.get(wanted):
        raise InvalidArgument(f"No public port '{private}' published for {name}")
    for key, bindings in ports.items():
        for binding in bindings or []:
            host = binding["HostIp"] or "0.0.0.0"
            address = f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"
            said = f" ({of_address(host)})" if exposure else ""
            if wanted is None:
                click.echo(f"{key} -> {address}{said}")
            elif key == wanted:
                click.echo(f"{address}{said}")


COMMANDS = {"port": port}
