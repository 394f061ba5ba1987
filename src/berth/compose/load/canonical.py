"""Fourth phase: every attribute in its long form, so that merging and everything after it sees one shape only.

Each attribute has one row in a table. Sizes become bytes, booleans booleans, lists of NAME=VALUE mappings; durations stay
texts. Extension fields (x-...) are dropped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from berth.compose.load import shorthand as short
from berth.compose.load.document import Document
from berth.compose.problem import ComposeInvalid, Path
from berth.compose.units import parse_bool, parse_duration, parse_size
from berth.errors import InvalidArgument

Table = Mapping[str, short.Transform]


def _keep(value: Any) -> Any:
    return value


def _duration(value: Any) -> str:
    parse_duration(value)
    return short.text(value)


def _rows(value: Any, table: Table) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in (value or {}).items():
        if str(key).startswith("x-"):
            continue
        if item is None and key not in ("command", "entrypoint"):
            continue
        try:
            found[key] = table.get(key, _keep)(item)
        except InvalidArgument as error:
            raise _At((key,), error.message) from error
    return found


class _At(InvalidArgument):
    """Carries the path below the attribute outwards until somebody knows the place."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def _table(table: Table) -> short.Transform:
    return lambda value: _rows(value, table)


_HEALTHCHECK: Table = {
    "test": short.health_test,
    "disable": parse_bool,
    "retries": short.integer,
    "interval": _duration,
    "timeout": _duration,
    "start_period": _duration,
    "start_interval": _duration,
}
_HOOK: Table = {"command": short.command, "privileged": parse_bool, "environment": short.mapping}
_BUILD: Table = {
    "args": short.mapping,
    "labels": short.text_mapping,
    "additional_contexts": short.text_mapping,
    "ssh": short.mapping,
    "extra_hosts": short.extra_hosts,
    "no_cache": parse_bool,
    "pull": parse_bool,
    "privileged": parse_bool,
    "shm_size": parse_size,
    "secrets": short.file_references,
    "ulimits": short.ulimits,
    "cache_from": short.text_list,
    "cache_to": short.text_list,
    "tags": short.text_list,
    "platforms": short.text_list,
}
_LIMITS: Table = {"cpus": short.number, "memory": parse_size, "pids": short.integer}
_UPDATE: Table = {"parallelism": short.integer, "max_failure_ratio": short.number}
_DEPLOY: Table = {
    "replicas": short.integer,
    "labels": short.text_mapping,
    "resources": _table({"limits": _table(_LIMITS), "reservations": _table(_LIMITS)}),
    "restart_policy": _table({"max_attempts": short.integer}),
    "update_config": _table(_UPDATE),
    "rollback_config": _table(_UPDATE),
}


def _build(value: Any) -> dict[str, Any]:
    return _rows({"context": value} if isinstance(value, str) else value, _BUILD)


def _service_networks(value: Any) -> dict[str, Any]:
    table: Table = {"aliases": short.text_list, "link_local_ips": short.text_list, "driver_opts": short.text_mapping}
    return {name: _rows(item, table) for name, item in short.named(value).items()}


def _hooks(value: Any) -> list[dict[str, Any]]:
    return [_rows(item, _HOOK) for item in value or []]


# Lists of texts, and nothing else.
TEXT_LISTS = (
    "cap_add",
    "cap_drop",
    "device_cgroup_rules",
    "dns",
    "dns_opt",
    "dns_search",
    "expose",
    "external_links",
    "group_add",
    "label_file",
    "links",
    "profiles",
    "security_opt",
    "tmpfs",
    "volumes_from",
)

SERVICE: Table = {
    **dict.fromkeys(("annotations", "labels", "sysctls", "storage_opt"), short.text_mapping),
    "environment": short.mapping,
    **dict.fromkeys(("command", "entrypoint"), short.command),
    **dict.fromkeys(
        (
            "attach",
            "init",
            "oom_kill_disable",
            "privileged",
            "read_only",
            "stdin_open",
            "tty",
            "use_api_socket",
        ),
        parse_bool,
    ),
    **dict.fromkeys(("mem_limit", "mem_reservation", "memswap_limit", "shm_size"), parse_size),
    **dict.fromkeys(
        ("cpu_count", "cpu_shares", "mem_swappiness", "oom_score_adj", "pids_limit", "scale"),
        short.integer,
    ),
    **dict.fromkeys(("cpu_percent", "cpus"), short.number),
    **dict.fromkeys(TEXT_LISTS, short.text_list),
    **dict.fromkeys(("cpu_quota", "cpu_period", "cpu_rt_period", "cpu_rt_runtime"), lambda value: _microseconds(value)),
    "blkio_config": short.block_io,
    "build": _build,
    "configs": short.file_references,
    "depends_on": short.depends_on,
    "deploy": _table(_DEPLOY),
    "devices": short.devices,
    "env_file": short.env_files,
    "extends": lambda value: {"service": value} if isinstance(value, str) else value,
    "extra_hosts": short.extra_hosts,
    "healthcheck": _table(_HEALTHCHECK),
    "logging": _table({"options": short.text_mapping}),
    "models": short.named,
    "networks": _service_networks,
    "ports": short.ports,
    "post_start": _hooks,
    "pre_stop": _hooks,
    "secrets": short.file_references,
    "stop_grace_period": _duration,
    "ulimits": short.ulimits,
    "volumes": short.volumes,
}


def _microseconds(value: Any) -> int:
    if isinstance(value, str) and not value.lstrip("-").isdigit():
        return parse_duration(value) // 1000
    return short.integer(value)


def _external(item: dict[str, Any]) -> dict[str, Any]:
    external = item.get("external")
    if external is None:
        return item
    if isinstance(external, dict):
        return {**item, "external": True, **({"name": external["name"]} if external.get("name") else {})}
    return {**item, "external": parse_bool(external)}


def _ipam(value: Any) -> dict[str, Any]:
    return _rows(
        value,
        {
            "config": lambda pools: [_rows(pool, {"aux_addresses": short.text_mapping}) for pool in pools],
            "options": short.text_mapping,
        },
    )


_NETWORK: Table = {
    **dict.fromkeys(("internal", "attachable", "enable_ipv4", "enable_ipv6"), parse_bool),
    "labels": short.text_mapping,
    "driver_opts": short.text_mapping,
    "ipam": _ipam,
}
_VOLUME: Table = {"labels": short.text_mapping, "driver_opts": short.text_mapping}
_TOP: Mapping[str, Table] = {"networks": _NETWORK, "volumes": _VOLUME, "secrets": _VOLUME, "configs": _VOLUME}


def canonical(document: Document) -> dict[str, Any]:
    """The document's content in long forms. Raises ComposeInvalid at the attribute that makes no sense."""
    found: dict[str, Any] = {}
    data = document.data
    if data.get("name") is not None:
        found["name"] = short.text(data["name"])
    if data.get("include"):
        found["include"] = [_include(item) for item in data["include"]]
    if data.get("models"):
        found["models"] = data["models"]
    for kind, table in (("services", SERVICE), *_TOP.items()):
        section: dict[str, Any] = {}
        for name, item in (data.get(kind) or {}).items():
            if str(name).startswith("x-"):
                continue
            try:
                rows = _rows(item, table)
                section[name] = rows if kind == "services" else _external(rows)
            except _At as error:
                path: Path = (kind, name, *error.path)
                raise ComposeInvalid(f"{kind}.{name}.{error.path[0]}: {error.message}", document.mark(path)) from error
        found[kind] = section
    return found


def _include(item: Any) -> dict[str, Any]:
    entry = {"path": item} if isinstance(item, str) else dict(item)
    return {**entry, "path": short.text_list(entry["path"]), "env_file": short.text_list(entry.get("env_file"))}
