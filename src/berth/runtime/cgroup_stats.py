"""Readings of a control group as contract.runtime.Stats, for both versions. For the engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from berth.contract.runtime import Stats
from berth.kernel.file import read_text
from berth.runtime.cgroup import directory

if TYPE_CHECKING:
    from berth.runtime.cgroup import Group

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_UNLIMITED_V1 = 0x7FFFFFFFFFFFF000
_BLKIO_V1 = {
    "io_service_bytes_recursive": ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"),
    "io_serviced_recursive": ("blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"),
}
_IO_V2 = {
    "io_service_bytes_recursive": (("rbytes", "read"), ("wbytes", "write"), ("dbytes", "discard")),
    "io_serviced_recursive": (("rios", "read"), ("wios", "write"), ("dios", "discard")),
}

Blkio = dict[str, tuple[tuple[int, int, str, int], ...]]


def read(group: Group) -> Stats:
    """One reading. What the host does not count is 0. FileNotFoundError when the group is gone."""
    values: dict[str, object] = {}
    for controller, one, two in (
        ("cpu", _cpu_v1, _cpu_v2),
        ("memory", _memory_v1, _memory_v2),
        ("pids", _pids, _pids),
        ("blkio", _blkio_v1, _io_v2),
    ):
        reader: Callable[[str], dict[str, object]]
        if controller in group["roots"]:
            reader = one
        elif group["v2"]:
            reader = two
        else:
            continue
        values.update(reader(directory(group, controller)))
        if controller == "cpu" and "cpuacct" in group["roots"]:
            values.update(_cpuacct_v1(directory(group, "cpuacct")))
    return Stats(**values)  # type: ignore[arg-type]


def _number(path: str) -> int:
    try:
        text = read_text(path).strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def _pairs(path: str) -> dict[str, int]:
    try:
        lines = read_text(path).splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.strip().isdigit()}


def _cpu_v1(path: str) -> dict[str, object]:
    stat = _pairs(path + "/cpu.stat")
    return {
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
        "throttled_time": stat.get("throttled_time", 0),
    }


def _cpuacct_v1(path: str) -> dict[str, object]:
    stat = _pairs(path + "/cpuacct.stat")
    return {
        "cpu_total": int(read_text(path + "/cpuacct.usage")),
        "percpu": tuple(int(value) for value in read_text(path + "/cpuacct.usage_percpu").split()),
        "cpu_user": stat.get("user", 0) * _TICK,
        "cpu_system": stat.get("system", 0) * _TICK,
    }


def _cpu_v2(path: str) -> dict[str, object]:
    stat = _pairs(path + "/cpu.stat")
    return {
        "cpu_total": stat.get("usage_usec", 0) * 1000,
        "cpu_user": stat.get("user_usec", 0) * 1000,
        "cpu_system": stat.get("system_usec", 0) * 1000,
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
        "throttled_time": stat.get("throttled_usec", 0) * 1000,
    }


def _memory_v1(path: str) -> dict[str, object]:
    limit = _number(path + "/memory.limit_in_bytes")
    return {
        "memory_usage": int(read_text(path + "/memory.usage_in_bytes")),
        "memory_max_usage": _number(path + "/memory.max_usage_in_bytes"),
        "memory_limit": 0 if limit >= _UNLIMITED_V1 else limit,
        "memory_failcnt": _number(path + "/memory.failcnt"),
        "memory_stats": _pairs(path + "/memory.stat"),
    }


def _memory_v2(path: str) -> dict[str, object]:
    return {
        "memory_usage": _number(path + "/memory.current"),
        "memory_max_usage": _number(path + "/memory.peak"),
        "memory_limit": _number(path + "/memory.max"),
        "memory_failcnt": _pairs(path + "/memory.events").get("oom", 0),
        "memory_stats": _pairs(path + "/memory.stat"),
    }


def _pids(path: str) -> dict[str, object]:
    return {"pids_current": _number(path + "/pids.current"), "pids_limit": _number(path + "/pids.max")}


def _blkio_v1(path: str) -> dict[str, object]:
    found: Blkio = {}
    for key, names in _BLKIO_V1.items():
        for name in names:
            if os.path.exists(f"{path}/{name}"):
                found[key] = tuple(parse_blkio(read_text(f"{path}/{name}")))
                break
    return {"blkio": found}


def parse_blkio(text: str) -> list[tuple[int, int, str, int]]:
    """(major, minor, operation, value) of lines like "8:0 Read 4096"; the total at the end has no device."""
    entries = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            major, minor = words[0].split(":")
            entries.append((int(major), int(minor), words[1].lower(), int(words[2])))
    return entries


def _io_v2(path: str) -> dict[str, object]:
    try:
        text = read_text(path + "/io.stat")
    except OSError:
        return {"blkio": {}}
    return {"blkio": parse_io(text)}


def parse_io(text: str) -> Blkio:
    """io.stat lines like "8:0 rbytes=1 wbytes=2 rios=3 wios=4" in the shape of cgroup v1."""
    found: dict[str, list[tuple[int, int, str, int]]] = {key: [] for key in _IO_V2}
    for line in text.splitlines():
        device, *pairs = line.split()
        major, minor = (int(part) for part in device.split(":"))
        values = {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs) if value.isdigit()}
        for key, columns in _IO_V2.items():
            found[key] += [(major, minor, operation, values[column]) for column, operation in columns if column in values]
    return {key: tuple(entries) for key, entries in found.items()}
