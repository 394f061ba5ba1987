"""GET /containers/{id}/top: the container's processes as ps on the host shows them, read from /proc.

Nothing of the container is executed. User ids are those that the container sees.
"""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Callable

from msgspec import Struct

from berth.errors import InvalidArgument

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(Struct, frozen=True, kw_only=True):
    """One line. Times in seconds; sizes in kibibytes."""

    pid: int
    ppid: int
    uid: int
    state: str
    tty: int
    cpu: float
    started: float
    vsz: int
    rss: int
    threads: int
    nice: int
    name: str
    command: str


def _boot_time() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return 0.0


def read_process(pid: int, uid_base: int) -> Process | None:
    """None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
        with open(f"/proc/{pid}/cmdline", "rb") as raw:
            command = raw.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = rest.split()
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        uid=uid - uid_base if uid >= uid_base else uid,
        state=fields[0],
        tty=int(fields[4]),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        started=_boot_time() + int(fields[19]) / _TICKS,
        vsz=int(fields[20]) // 1024,
        rss=int(fields[21]) * _PAGE // 1024,
        threads=int(fields[17]),
        nice=int(fields[16]),
        name=name,
        command=command or f"[{name}]",
    )


def _user(process: Process) -> str:
    try:
        return pwd.getpwuid(process.uid).pw_name
    except KeyError:
        return str(process.uid)


def _tty(process: Process) -> str:
    major, minor = os.major(process.tty), os.minor(process.tty)
    return "?" if process.tty == 0 else f"pts/{minor}" if 136 <= major <= 143 else f"tty{minor}"


def _clock(process: Process) -> str:
    total = int(process.cpu)
    return f"{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}"


def _short_clock(process: Process) -> str:
    return f"{int(process.cpu) // 60}:{int(process.cpu) % 60:02}"


def _start(process: Process) -> str:
    moment = time.localtime(process.started)
    return time.strftime("%H:%M" if time.time() - process.started < 86400 else "%b%d", moment)


def _percent(process: Process) -> str:
    return f"{100 * process.cpu / max(1.0, time.time() - process.started):.1f}"


def _memory_percent(process: Process) -> str:
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE // 1024
    return f"{100 * process.rss / total:.1f}"


def _elapsed(process: Process) -> str:
    total = max(0, int(time.time() - process.started))
    text = f"{total // 60 % 60:02}:{total % 60:02}"
    hours = f"{total // 3600 % 24:02}:" if total >= 3600 else ""
    return (f"{total // 86400}-" if total >= 86400 else "") + hours + text


_COLUMNS: dict[str, tuple[str, Callable[[Process], str]]] = {
    "pid": ("PID", lambda p: str(p.pid)),
    "ppid": ("PPID", lambda p: str(p.ppid)),
    "uid": ("UID", lambda p: str(p.uid)),
    "user": ("USER", _user),
    "euser": ("EUSER", _user),
    "c": ("C", lambda p: str(int(float(_percent(p))))),
    "stime": ("STIME", _start),
    "start": ("START", _start),
    "tty": ("TTY", _tty),
    "tt": ("TT", _tty),
    "time": ("TIME", _clock),
    "etime": ("ELAPSED", _elapsed),
    "stat": ("STAT", lambda p: p.state),
    "state": ("S", lambda p: p.state),
    "s": ("S", lambda p: p.state),
    "pcpu": ("%CPU", _percent),
    "%cpu": ("%CPU", _percent),
    "pmem": ("%MEM", _memory_percent),
    "%mem": ("%MEM", _memory_percent),
    "vsz": ("VSZ", lambda p: str(p.vsz)),
    "rss": ("RSS", lambda p: str(p.rss)),
    "ni": ("NI", lambda p: str(p.nice)),
    "nlwp": ("NLWP", lambda p: str(p.threads)),
    "comm": ("COMMAND", lambda p: p.name),
    "args": ("COMMAND", lambda p: p.command),
    "cmd": ("CMD", lambda p: p.command),
    "command": ("COMMAND", lambda p: p.command),
}
Column = tuple[str, Callable[[Process], str]]
_FULL: list[Column] = [("UID", _user), *(_COLUMNS[n] for n in ("pid", "ppid", "c", "stime", "tty", "time", "cmd"))]
_BSD: list[Column] = [
    *(_COLUMNS[n] for n in ("user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start")),
    ("TIME", _short_clock),
    _COLUMNS["command"],
]
# -o, alone or as the last of several letters: -eo pid,comm.
_FORMAT = re.compile(r"-[A-Za-z]*o\Z")
_SHORT: list[Column] = [_COLUMNS[n] for n in ("pid", "tty", "time")] + [("CMD", lambda p: p.name)]


def columns(arguments: str) -> list[Column]:
    """The columns that ps would print for these arguments (-ef, aux, -o a,b and their kin)."""
    words = arguments.split()
    chosen: list[Column] = []
    rest = iter(words)
    for word in rest:
        if word in ("o", "-O") or _FORMAT.match(word):
            names = next(rest, "")
        elif word.startswith(("-o", "--format=")):
            names = word.removeprefix("--format=").removeprefix("-o")
        else:
            names = ""
        if names:
            chosen += [_custom(name) for name in names.split(",") if name]
    if chosen:
        return chosen
    if not words or any(w.startswith("-") and "f" in w for w in words):
        return _FULL
    if any(not w.startswith("-") and "u" in w for w in words):
        return _BSD
    return _SHORT


def _custom(name: str) -> Column:
    key, equals, title = name.partition("=")
    if key.lower() not in _COLUMNS:
        raise InvalidArgument(f'ps: error: unknown user-defined format specifier "{key}"')
    found = _COLUMNS[key.lower()]
    return (title or found[0], found[1]) if equals else found


def table(pids: list[int], arguments: str, uid_base: int) -> tuple[list[str], list[list[str]]]:
    """Titles and rows."""
    chosen = columns(arguments)
    processes = [p for p in (read_process(pid, uid_base) for pid in sorted(pids)) if p is not None]
    return [title for title, _ in chosen], [[show(p) for _, show in chosen] for p in processes]
