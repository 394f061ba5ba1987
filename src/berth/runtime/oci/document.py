"""config.json as values with the attributes of `model.oci`, by the standard library's C code alone.

`model.oci` decodes with msgspec, whose import takes longer than `runc run` from start to end. Here a document becomes
records by the tables below, one per object of the specification, checked as it is read: what has the wrong type is named
by its place. Planning takes either, since it asks for attributes only. Fields that no table has are ignored, as the
specification wants it. tests/unit/runtime/test_oci_document.py compares the tables with the model.
"""

from __future__ import annotations

from berth.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Table = dict[str, Any]

# A table maps an attribute to (key in the document, kind, default); the default REQUIRED has none. Kinds: str, int, bool,
# a table, [kind] for a list, {"": kind} for an object with any keys.
REQUIRED = object()


def _row(kind: Any, default: Any = None, key: str = "") -> tuple[str, Any, Any]:
    return key, kind, default


_TEXTS = _row([str])
_MAP = _row({"": str})

CONSOLE_SIZE: Table = {"height": _row(int, REQUIRED), "width": _row(int, REQUIRED)}
USER: Table = {"uid": _row(int, 0), "gid": _row(int, 0), "additional_gids": _row([int]), "umask": _row(int)}
RLIMIT: Table = {"type": _row(str, REQUIRED), "soft": _row(int, REQUIRED), "hard": _row(int, REQUIRED)}
CAPABILITIES: Table = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), _TEXTS)
SCHEDULER: Table = {
    "policy": _row(str, REQUIRED),
    "nice": _row(int, 0),
    "priority": _row(int, 0),
    "flags": _TEXTS,
    "runtime": _row(int, 0),
    "deadline": _row(int, 0),
    "period": _row(int, 0),
}
IO_PRIORITY: Table = {"class_": _row(str, REQUIRED, "class"), "priority": _row(int, 0)}
PROCESS: Table = {
    "terminal": _row(bool, False),
    "console_size": _row(CONSOLE_SIZE),
    "user": _row(USER, {}),
    "args": _TEXTS,
    "env": _TEXTS,
    "cwd": _row(str, "/"),
    "capabilities": _row(CAPABILITIES),
    "rlimits": _row([RLIMIT]),
    "no_new_privileges": _row(bool, False),
    "apparmor_profile": _row(str),
    "selinux_label": _row(str),
    "oom_score_adj": _row(int),
    "scheduler": _row(SCHEDULER),
    "io_priority": _row(IO_PRIORITY),
}
ID_MAPPING: Table = {
    "container_id": _row(int, REQUIRED, "containerID"),
    "host_id": _row(int, REQUIRED, "hostID"),
    "size": _row(int, REQUIRED),
}
MOUNT: Table = {
    "destination": _row(str, REQUIRED),
    "type": _row(str),
    "source": _row(str),
    "options": _TEXTS,
    "uid_mappings": _row([ID_MAPPING]),
    "gid_mappings": _row([ID_MAPPING]),
}
ROOT: Table = {"path": _row(str, REQUIRED), "readonly": _row(bool, False)}
NAMESPACE: Table = {"type": _row(str, REQUIRED), "path": _row(str)}
DEVICE: Table = {
    "path": _row(str, REQUIRED),
    "type": _row(str, REQUIRED),
    "major": _row(int),
    "minor": _row(int),
    "file_mode": _row(int),
    "uid": _row(int),
    "gid": _row(int),
}
DEVICE_RULE: Table = {
    "allow": _row(bool, REQUIRED),
    "type": _row(str),
    "major": _row(int),
    "minor": _row(int),
    "access": _row(str),
}
MEMORY: Table = {
    "limit": _row(int),
    "reservation": _row(int),
    "swap": _row(int),
    "swappiness": _row(int),
    "disable_oom_killer": _row(bool, None, "disableOOMKiller"),
}
CPU: Table = {
    "shares": _row(int),
    "quota": _row(int),
    "period": _row(int),
    "realtime_runtime": _row(int),
    "realtime_period": _row(int),
    "cpus": _row(str),
    "mems": _row(str),
    "burst": _row(int),
    "idle": _row(int),
}
HUGEPAGE_LIMIT: Table = {"page_size": _row(str, REQUIRED), "limit": _row(int, REQUIRED)}
PIDS: Table = {"limit": _row(int, REQUIRED)}
WEIGHT_DEVICE: Table = {"major": _row(int, REQUIRED), "minor": _row(int, REQUIRED), "weight": _row(int)}
THROTTLE_DEVICE: Table = {"major": _row(int, REQUIRED), "minor": _row(int, REQUIRED), "rate": _row(int, REQUIRED)}
BLOCK_IO: Table = {
    "weight": _row(int),
    "weight_device": _row([WEIGHT_DEVICE]),
    "throttle_read_bps_device": _row([THROTTLE_DEVICE]),
    "throttle_write_bps_device": _row([THROTTLE_DEVICE]),
    "throttle_read_iops_device": _row([THROTTLE_DEVICE], None, "throttleReadIOPSDevice"),
    "throttle_write_iops_device": _row([THROTTLE_DEVICE], None, "throttleWriteIOPSDevice"),
}
RESOURCES: Table = {
    "devices": _row([DEVICE_RULE]),
    "memory": _row(MEMORY),
    "cpu": _row(CPU),
    "pids": _row(PIDS),
    "block_io": _row(BLOCK_IO, None, "blockIO"),
    "hugepage_limits": _row([HUGEPAGE_LIMIT]),
    "unified": _MAP,
}
SECCOMP_ARG: Table = {
    "index": _row(int, REQUIRED),
    "value": _row(int, REQUIRED),
    "op": _row(str, REQUIRED),
    "value_two": _row(int, 0),
}
SECCOMP_RULE: Table = {
    "names": _row([str], REQUIRED),
    "action": _row(str, REQUIRED),
    "errno_ret": _row(int),
    "args": _row([SECCOMP_ARG]),
}
SECCOMP: Table = {
    "default_action": _row(str, REQUIRED),
    "default_errno_ret": _row(int),
    "architectures": _TEXTS,
    "flags": _TEXTS,
    "listener_path": _row(str),
    "listener_metadata": _row(str),
    "syscalls": _row([SECCOMP_RULE]),
}
PERSONALITY: Table = {"domain": _row(str, REQUIRED), "flags": _TEXTS}
TIME_OFFSET: Table = {"secs": _row(int, 0), "nanosecs": _row(int, 0)}
LINUX: Table = {
    "namespaces": _row([NAMESPACE]),
    "uid_mappings": _row([ID_MAPPING]),
    "gid_mappings": _row([ID_MAPPING]),
    "devices": _row([DEVICE]),
    "cgroups_path": _row(str),
    "resources": _row(RESOURCES),
    "rootfs_propagation": _row(str),
    "seccomp": _row(SECCOMP),
    "sysctl": _MAP,
    "masked_paths": _TEXTS,
    "readonly_paths": _TEXTS,
    "mount_label": _row(str),
    "personality": _row(PERSONALITY),
    "time_offsets": _row({"": TIME_OFFSET}),
}
SPEC: Table = {
    "oci_version": _row(str, "1.2.0"),
    "process": _row(PROCESS, REQUIRED),
    "root": _row(ROOT, REQUIRED),
    "hostname": _row(str),
    "domainname": _row(str),
    "mounts": _row([MOUNT]),
    "annotations": _MAP,
    "linux": _row(LINUX, {}),
}

_WORDS = {str: "a string", int: "an integer", bool: "true or false"}


class Record:
    """An object of the document."""


def read(value: Any, kind: Any, where: str) -> Any:
    """`value` as its `kind`. InvalidArgument names the place of what does not fit."""
    if isinstance(kind, type):
        if type(value) is not kind:
            raise InvalidArgument(f"{where}: {_WORDS[kind]} is expected, not {_said(value)}")
        return value
    if isinstance(kind, list):
        if type(value) is not list:
            raise InvalidArgument(f"{where}: a list is expected, not {_said(value)}")
        if kind[0] is str and all(type(item) is str for item in value):
            return value
        return [read(item, kind[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if type(value) is not dict:
        raise InvalidArgument(f"{where}{': ' if where else ''}an object is expected, not {_said(value)}")
    if "" in kind:
        return {key: read(item, kind[""], f"{where}.{key}") for key, item in value.items()}
    return _record(value, kind, where)


def _said(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _record(value: dict[str, Any], table: Table, where: str) -> Record:
    result = Record()
    fields = result.__dict__
    for name, (key, kind, default) in table.items():
        item = value.get(key or camel(name))
        if item is not None:
            fields[name] = read(item, kind, f"{where}.{key or camel(name)}" if where else key or camel(name))
        elif default is REQUIRED:
            raise InvalidArgument(f"{where + ': ' if where else ''}{key or camel(name)} is missing")
        elif default is None and isinstance(kind, list):
            fields[name] = []
        elif default is None and isinstance(kind, dict) and "" in kind:
            fields[name] = {}
        elif isinstance(kind, dict) and default is not None:
            fields[name] = _record(default, kind, where)
        else:
            fields[name] = default
    return result


def camel(name: str) -> str:
    """additional_gids as additionalGids."""
    if "_" not in name:
        return name
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
