"""Logging options of a container: which drivers there are, and what their options mean for the shim's log writer."""

from __future__ import annotations

import re

from berth.contract.runtime import LogPlan
from berth.engine.config import EngineConfig
from berth.engine.containers.defaults import split_variable
from berth.errors import InvalidArgument
from berth.wire.container import ContainerConfig, HostConfigLogConfig

DRIVERS = frozenset({"json-file", "local", "none"})
# Of all drivers, of those that write files, and of json-file, which can tell of the container in every record.
_COMMON = frozenset({"mode", "max-buffer-size"})
_FILES = _COMMON | {"max-size", "max-file", "compress"}
_OPTIONS = {"local": _FILES, "json-file": _FILES | {"labels", "labels-regex", "env", "env-regex", "tag"}}
_MODES = ("", "blocking", "non-blocking")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtT]?)(?:i?[bB])?\Z")
# What Docker's local driver keeps: five compressed files of 20 MB.
_LOCAL_SIZE, _LOCAL_FILES = 20 << 20, 5
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
    options = log.config or {}
    _check_mode(options)
    for name in options:
        if name not in _OPTIONS[driver]:
            which = "log driver local" if driver == "local" else f"{driver} log driver"
            raise InvalidArgument(f"unknown log opt '{name}' for {which}")
    for name in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(name, ""))
        except re.error as error:
            raise InvalidArgument(f"invalid log opt {name}={options[name]}: error parsing regexp: {error}") from error
    files = options.get("max-file", "1")
    if not files.isdigit() or int(files) < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    size, count = _limits(driver, options, EngineConfig())
    if _boolean(options, "compress", False) and (size == 0 or count < 2):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")


def _check_mode(options: dict[str, str]) -> None:
    """A file is never waited for, so there is nothing to buffer; the options have to be Docker's all the same."""
    mode = options.get("mode", "")
    if mode not in _MODES:
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            parse_size(options["max-buffer-size"])
        except InvalidArgument as error:
            raise InvalidArgument(f"error parsing option max-buffer-size: {error.message}") from error


def _boolean(options: dict[str, str], name: str, otherwise: bool) -> bool:
    text = options.get(name, "").lower()
    if text not in ("", "1", "t", "true", "0", "f", "false"):
        raise InvalidArgument(f"invalid log opt {name}={options[name]}: give true or false")
    return text in ("1", "t", "true") if text else otherwise


def _limits(driver: str, options: dict[str, str], engine: EngineConfig) -> tuple[int, int]:
    """Bytes of one file (0: without end), and how many files. max-size=-1 is without end; with a size alone one file is kept."""
    size, files = (_LOCAL_SIZE, _LOCAL_FILES) if driver == "local" else (engine.log_max_size, engine.log_max_files)
    if "max-size" in options:
        size = 0 if options["max-size"] == "-1" else parse_size(options["max-size"])
        files = files if driver == "local" else 1
    return size, int(options["max-file"]) if "max-file" in options else files


def with_defaults(log: HostConfigLogConfig | None, engine: EngineConfig) -> HostConfigLogConfig:
    """What a container gets: the engine's driver if it names none, and the engine's options if it has the same driver."""
    driver = (log.type if log else None) or engine.log_driver
    own = dict((log.config if log else None) or {})
    return HostConfigLogConfig(type=driver, config={**engine.log_options, **own} if driver == engine.log_driver else own)


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
    size, files = _limits(driver, options, engine)
    compress = files > 1 and _boolean(options, "compress", driver == "local")
    return LogPlan(driver=driver, path=path, max_size=size, max_files=files, compress=compress, attributes=attributes)
