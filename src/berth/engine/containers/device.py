"""Devices of a container: host nodes to show, and the rules of the device control group."""

from __future__ import annotations

import os
import re
import stat

from berth.errors import InvalidArgument, NotFound
from berth.model.oci import Device, DeviceRule
from berth.wire.container import DeviceMapping

_RULE = re.compile(r"([acb]) (\d+|\*):(\d+|\*) ([rwm]{1,3})\Z")
_ALLOWED = (
    ("c", 1, 3),
    ("c", 1, 5),
    ("c", 1, 7),
    ("c", 1, 8),
    ("c", 1, 9),
    ("c", 5, 0),
    ("c", 5, 1),
    ("c", 5, 2),
    ("c", 136, None),
)


def default_rules() -> list[DeviceRule]:
    """Everything is denied but making nodes, and the usual harmless devices (null, zero, full, random, urandom, tty, pts)."""
    rules = [DeviceRule(allow=False, access="rwm")]
    rules += [DeviceRule(allow=True, type=kind, access="m") for kind in ("c", "b")]
    return rules + [DeviceRule(allow=True, type=kind, major=major, minor=minor, access="rwm") for kind, major, minor in _ALLOWED]


def parse_rule(text: str) -> DeviceRule:
    """One --device-cgroup-rule: `c 1:* rwm`."""
    match = _RULE.match(text)
    if match is None:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    return DeviceRule(
        allow=True,
        type=kind,
        major=None if major == "*" else int(major),
        minor=None if minor == "*" else int(minor),
        access=access,
    )


def _node(host_path: str, path: str) -> Device | None:
    status = os.stat(host_path)
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    return Device(
        path=path,
        type=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def resolve(mapping: DeviceMapping) -> tuple[list[Device], list[DeviceRule]]:
    """The nodes behind one --device: a node, or all nodes of a directory."""
    source = mapping.path_on_host or ""
    target = mapping.path_in_container or source
    access = mapping.cgroup_permissions or "rwm"
    if "=" in source:
        raise InvalidArgument(f"CDI device injection failed: unresolvable CDI devices {source}")
    try:
        found = _walk(source, target) if os.path.isdir(source) else [_node(source, target)]
    except OSError as error:
        raise NotFound(
            f'error gathering device information while adding custom device "{source}": {(error.strerror or "").lower()}'
        ) from error
    nodes = [node for node in found if node is not None]
    if not nodes:
        raise InvalidArgument(f'error gathering device information while adding custom device "{source}": not a device node')
    return nodes, [DeviceRule(allow=True, type=n.type, major=n.major, minor=n.minor, access=access) for n in nodes]


def _walk(source: str, target: str) -> list[Device | None]:
    nodes: list[Device | None] = []
    for directory, _, files in os.walk(source):
        for name in files:
            path = os.path.join(directory, name)
            try:
                nodes.append(_node(path, target + path.removeprefix(source)))
            except OSError:
                continue
    return nodes


_HOST_SKIPPED = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/hugepages", "/dev/console", "/dev/.udev", "/dev/.lxc")


def host_devices() -> list[Device]:
    """All device nodes of the host, for --privileged."""
    return [n for n in _walk("/dev", "/dev") if n is not None and not n.path.startswith(_HOST_SKIPPED)]
