"""logs and events: what containers write, and what happens to them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from berth.client.decode import convert
from berth.client.stream import json_lines
from berth.client.wireline import Response
from berth.compose import label
from berth.compose.logs import Follower, LogOptions, LogPrinter, print_logs, short_name
from berth.compose.session import Session
from berth.errors import BerthError
from berth.model.instant import for_api
from berth.wire.system import EventMessage


@dataclass(frozen=True)
class LogsOptions:
    """Options of logs."""

    services: tuple[str, ...] = ()
    follow: bool = False
    tail: str = "all"
    timestamps: bool = False
    since: str | None = None
    until: str | None = None
    no_color: bool = False
    no_log_prefix: bool = False
    index: int = 0


def run(session: Session, options: LogsOptions) -> int:
    """Print logs, of all containers at once when following, else one after another."""
    name, project = session.known(options.services)
    found = session.containers(name, project, options.services)
    if options.index:
        found = [container for container in found if container.number == options.index]
    names = tuple(short_name(name, container.name) for container in found)
    printer = LogPrinter(session.out, names, not options.no_log_prefix, session.color and not options.no_color)
    log = LogOptions(
        follow=options.follow,
        tail=options.tail,
        since=for_api(options.since),
        until=for_api(options.until),
        timestamps=options.timestamps,
    )
    if not options.follow:
        for container, short in zip(found, names, strict=True):
            print_logs(session.engine, container.id, short, log, printer)
    else:
        follower = Follower(session.engine, name, log, printer)
        starts = _starts_and_ends(session, name)
        for container, short in zip(found, names, strict=True):
            follower.remember(container.id)
            follower.follow(container.id, short)
        _follow_starts(starts, name, options, follower)
        # A container that is being restarted has no log to follow for a moment, and is not running for a part of it.
        while follower.active or any(c.running for c in session.containers(name, project, options.services)):
            follower.join(1.0)
            time.sleep(0.3)
    return 0


def _starts_and_ends(session: Session, name: str) -> Response:
    filters = {"type": ["container"], "event": ["start", "die"], "label": [f"{label.PROJECT}={name}", f"{label.ONEOFF}=False"]}
    return session.engine.events.open(filters=filters)


def _follow_starts(stream: Response, name: str, options: LogsOptions, follower: Follower) -> None:
    """Follow containers that start while we look, those of before as well as new ones."""

    def read() -> None:
        try:
            for raw in json_lines(stream):
                message = convert(raw, EventMessage)
                attributes = (message.actor.attributes if message.actor else None) or {}
                identity = (message.actor.id if message.actor else None) or ""
                if options.services and attributes.get(label.SERVICE) not in options.services:
                    continue
                if message.action == "die":
                    follower.ended(identity, message.time_nano or 0)
                else:
                    follower.follow_start(identity, short_name(name, attributes.get("name", "")))
        except BerthError:
            return

    threading.Thread(target=read, daemon=True).start()


def events(
    session: Session, services: tuple[str, ...], *, json: bool = False, since: str | None = None, until: str | None = None
) -> int:
    """Print the events of the project's containers until interrupted."""
    name, _ = session.known(services)
    filters = {"type": ["container"], "label": [f"{label.PROJECT}={name}"]}
    for message in session.engine.events.listen(since=for_api(since), until=for_api(until), filters=filters):
        attributes = (message.actor.attributes if message.actor else None) or {}
        service = attributes.get(label.SERVICE, "")
        if services and service not in services:
            continue
        own = {key: value for key, value in sorted(attributes.items()) if not key.startswith(label.PREFIX)}
        when = datetime.fromtimestamp((message.time_nano or 0) / 1e9, UTC)
        identity = (message.actor.id if message.actor else None) or ""
        if json:
            row = {
                "action": message.action,
                "attributes": own,
                "id": identity,
                "service": service,
                "time": when.isoformat(),
                "type": "container",
            }
            session.print(msgspec.json.encode(row).decode())
        else:
            listed = ", ".join(f"{key}={value}" for key, value in own.items())
            session.print(f"{when:%Y-%m-%d %H:%M:%S.%f} container {message.action} {identity} ({listed})")
    return 0
