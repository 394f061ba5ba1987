"""`berth-runtime`: the OCI runtime command line, as runc's users know it.

Started by the script `berth-runtime` with an interpreter that has imported nothing; each command imports what it needs.
"""

from __future__ import annotations

import gc
import os
import sys

from berth.errors import BerthError, InvalidArgument, NotImplementedKind
from berth.runtime.failure import Failure
from berth.runtime.oci import usage
from berth.runtime.oci.journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from berth.runtime.oci.usage import Options

    Command = Callable[[str, Options, Journal], int]

ROOT = "/run/berth-runtime"


def main() -> NoReturn:
    """The command. Ends without taking the interpreter down, which takes longer than some commands."""
    code = 1
    # There is no time for cycles to matter in, and memory that nobody touches stays shared with init.
    gc.disable()
    try:
        code = run(sys.argv[1:])
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def run(words: list[str]) -> int:
    """The exit code of a command line."""
    journal = Journal("", "text", False)
    command = ""
    try:
        options = usage.read(usage.GLOBAL, words)
        if "version" in options:
            return _version()
        if "help" in options or not options.arguments or options.arguments[0] in ("help", "h"):
            sys.stdout.write(usage.help_text())
            return 0
        journal = _journal(options)
        command, *rest = options.arguments
        journal.debug(f"command {' '.join(options.arguments)}")
        _check(options)
        if command not in usage.COMMANDS:
            journal.error(f"No help topic for '{command}'")
            return 3
        return _run(command, rest, os.path.abspath(options.text("root", ROOT)), journal)
    except BerthError as error:
        journal.error(_prefix(command, error) + error.message)
    except Failure as failure:
        from berth.runtime.oci.create import words as told

        journal.error(_prefix(command, failure) + told(failure))
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        journal.error(f"{_prefix(command, error)}{name}{(error.strerror or str(error)).lower()}")
    return 255 if command == "exec" else 1


def _prefix(command: str, error: Exception) -> str:
    if isinstance(error, NotImplementedKind):
        return f"{command}: " if command else ""
    return {"run": "berth-runtime run failed: ", "create": "berth-runtime create failed: ", "exec": "exec failed: "}.get(
        command, ""
    )


def _journal(options: Options) -> Journal:
    form = options.text("log-format", "text")
    if form not in ("text", "json"):
        raise InvalidArgument(f'invalid log-format "{form}": text and json are known')
    log = options.text("log")
    return Journal("" if log == "/dev/stderr" else log, form, "debug" in options)


def _check(options: Options) -> None:
    if "systemd-cgroup" in options:
        raise NotImplementedKind(
            "--systemd-cgroup is not supported: configure the engine's cgroupfs driver (native.cgroupdriver=cgroupfs)"
        )
    if options.text("rootless", "auto") == "true":
        raise NotImplementedKind("--rootless true is not supported: run as root, with a user namespace in the bundle")


def _version() -> int:
    from berth.model.version import VERSION as OWN
    from berth.runtime.oci.bundle import VERSION

    sys.stdout.write(f"berth-runtime version {OWN}\nspec: {VERSION}\n")
    return 0


def _run(command: str, words: list[str], root: str, journal: Journal) -> int:
    flags, least, most, _, _ = usage.COMMANDS[command]
    options = usage.read([*flags, ("help h", "", "show help")], words)
    if "help" in options:
        sys.stdout.write(usage.help_text(command))
        return 0
    count = len(options.arguments)
    if count < least or (0 <= most < count):
        sys.stdout.write(f"Incorrect Usage.\n\n{usage.help_text(command)}\n")
        wanted = f"exactly {least}" if least == most else f"a minimum of {least}"
        raise InvalidArgument(f'berth-runtime: "{command}" requires {wanted} argument(s)')
    return _find(command)(root, options, journal)


def _find(command: str) -> Command:
    """The function of a command; imported now, since most of what the others need takes time to import."""
    if command in ("create", "run", "start", "delete"):
        from berth.runtime.oci import create

        found: Command = getattr(create, command)
        return found
    if command == "exec":
        from berth.runtime.oci import execution

        return execution.exec
    from berth.runtime.oci import control

    if command in ("spec", "features", "steps"):
        from berth.runtime.oci import description

        found = getattr(description, command)
    else:
        found = getattr(control, "show" if command == "state" else command)
    return found
