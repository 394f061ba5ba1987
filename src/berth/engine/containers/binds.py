"""Bind sources at start: that they are there, who owns them, and whether their filesystem can be id-mapped."""

from __future__ import annotations

import os
import stat

from berth.contract.volume import Volumes
from berth.engine.containers.record import MountRecord
from berth.engine.idmap import NEVER, can_idmap, kernel_version
from berth.errors import InvalidArgument, NotFound


def _filesystems() -> dict[int, str]:
    """Device number to filesystem type of all mounts in sight."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            major, _, minor = fields.split(" ", 3)[2].partition(":")
            found[os.makedev(int(major), int(minor))] = rest.split(" ", 1)[0]
    return found


def unmappable_binds(mounts: list[MountRecord], volumes: Volumes) -> tuple[str, ...]:
    """Sources of writable binds, and of volumes, whose own filesystem cannot be id-mapped: they would show as nobody's inside.

    Device nodes keep their own permissions and are not written as files, so they do not count; sockets do, as connecting
    needs write permission.
    """
    binds = [m for m in mounts if m.type == "bind" and not m.read_only]
    found = [source for m in mounts if m.type == "volume" and not m.read_only and (source := _unmappable_volume(m, volumes))]
    if not binds:
        return tuple(found)
    kinds, kernel = _filesystems(), kernel_version()
    for record in binds:
        try:
            status = os.stat(record.source)
        except OSError:
            continue
        node = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        if not node and not can_idmap(kinds.get(status.st_dev, ""), kernel):
            found.append(record.source)
    return tuple(found)


def _unmappable_volume(record: MountRecord, volumes: Volumes) -> str:
    try:
        options = volumes.get(record.name).options if record.name else {}
    except NotFound:
        # Made with the container, and looked at again when that starts.
        return ""
    return options.get("device", "") if options.get("type") in NEVER else ""


def check_sources(mounts: list[MountRecord]) -> list[int]:
    """At start: make what -v promises, refuse what is missing. Returns the owners' ids that may lie outside of the range."""
    owners: list[int] = []
    for record in mounts:
        if record.type != "bind":
            continue
        if record.create_source and not os.path.lexists(record.source):
            try:
                os.makedirs(record.source, mode=0o755, exist_ok=True)
            except OSError as error:
                raise InvalidArgument(
                    f"error while creating mount source path '{record.source}': "
                    f"mkdir {record.source}: {(error.strerror or '').lower()}"
                ) from error
        try:
            status = os.stat(record.source)
        except OSError:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {record.source}'
            ) from None
        owners += [status.st_uid, status.st_gid]
    return owners
