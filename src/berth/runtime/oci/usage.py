"""The command line as data, and reading it the way runc does: flags first, as --name value, --name=value or -name."""

from __future__ import annotations

from berth.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Flag = tuple[str, str, str]

# A flag: its names, what its value is called ("" for a switch, with "..." for one that may be repeated), what it does.
GLOBAL: list[Flag] = [
    ("debug", "", "write debug messages to the log"),
    ("log", "FILE", "write errors to this file too"),
    ("log-format", "FORMAT", "text or json"),
    ("root", "DIR", "where the states of containers are (default: /run/berth-runtime)"),
    ("criu", "PATH", "accepted and not used: there are no checkpoints"),
    ("systemd-cgroup", "", "refused: control groups are made directly"),
    ("rootless", "VALUE", "false or auto; true is refused"),
    ("help h", "", "show help"),
    ("version v", "", "print the version"),
]
_BUNDLE: Flag = ("bundle b", "DIR", "directory with config.json (default: this one)")
_CONSOLE: Flag = ("console-socket", "SOCKET", "unix socket that gets the terminal's master descriptor")
_PID_FILE: Flag = ("pid-file", "FILE", "write the process id there")
_PRESERVE: Flag = ("preserve-fds", "N", "pass N descriptors above standard error on")
_CREATE: list[Flag] = [
    _BUNDLE,
    _CONSOLE,
    _PID_FILE,
    ("no-pivot", "", "do not use pivot_root: for a root filesystem on a ramdisk"),
    ("no-new-keyring", "", "keep the caller's session keyring"),
    _PRESERVE,
]
_RUN: list[Flag] = [
    *_CREATE,
    ("detach d", "", "do not wait for the end of the container"),
    ("keep", "", "do not delete the container after its end"),
    ("no-subreaper", "", "accepted: this command never is one"),
]
_EXEC: list[Flag] = [
    _CONSOLE,
    _PID_FILE,
    _PRESERVE,
    ("process p", "FILE", "process.json, instead of a command"),
    ("detach d", "", "do not wait for the end of the process"),
    ("tty t", "", "with a terminal"),
    ("user u", "UID[:GID]", "as this user"),
    ("additional-gids g", "GID...", "with these groups too"),
    ("cwd", "DIR", "in this directory"),
    ("env e", "NAME=VALUE...", "with these variables"),
    ("cap c", "CAPABILITY...", "with these capabilities too"),
    ("no-new-privs", "", "without new privileges by execve"),
    ("apparmor", "PROFILE", "with this profile"),
    ("process-label", "LABEL", "with this SELinux label"),
    ("ignore-paused", "", "also in a container that is paused"),
    ("cgroup", "PATH", "refused, but for the container's own"),
]
_UPDATE: list[Flag] = [
    ("resources r", "FILE", "linux.resources as JSON, - for standard input"),
    ("blkio-weight", "N", "block I/O weight, 10 to 1000"),
    ("cpu-period", "MICROSECONDS", "length of a CPU period"),
    ("cpu-quota", "MICROSECONDS", "CPU time in a period"),
    ("cpu-share", "N", "CPU shares"),
    ("cpu-rt-period", "MICROSECONDS", "length of a realtime period"),
    ("cpu-rt-runtime", "MICROSECONDS", "realtime in a period"),
    ("cpuset-cpus", "LIST", "CPUs"),
    ("cpuset-mems", "LIST", "memory nodes"),
    ("memory", "BYTES", "memory limit"),
    ("memory-reservation", "BYTES", "soft memory limit"),
    ("memory-swap", "BYTES", "limit of memory and swap together"),
    ("pids-limit", "N", "limit of processes"),
    ("kernel-memory", "BYTES", "accepted and not used, as kernels have it"),
    ("kernel-memory-tcp", "BYTES", "accepted and not used, as kernels have it"),
    ("l3-cache-schema", "SCHEMA", "refused"),
    ("mem-bw-schema", "SCHEMA", "refused"),
]
# A command: its flags, the least and the most positional arguments (-1: any number), what they are, what it does.
COMMANDS: dict[str, tuple[list[Flag], int, int, str, str]] = {
    "create": (_CREATE, 1, 1, "ID", "make a container that waits for start"),
    "start": ([], 1, 1, "ID", "run the program of a container that was made"),
    "run": (_RUN, 1, 1, "ID", "create and start; wait for its end unless detached"),
    "state": ([], 1, 1, "ID", "print a container's state"),
    "kill": ([("all a", "", "signal every process")], 1, 2, "ID [SIGNAL]", "signal a container's first process (default: TERM)"),
    "delete": ([("force f", "", "kill it first")], 1, 1, "ID", "remove what is left of a container"),
    "exec": (_EXEC, 1, -1, "ID [COMMAND [ARGUMENT...]]", "run a further process"),
    "list": ([("format f", "FORMAT", "table or json"), ("quiet q", "", "ids only")], 0, 0, "", "list containers"),
    "ps": ([("format f", "FORMAT", "table or json")], 1, -1, "ID [PS OPTION...]", "list a container's processes"),
    "pause": ([], 1, 1, "ID", "stop all processes of a container"),
    "resume": ([], 1, 1, "ID", "let them go on"),
    "update": (_UPDATE, 1, 1, "ID", "change a container's limits"),
    "events": (
        [("interval", "DURATION", "time between statistics (default: 5s)"), ("stats", "", "print statistics once")],
        1,
        1,
        "ID",
        "print statistics, and when memory ran out",
    ),
    "spec": ([_BUNDLE, ("rootless", "", "for a user without privileges")], 0, 0, "", "write a config.json to begin with"),
    "features": ([], 0, 0, "", "what this runtime can do, as JSON"),
    "steps": ([_BUNDLE], 0, 0, "", "what a launch would do, one action a line"),
    "checkpoint": ([("image-path", "DIR", "refused")], 0, -1, "ID", "refused: there are no checkpoints"),
    "restore": ([("image-path", "DIR", "refused")], 0, -1, "ID", "refused: there are no checkpoints"),
}


class Options:
    """Flags by name; a switch is True, a repeated flag a list. `arguments` are what is left."""

    def __init__(self, values: dict[str, Any], arguments: list[str]) -> None:
        self._values = values
        self.arguments = arguments

    def text(self, name: str, default: str = "") -> str:
        """The value, or the default when the flag was not given."""
        return str(self._values.get(name, default))

    def number(self, name: str) -> int | None:
        """The value as a number; None when the flag was not given. InvalidArgument."""
        if name not in self._values:
            return None
        text = self.text(name)
        try:
            return int(text, 0)
        except ValueError:
            raise InvalidArgument(f'invalid value "{text}" for flag -{name}: a number is expected') from None

    def all(self, name: str) -> list[str]:
        """The values of a flag that may be repeated."""
        return list(self._values.get(name, ()))

    def __contains__(self, name: str) -> bool:
        return name in self._values


def read(flags: list[Flag], words: list[str]) -> Options:
    """The flags up to the first word that is none. InvalidArgument as runc says it."""
    known = {name: (names.split()[0], value) for names, value, _ in flags for name in names.split()}
    values: dict[str, Any] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name not in known:
            raise InvalidArgument(f"flag provided but not defined: -{name}")
        name, kind = known[name]
        if not kind:
            if value not in ("false", "0"):
                values[name] = True
            continue
        if not equals:
            if not rest:
                raise InvalidArgument(f"flag needs an argument: -{name}")
            value = rest.pop(0)
        if kind.endswith("..."):
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return Options(values, rest)


def help_text(command: str = "") -> str:
    """What to type."""
    if command:
        flags, _, _, positional, text = COMMANDS[command]
        lines = [f"berth-runtime {command} [OPTION...] {positional}".rstrip(), text, ""]
    else:
        flags = GLOBAL
        lines = ["berth-runtime [OPTION...] COMMAND [OPTION...] [ARGUMENT...]", "Runs OCI bundles.", ""]
        lines += [f"  {name:<12} {entry[4]}" for name, entry in COMMANDS.items()]
        lines.append("")
    for names, value, text in flags:
        words = [("--" if len(name) > 1 else "-") + name for name in names.split()]
        lines.append(f"  {', '.join(words) + (' ' + value if value else ''):<32} {text}")
    return "\n".join(lines) + "\n"
