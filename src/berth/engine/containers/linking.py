"""Links on the default bridge (`--link`): what a container's environment tells of another one, in Docker's names.

--link db:store   STORE_NAME=/web/store   STORE_PORT=tcp://172.17.0.2:5432   STORE_PORT_5432_TCP_ADDR=172.17.0.2
                  STORE_ENV_PGDATA=/data
"""

from __future__ import annotations

import msgspec

from berth.engine.containers.defaults import split_variable
from berth.errors import NotFound
from berth.network.names import parse_links
from berth.wire.container import ContainerConfig, HostConfig

# Those that every container has of its own.
_OWN = ("HOME", "PATH")


def link_variables(name: str, alias: str, address: str, other: ContainerConfig) -> list[str]:
    """For the container `name`, of the one that it calls `alias`: its ports (the lowest of TCP first) and its environment."""
    prefix = alias.upper().replace("-", "_")
    ports = sorted(((*_port(text), text) for text in other.exposed_ports or {}), key=lambda p: (p[1] != "tcp", p[1], p[0]))
    found = []
    if ports:
        number, protocol, _ = ports[0]
        found.append(f"{prefix}_PORT={protocol}://{address}:{number}")
    for number, protocol, _ in ports:
        one = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [f"{one}={protocol}://{address}:{number}", f"{one}_ADDR={address}"]
        found += [f"{one}_PORT={number}", f"{one}_PROTO={protocol}"]
    found.append(f"{prefix}_NAME=/{name}/{alias}")
    for entry in other.env or []:
        variable, value = split_variable(entry)
        if variable not in _OWN and value is not None:
            found.append(f"{prefix}_ENV_{variable}={value}")
    return found


def _port(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    return int(number.partition("-")[0]), protocol or "tcp"


def without_link(host: HostConfig, reference: str, alias: str) -> HostConfig:
    """The configuration without that link. NotFound for one that is not there."""
    links = host.links or []
    kept = [link for link in links if parse_links([link])[0][1] != alias]
    if len(kept) == len(links):
        raise NotFound(f"could not get link {reference}: the container has no link of that name")
    return msgspec.structs.replace(host, links=kept or None)
