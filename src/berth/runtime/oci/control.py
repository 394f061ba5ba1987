"""The commands on containers that exist, but for exec: state, kill, list, ps, pause, resume, update, events, and refusals."""

from __future__ import annotations

import os
import sys

from berth.errors import Conflict, InvalidArgument, NotImplementedKind
from berth.kernel.file import write_text
from berth.runtime import cgroup, cgroup_limits
from berth.runtime.oci import document, jsontext, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from berth.runtime.oci.journal import Journal
    from berth.runtime.oci.state import Container
    from berth.runtime.oci.usage import Options
else:
    import _signal

_WAYS = {"memory": "limit", "memory-reservation": "reservation", "memory-swap": "swap"}
_CPU = {
    "cpu-period": "period",
    "cpu-quota": "quota",
    "cpu-share": "shares",
    "cpu-rt-period": "realtimePeriod",
    "cpu-rt-runtime": "realtimeRuntime",
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def show(root: str, options: Options, journal: Journal) -> int:
    """state."""
    sys.stdout.write(jsontext.encode(state.load(root, options.arguments[0]).document(), indent=2))
    return 0


def kill(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    container = state.load(root, options.arguments[0])
    number = signal_number(options.arguments[1] if len(options.arguments) > 1 else "TERM")
    if "all" in options:
        for pid in cgroup.pids(container.run["cgroup"]):
            _send(pid, number)
        return 0
    pid = container.pid
    if not pid:
        raise Conflict("container not running")
    _send(pid, number)
    return 0


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def signal_number(text: str) -> int:
    """15, TERM or SIGTERM, RTMIN+3. InvalidArgument."""
    name = text.upper().removeprefix("SIG")
    if text.isdigit() and int(text) <= 64:
        return int(text)
    base, plus, offset = name.partition("+")
    if base in ("RTMIN", "RTMAX") or not plus:
        number = getattr(_signal, "SIG" + base, None)
        if isinstance(number, int) and (not plus or offset.isdigit()) and not base.startswith("_"):
            return number + int(offset or 0)
    raise InvalidArgument(f'unknown signal "{text}"')


def list(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    form = options.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    found = [{**container.document(), "owner": _owner(container)} for container in state.every(root)]
    if "quiet" in options:
        sys.stdout.writelines(f"{entry['id']}\n" for entry in found)
    elif form == "json":
        sys.stdout.write((jsontext.encode(found) if found else "null") + "\n")
    else:
        names = ("id", "pid", "status", "bundle", "created", "owner")
        rows = [tuple(name.upper() for name in names)] + [tuple(str(entry[name]) for name in names) for entry in found]
        widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(names))]
        for row in rows:
            sys.stdout.write("".join(map(str.ljust, row, widths)).rstrip() + "\n")
    return 0


def _owner(container: Container) -> str:
    import pwd

    uid = os.stat(container.directory).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def ps(root: str, options: Options, journal: Journal) -> int:
    """The command: ps(1) of the host, filtered."""
    container = state.load(root, options.arguments[0])
    form = options.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    pids = sorted(cgroup.pids(container.run["cgroup"]))
    if form == "json":
        sys.stdout.write(jsontext.encode(pids) + "\n")
        return 0
    import subprocess

    try:
        done = subprocess.run(["ps", *(options.arguments[1:] or ["-ef"])], stdout=subprocess.PIPE, check=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Conflict(f"ps: {error}") from None
    title, *lines = done.stdout.splitlines()
    words = title.split()
    if "PID" not in words:
        raise InvalidArgument("couldn't find PID field in ps output")
    column = words.index("PID")
    sys.stdout.write(title + "\n")
    for line in lines:
        fields = line.split()
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            sys.stdout.write(line + "\n")
    return 0


def pause(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    container = state.load(root, options.arguments[0])
    container.require("running", "created")
    cgroup.freeze(container.run["cgroup"], True)
    return 0


def resume(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    container = state.load(root, options.arguments[0])
    if container.status() != "paused":
        raise Conflict("container not paused")
    cgroup.freeze(container.run["cgroup"], False)
    return 0


def update(root: str, options: Options, journal: Journal) -> int:
    """The command."""
    container = state.load(root, options.arguments[0])
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if name in options:
            raise NotImplementedKind(f"--{name}: cache and memory bandwidth allocation (resctrl) is not supported")
    resources: Any = document.read(_resources(options), document.RESOURCES, "resources")
    group = container.run["cgroup"]
    if not container.pid:
        raise Conflict("container not running")
    for controller, name, value, optional in cgroup_limits.ordered(group, resources):
        try:
            write_text(f"{cgroup.directory(group, controller)}/{name}", value)
        except OSError:
            if not optional:
                raise
    return 0


def _resources(options: Options) -> dict[str, Any]:
    if "resources" in options:
        path = options.text("resources")
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        try:
            raw: dict[str, Any] = jsontext.decode(b"".join(parts).decode())
        except ValueError as error:
            raise InvalidArgument(f"{path}: {error}") from None
        return raw
    memory = {key: options.number(flag) for flag, key in _WAYS.items()}
    cpu: dict[str, Any] = {key: options.number(flag) for flag, key in _CPU.items()}
    cpu |= {key: options.text(flag) or None for flag, key in (("cpuset-cpus", "cpus"), ("cpuset-mems", "mems"))}
    raw = {}
    if any(value is not None for value in memory.values()):
        raw["memory"] = memory
    if any(value is not None for value in cpu.values()):
        raw["cpu"] = cpu
    if "pids-limit" in options:
        raw["pids"] = {"limit": options.number("pids-limit")}
    if "blkio-weight" in options:
        raw["blockIO"] = {"weight": options.number("blkio-weight")}
    return raw


def events(root: str, options: Options, journal: Journal) -> int:
    """The command: one line of JSON per reading, and one whenever memory ran out."""
    container = state.load(root, options.arguments[0])
    if not container.pid:
        raise Conflict(f"container with id {container.id} is not running")
    from berth.runtime.oci import statistics

    if "stats" in options:
        sys.stdout.write(statistics.line(container) + "\n")
        return 0
    interval = duration(options.text("interval", "5s"))
    statistics.follow(container, interval)
    return 0


def duration(text: str) -> float:
    """Seconds of 500ms, 5s, 1m or 1h. InvalidArgument."""
    digits = text.rstrip("mhs")
    unit = text[len(digits) :]
    try:
        seconds = float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        raise InvalidArgument(f'invalid duration "{text}": write 500ms, 5s or 1m') from None
    if seconds <= 0:
        raise InvalidArgument("duration interval must be greater than 0")
    return seconds


def checkpoint(root: str, options: Options, journal: Journal) -> int:
    """Refused."""
    raise NotImplementedKind("it is not supported: there is no CRIU behind berth; pause and resume keep a container in memory")


restore = checkpoint
