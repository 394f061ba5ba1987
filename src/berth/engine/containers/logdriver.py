"""Logging options of a container: which drivers there are, and what their options mean for the shim's log writer."""

from __future__ import annotations

import re

from berth.contract.runtime import LogPlan
from berth.engine.config import EngineConfig
from berth.engine.containers.defaults import split_variable
from berth.errors import InvalidArgument
from berth.wire.container import ContainerConfig, HostConfigLogConfig

DRIVERS = frozenset({"json-file", "local", "none"})
_OPTIONS = frozenset(
    {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"}
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtT]?)(?:i?[bB])?\Z")
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes from 10m, 1g, 512k or a plain number; units are powers of 1024."""
    match = _SIZE.match(text)
    if match is None:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


def check_log_config(log: HostConfigLogConfig) -> None:
    """InvalidArgument for a driver or an option that does not exist."""
    driver = log.type or "json-file"
    if driver not in DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{driver}' is registered")
    if driver == "none":
        return
    for name in log.config or {}:
        if name not in _OPTIONS:
            raise InvalidArgument(f"unknown log opt '{name}' for {driver} log driver")
    if "max-size" in (log.config or {}):
        parse_size((log.config or {})["max-size"])
    files = (log.config or {}).get("max-file", "1")
    if not files.isdigit() or int(files) < 1:
        raise InvalidArgument("max-file cannot be less than 1")


def _selected(names: str, pattern: str | None, values: dict[str, str]) -> dict[str, str]:
    wanted = {n.strip() for n in names.split(",") if n.strip()}
    matcher = re.compile(pattern) if pattern else None
    return {k: v for k, v in values.items() if k in wanted or (matcher is not None and matcher.search(k))}


def log_plan(config: ContainerConfig, log: HostConfigLogConfig | None, path: str, engine: EngineConfig) -> LogPlan:
    """Where and how the shim writes."""
    options = (log.config if log else None) or {}
    driver = (log.type if log else None) or "json-file"
    environment = {name: value or "" for name, value in map(split_variable, config.env or [])}
    attributes = _selected(options.get("labels", ""), options.get("labels-regex"), config.labels or {})
    attributes |= _selected(options.get("env", ""), options.get("env-regex"), environment)
    if "tag" in options:
        attributes["tag"] = options["tag"]
    size = parse_size(options["max-size"]) if "max-size" in options else engine.log_max_size
    files = int(options["max-file"]) if "max-file" in options else (engine.log_max_files if "max-size" not in options else 1)
    return LogPlan(driver=driver, path=path, max_size=size, max_files=files, attributes=attributes)
