"""ps, ls, images, port, top and volumes: what there is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from berth.compose import label
from berth.compose.observe import Existing, existing
from berth.compose.session import Session
from berth.compose.table import ago, table
from berth.errors import InvalidArgument, NotFound
from berth.wire.network import PortSummary


@dataclass(frozen=True)
class PsOptions:
    """Options of ps. `status` holds states such as running and exited."""

    services: tuple[str, ...] = ()
    all: bool = False
    quiet: bool = False
    format: str = "table"
    only_services: bool = False
    status: tuple[str, ...] = ()
    orphans: bool = True
    no_trunc: bool = False


def run(session: Session, options: PsOptions) -> int:
    """List containers."""
    name, project = session.known(options.services)
    found = session.containers(name, project, options.services, oneoff=None if options.all else False)
    if not options.all and not options.status:
        found = [container for container in found if container.running]
    if options.status:
        found = [container for container in found if container.state in options.status]
    if not options.orphans and project is not None:
        found = [container for container in found if container.service in project.services]
    if options.only_services:
        for service in dict.fromkeys(container.service for container in found):
            session.print(service)
    elif options.quiet:
        for container in found:
            session.print(container.id)
    elif options.format == "json":
        for container in found:
            session.print(msgspec.json.encode(_row(container, name)).decode())
    elif options.format in ("table", "pretty", ""):
        headings = ("NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS")
        for line in table(headings, (_line(container, no_trunc=options.no_trunc) for container in found)):
            session.print(line)
    else:
        raise InvalidArgument(f"format value {options.format!r} could not be parsed: use table or json")
    return 0


def _line(container: Existing, *, no_trunc: bool) -> tuple[str, ...]:
    summary = container.summary
    command = summary.command or ""
    if not no_trunc and len(command) > 20:
        command = command[:19] + "…"
    created = ago(max(0.0, time.time() - (summary.created or 0)))
    return (
        container.name,
        summary.image or "",
        f'"{command}"',
        container.service,
        created,
        summary.status or "",
        _ports(summary.ports),
    )


def _row(container: Existing, project: str) -> dict[str, Any]:
    summary = container.summary
    status = summary.status or ""
    health = next(
        (word for word in ("unhealthy", "healthy", "starting") if f"({word})" in status or f"health: {word}" in status), ""
    )
    code = status.partition("(")[2].partition(")")[0] if status.startswith("Exited") else "0"
    publishers = [
        {
            "URL": port.ip or "",
            "TargetPort": port.private_port or 0,
            "PublishedPort": port.public_port or 0,
            "Protocol": port.type or "tcp",
        }
        for port in summary.ports or []
    ]
    return {
        "Command": f'"{summary.command or ""}"',
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(summary.created or 0)),
        "ExitCode": int(code) if code.isdigit() else 0,
        "Health": health,
        "ID": container.id[:12],
        "Image": summary.image or "",
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(container.labels.items())),
        "LocalVolumes": str(sum(1 for m in summary.mounts or [] if m.type == "volume")),
        "Mounts": ",".join(m.name or m.source or "" for m in summary.mounts or []),
        "Name": container.name,
        "Names": container.name,
        "Networks": ",".join((summary.network_settings.networks or {}) if summary.network_settings else {}),
        "Ports": _ports(summary.ports),
        "Project": project,
        "Publishers": publishers,
        "RunningFor": ago(max(0.0, time.time() - (summary.created or 0))),
        "Service": container.service,
        "Size": "0B",
        "State": container.state,
        "Status": status,
    }


def _ports(ports: Iterable[PortSummary] | None) -> str:
    found = []
    for port in sorted(ports or [], key=lambda p: (p.private_port or 0, p.public_port or 0, p.ip or "")):
        inside = f"{port.private_port}/{port.type}"
        address = f"[{port.ip}]" if ":" in (port.ip or "") else port.ip
        found.append(f"{address}:{port.public_port}->{inside}" if port.public_port else inside)
    return ", ".join(found)


@dataclass(frozen=True)
class LsOptions:
    """Options of ls."""

    all: bool = False
    quiet: bool = False
    format: str = "table"
    names: tuple[str, ...] = ()


def ls(session: Session, options: LsOptions) -> int:
    """List the projects that have containers."""
    found = session.engine.containers.list(all=options.all, filters={"label": [label.PROJECT]})
    by_project: dict[str, list[Existing]] = {}
    for summary in found:
        container = existing(summary)
        if not container.oneoff:
            by_project.setdefault(container.labels.get(label.PROJECT, ""), []).append(container)
    rows = []
    for name in sorted(by_project):
        if options.names and not any(part in name for part in options.names):
            continue
        states: dict[str, int] = {}
        for container in by_project[name]:
            states[container.state] = states.get(container.state, 0) + 1
        status = ", ".join(f"{state}({count})" for state, count in sorted(states.items()))
        files = next((c.labels[label.CONFIG_FILES] for c in by_project[name] if c.labels.get(label.CONFIG_FILES)), "N/A")
        rows.append({"Name": name, "Status": status, "ConfigFiles": files})
    if options.quiet:
        for row in rows:
            session.print(row["Name"])
    elif options.format == "json":
        session.print(msgspec.json.encode(rows).decode())
    else:
        for line in table(("NAME", "STATUS", "CONFIG FILES"), ((row["Name"], row["Status"], row["ConfigFiles"]) for row in rows)):
            session.print(line)
    return 0


def images(session: Session, services: tuple[str, ...], *, quiet: bool = False, format: str = "table") -> int:
    """List the images that the project's containers were made from."""
    name, project = session.known(services)
    rows: list[dict[str, Any]] = []
    for container in session.containers(name, project, services):
        image = session.engine.images.inspect(container.summary.image_id or container.image_id)
        tag = next((t for t in image.repo_tags or [] if t == container.summary.image), (image.repo_tags or ["<none>:<none>"])[0])
        repository, _, version = tag.rpartition(":")
        rows.append(
            {
                "ContainerName": container.name,
                "ID": image.id or "",
                "Repository": repository,
                "Tag": version,
                "Platform": f"{image.os}/{image.architecture}",
                "Size": image.size or 0,
            }
        )
    if quiet:
        for identity in dict.fromkeys(str(row["ID"]).removeprefix("sha256:") for row in rows):
            session.print(identity)
    elif format == "json":
        session.print(msgspec.json.encode(rows).decode())
    else:
        headings = ("CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE")
        keys = ("ContainerName", "Repository", "Tag", "Platform")
        lines = (
            (*(str(row[key]) for key in keys), str(row["ID"]).removeprefix("sha256:")[:12], f"{row['Size'] / 1e6:.3g}MB")
            for row in rows
        )
        for line in table(headings, lines):
            session.print(line)
    return 0


def port(session: Session, service: str, private: int, *, protocol: str = "tcp", index: int = 0) -> int:
    """Print the address that a port of a service is published at."""
    container = pick(session, service, index)
    for entry in container.summary.ports or []:
        if entry.private_port == private and (entry.type or "tcp") == protocol and entry.public_port:
            session.print(f"{f'[{entry.ip}]' if ':' in (entry.ip or '') else entry.ip}:{entry.public_port}")
            return 0
    raise NotFound(f"no port {private}/{protocol} for container {container.name}")


def top(session: Session, services: tuple[str, ...]) -> int:
    """Print the processes of running containers."""
    name, project = session.known(services)
    for container in session.containers(name, project, services):
        if container.running:
            found = session.engine.containers.top(container.id)
            session.print(container.name)
            for line in table(found.titles or [], found.processes or []):
                session.print(line)
            session.print()
    return 0


def pick(session: Session, service: str, index: int = 0) -> Existing:
    """The container of a service that `exec`, `cp` and `port` work on: the one of this number, else the first that runs."""
    name, project = session.known((service,))
    found = session.containers(name, project, (service,))
    if index:
        chosen = next((container for container in found if container.number == index), None)
    else:
        chosen = next((container for container in found if container.running), None)
    if chosen is None:
        raise NotFound(f'service "{service}" is not running' + (f" container #{index}" if index else ""))
    return chosen
