"""exec: a further process in a container, from flags or from a process.json."""

from __future__ import annotations

from berth.errors import Conflict, InvalidArgument, NotImplementedKind
from berth.kernel.file import read_text
from berth.runtime import bundle_steps, label, launch, trampoline
from berth.runtime.oci import bundle as bundles
from berth.runtime.oci import console, document, jsontext, state
from berth.runtime.oci.create import preserved, protect, write_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.model.oci import Process
    from berth.runtime.oci.journal import Journal
    from berth.runtime.oci.state import Container
    from berth.runtime.oci.usage import Options

_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def exec(root: str, options: Options, journal: Journal) -> int:
    """The command. The exit code is the program's."""
    container = state.load(root, options.arguments[0])
    _check(container, options)
    process = _process(container, options)
    detached, socket = "detach" in options, options.text("console-socket")
    console.check(process.terminal, socket, detached or bool(socket))
    protect(process)
    wish = bundles.Wish(root, container.id)
    wish.preserve = preserved(options)
    if trampoline.available() and not label.of(process):
        wish.program = trampoline.prepare(3 + wish.preserve)
    bundle_steps.install()
    if not detached:
        console.hold_signals()
    compiled = bundles.compile_exec(process, wish)
    entered = launch.enter(container.run, compiled, None if process.terminal else (0, 1, 2))
    master = entered.console
    if master is not None and socket:
        console.hand_over(master, socket)
        master = None
    if "pid-file" in options:
        write_pid(options.text("pid-file"), entered.pid)
    return 0 if detached else console.attend(entered.pid, master)


def _check(container: Container, options: Options) -> None:
    status = container.status()
    if status in ("stopped", "creating"):
        raise Conflict(f"cannot exec in a {'stopped container' if status == 'stopped' else 'container that is being created'}")
    if status == "paused" and "ignore-paused" not in options:
        raise Conflict("cannot exec in a paused container (use --ignore-paused to override)")
    if options.text("cgroup", "/") not in ("/", "."):
        raise NotImplementedKind("exec --cgroup is not supported: a process is in the container's own group")


def _process(container: Container, options: Options) -> Process:
    bundle = jsontext.decode(read_text(container.values["bundle"] + "/config.json"))
    if (((bundle.get("linux") or {}).get("seccomp")) or {}).get("listenerPath"):
        raise NotImplementedKind("exec in a container whose seccomp filter has a listener is not supported")
    if "process" in options:
        path = options.text("process")
        try:
            raw = jsontext.decode(read_text(path))
        except ValueError as error:
            raise InvalidArgument(f"{path}: {error}") from None
    else:
        raw = bundle["process"]
        _apply(raw, options)
    process: Process = document.read(raw, document.PROCESS, "process")
    if not process.args:
        raise InvalidArgument("process args cannot be empty")
    return process


def _apply(raw: dict[str, Any], options: Options) -> None:
    """The flags, on top of what the container's own process has."""
    raw["args"] = options.arguments[1:]
    raw["terminal"] = "tty" in options
    raw.pop("consoleSize", None)
    # What the first process has for itself.
    for name in ("scheduler", "ioPriority"):
        raw.pop(name, None)
    raw["env"] = [*(raw.get("env") or []), *options.all("env")]
    if "cwd" in options:
        raw["cwd"] = options.text("cwd")
    if "apparmor" in options:
        raw["apparmorProfile"] = options.text("apparmor")
    if "process-label" in options:
        raw["selinuxLabel"] = options.text("process-label")
    if "no-new-privs" in options:
        raw["noNewPrivileges"] = True
    if "user" in options:
        uid, _, gid = options.text("user").partition(":")
        raw["user"] = {**(raw.get("user") or {}), "uid": _id(uid), **({"gid": _id(gid)} if gid else {})}
    if groups := options.all("additional-gids"):
        raw["user"] = {**(raw.get("user") or {}), "additionalGids": [_id(gid) for gid in groups]}
    if added := options.all("cap"):
        sets = raw.get("capabilities") or {}
        raw["capabilities"] = {**sets, **{name: [*(sets.get(name) or []), *added] for name in _SETS if name != "ambient"}}


def _id(text: str) -> int:
    if not text.isdigit():
        raise InvalidArgument(f'invalid id "{text}": numbers only, names of the image are the engine\'s to look up')
    return int(text)
