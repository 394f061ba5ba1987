"""`berth-runtime`: the launch half by hand, on OCI bundles.

berth-runtime steps --bundle DIR        what a launch would do, as text, one action per line
berth-runtime run --bundle DIR ID       run it in the foreground; the exit code is the program's
berth-runtime features                  what this runtime can do, as the specification's features document
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import termios
import tty
from importlib.metadata import version
from typing import Any

import msgspec

from berth.contract.runtime import IOPlan, LaunchRequest
from berth.errors import BerthError, InvalidArgument, NotFound, NotImplementedKind
from berth.kernel import capability, namespace, terminal
from berth.kernel import seccomp as filters
from berth.model.oci import Spec
from berth.model.rootfs import Overlay
from berth.runtime import guard, launch, mount_options, plan, process_exit

_STATE = "/run/berth-runtime"
_LATER = ("create", "start", "state", "kill", "delete", "exec", "list", "events", "pause", "resume", "update", "ps", "spec")
_UNSUPPORTED = (
    ("hooks",),
    ("solaris",),
    ("windows",),
    ("vm",),
    ("process", "apparmorProfile"),
    ("process", "selinuxLabel"),
    ("process", "scheduler"),
    ("process", "ioPriority"),
    ("linux", "intelRdt"),
    ("linux", "personality"),
    ("linux", "timeOffsets"),
    ("linux", "mountLabel"),
)
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """The command."""
    if "run" in sys.argv[1:]:
        guard.execute_read_only()
    arguments = _parser().parse_args()
    try:
        code = _command(arguments)
    except BerthError as error:
        print(f"berth-runtime: {error.message}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="berth-runtime", description="Run OCI bundles with berth's launch code.")
    parser.add_argument("--version", action="version", version=f"berth-runtime {version('berth-engine')}")
    parser.add_argument("--root", default=_STATE, help="directory for state (default %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("steps", "show what a launch would do"), ("run", "run a bundle in the foreground")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--bundle", "-b", default=".", help="directory with config.json (default: this one)")
        if name == "run":
            command.add_argument("id")
    commands.add_parser("features", help="what this runtime supports, as JSON")
    for name in _LATER:
        commands.add_parser(name).add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _command(arguments: argparse.Namespace) -> int:
    if arguments.command == "features":
        print(json.dumps(features(), indent=2))
        return 0
    if arguments.command in _LATER:
        raise NotImplementedKind(f"{arguments.command} is not supported yet: steps, run and features are")
    bundle = os.path.abspath(arguments.bundle)
    spec = read_bundle(bundle)
    id = arguments.id if arguments.command == "run" else "steps"
    compiled = compile_bundle(bundle, spec, id, arguments.root)
    if arguments.command == "steps":
        sys.stdout.write(plan.describe(compiled))
        return 0
    return _run(compiled, arguments.root)


def read_bundle(bundle: str) -> Spec:
    """config.json of a bundle. NotFound, InvalidArgument, or NotImplementedKind naming what it asks for."""
    path = bundle + "/config.json"
    try:
        with open(path, "rb") as file:
            document = file.read()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist: name a bundle with --bundle") from None
    try:
        raw: Any = msgspec.json.decode(document)
        spec = msgspec.json.decode(document, type=Spec)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"{path}: {error}") from None
    for names in _UNSUPPORTED:
        value = raw
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value:
            raise NotImplementedKind(f"{path}: {'.'.join(names)} is not supported")
    return spec


def compile_bundle(bundle: str, spec: Spec, id: str, state: str) -> plan.Plan:
    """The plan for a bundle. The user is the specification's numbers, never a name of the image's."""
    if not id or not all(character.isalnum() or character in "_+-." for character in id) or id.startswith("."):
        raise InvalidArgument(f"invalid container id {id!r}")
    size = spec.process.console_size
    user = spec.process.user
    request = LaunchRequest(
        id=id,
        spec=spec,
        rootfs=Overlay(store=state, layers=()),
        directory=bundle,
        user=f"{user.uid}:{user.gid}",
        groups=tuple(str(gid) for gid in user.additional_gids),
        io=IOPlan(terminal=spec.process.terminal, height=size.height if size else 0, width=size.width if size else 0),
    )
    return plan.Compiler(state, state).launch(request, os.path.join(bundle, spec.root.path))


def features() -> dict[str, Any]:
    """The features document of the runtime specification."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": [],
        "mountOptions": sorted(mount_options.names()),
        "linux": {
            "namespaces": sorted(set(namespace.FLAGS) - {"time"}),
            "capabilities": list(capability.NUMBERS),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": sorted(filters.ACTIONS),
                "operators": sorted(filters.OPERATORS),
                "archs": sorted(filters.ARCHITECTURES),
                "knownFlags": sorted(filters.FILTER_FLAGS),
                "supportedFlags": sorted(filters.FILTER_FLAGS),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    }


def _run(compiled: plan.Plan, state: str) -> int:
    os.makedirs(state, 0o700, exist_ok=True)
    launch.prepare_launcher(state)
    try:
        started = launch.start(compiled, None if compiled["terminal"] else (0, 1, 2), {})
    except launch.Failure as failure:
        message = plan.failure_message(failure.step, failure.errno, failure.path)
        print(f"berth-runtime: {message}", file=sys.stderr)
        return process_exit.code_of_failure(failure.step, failure.errno)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: os.kill(started.pid, received))
    try:
        if started.console is not None:
            _relay(started.console)
        _, status = os.waitpid(started.pid, 0)
    finally:
        launch.cleanup(started.state)
    return process_exit.code_of_status(status)


def _relay(console: int) -> None:
    """Between our terminal, in raw mode, and the container's, until that one ends."""
    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        tty.setraw(0)
        size = os.get_terminal_size(0)
        terminal.set_size(console, size.lines, size.columns)
    inputs = [0, console]
    try:
        while True:
            ready, _, _ = select.select(inputs, [], [])
            if console in ready and not _copy(console, 1):
                return
            if 0 in ready and not _copy(0, console):
                inputs.remove(0)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _copy(source: int, target: int) -> bool:
    try:
        data = os.read(source, 65536)
    except OSError:
        # the other side of a terminal has gone
        return False
    if not data:
        return False
    while data:
        data = data[os.write(target, data) :]
    return True


if __name__ == "__main__":
    main()
