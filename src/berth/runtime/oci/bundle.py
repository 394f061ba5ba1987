"""A bundle: its config.json read and checked, and the plan of a launch from it.

The plan is that of any launch (`runtime.plan`), changed where the OCI command line wants it otherwise: nothing is idmapped
that does not ask for it, hooks run, init may wait for start, and no death signal ties the container to this command.
"""

from __future__ import annotations

import os

from berth.errors import BerthError, InvalidArgument, NotImplementedKind
from berth.kernel.mount import MOUNT_ATTR_RDONLY
from berth.runtime import hook, label, plan
from berth.runtime.oci import document, jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from berth.model.oci import Process, Spec

_UNSUPPORTED = {
    ("solaris",): "it is for another system",
    ("windows",): "it is for another system",
    ("vm",): "it is for virtual machines",
    ("zos",): "it is for another system",
    ("freebsd",): "it is for another system",
    ("linux", "intelRdt"): "cache and memory bandwidth allocation (resctrl) is not supported: remove it from the bundle",
    ("linux", "netDevices"): "moving network devices of the host is not supported: use a hook, or a network namespace with them",
    ("linux", "memoryPolicy"): "NUMA memory policies are not supported: use linux.resources.cpu.mems",
    ("linux", "resources", "rdma"): "the rdma control group is not supported",
    ("linux", "resources", "network"): "classes and priorities of traffic are not supported: control groups version 2 have none",
    ("process", "execCPUAffinity"): "it is not supported: use linux.resources.cpu.cpus",
}
# Stages in the order in which they run, and who runs them.
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
VERSION = "1.2.0"
_CGROUPS = "/sys/fs/cgroup"
_SPECIFICATIONS = ("1.0", "1.1", "1.2", "1.3")


class Bundle:
    """`directory` is absolute, `hooks` are the document's by stage, `spec` has the attributes of `model.oci.Spec`."""

    def __init__(self, directory: str, raw: dict[str, Any]) -> None:
        self.directory = directory
        self.spec: Spec = document.read(raw, document.SPEC, "")
        self.hooks: dict[str, list[dict[str, Any]]] = {stage: _hooks(raw, stage) for stage in HOOKS}

    @property
    def rootfs(self) -> str:
        """The absolute path of the root filesystem."""
        return os.path.normpath(os.path.join(self.directory, self.spec.root.path))


class Wish:
    """What the command line adds to a bundle."""

    def __init__(self, root: str, id: str) -> None:
        self.root = root
        self.id = id
        self.keyring = True
        self.pivot = True
        self.preserve = 0
        # Descriptors that init inherits; -1 for none. See runtime.bundle_steps and runtime.trampoline.
        self.hold = -1
        self.runtime_hooks = -1
        self.listener = -1
        self.program = -1

    @property
    def report(self) -> int:
        """The descriptor on which the trampoline tells why execve failed: not one that goes along, nor the trampoline itself."""
        return 3 + self.preserve + (self.program == 3 + self.preserve)

    @property
    def work(self) -> str:
        """Where compiled filters and mount points are, beside the containers' directories."""
        return self.root + "/.berth"


def read(directory: str) -> Bundle:
    """The bundle in a directory. InvalidArgument, or NotImplementedKind, names what it asks for in vain."""
    path = directory + "/config.json"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        if not os.path.isdir(directory):
            raise InvalidArgument(f"chdir {directory}: no such file or directory") from None
        raise InvalidArgument("JSON specification file config.json not found") from None
    try:
        raw = jsontext.decode(text)
        if not isinstance(raw, dict):
            raise InvalidArgument("an object is expected")
        bundle = Bundle(directory, raw)
        _check(raw, bundle.spec)
    except (ValueError, BerthError) as error:
        kind = type(error) if isinstance(error, BerthError) else InvalidArgument
        raise kind(f"{path}: {error}") from None
    return bundle


def _check(raw: dict[str, Any], spec: Spec) -> None:
    for names, reason in _UNSUPPORTED.items():
        value: Any = raw
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        # A class of traffic of 0 is none, and a device without a new name is one.
        if any(each not in (None, 0, []) for each in value.values()) if isinstance(value, dict) else value:
            raise NotImplementedKind(f"{'.'.join(names)}: {reason}")
    if spec.oci_version.rpartition(".")[0] not in _SPECIFICATIONS and not spec.oci_version.startswith(_SPECIFICATIONS):
        raise InvalidArgument(f"ociVersion {spec.oci_version} is unknown: {', '.join(_SPECIFICATIONS)} are supported")
    if any(entry.type == "mount" and entry.path for entry in spec.linux.namespaces):
        raise NotImplementedKind("a mount namespace with a path is not supported: the root filesystem would be made in another's")


def _hooks(raw: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    found = (raw.get("hooks") or {}).get(stage) or []
    for entry in found:
        if not isinstance(entry, dict) or not str(entry.get("path", "")).startswith("/"):
            raise InvalidArgument(f"hooks.{stage}: path must be absolute")
    return list(found)


class _Request:
    """What `plan.Compiler.launch` asks of a LaunchRequest."""

    network = None
    init = False
    bind_files = ()

    def __init__(self, id: str, spec: Spec) -> None:
        self.id = id
        self.spec = spec
        self.user, self.groups = _user(spec.process)
        self.io = _Streams(spec.process)


class _ExecRequest:
    """What `plan.Compiler.exec` asks of an ExecRequest."""

    privileged = False

    def __init__(self, id: str, process: Process) -> None:
        self.id = id
        self.process = process
        self.user, self.groups = _user(process)
        streams = _Streams(process)
        self.terminal, self.height, self.width = streams.terminal, streams.height, streams.width


class _Streams:
    def __init__(self, process: Process) -> None:
        size = process.console_size
        self.terminal = process.terminal
        self.height = size.height if size else 0
        self.width = size.width if size else 0


def _user(process: Process) -> tuple[str, tuple[str, ...]]:
    """Numbers only: the specification knows no names."""
    user = process.user
    return f"{user.uid}:{user.gid}", tuple(str(gid) for gid in user.additional_gids)


def compile_launch(bundle: Bundle, wish: Wish) -> plan.Plan:
    """The plan of a launch."""
    spec = bundle.spec
    # Without a path of the bundle's own, the group is named as the container.
    spec.linux.__dict__["cgroups_path"] = cgroup_path(spec.linux.cgroups_path, wish.id)
    compiler = plan.Compiler(wish.work, wish.work)
    request: Any = _Request(wish.id, spec)
    compiled = compiler.launch(request, bundle.rootfs)
    compiled["state"]["namespaces"] |= compiled["namespaces"]["new"]
    _show_own_groups(compiled, spec)
    _adapt_sources(compiled)
    if spec.linux.mount_label:
        label.mark(compiled, spec.linux.mount_label)
    _adapt_steps(compiled, bundle, wish)
    return compiled


def cgroup_path(path: str | None, id: str) -> str:
    """cgroupsPath, absolute. A relative one is below the root group, as the specification leaves it to the runtime."""
    if path and path.count(":") == 2 and not path.startswith("/"):
        raise NotImplementedKind(f"cgroupsPath {path}: the form of systemd (slice:prefix:name) is not supported, use a path")
    absolute = "/" + (path or id).strip("/")
    if absolute == "/":
        raise InvalidArgument("cgroupsPath: the root group is not a container's")
    return absolute


def _adapt_sources(compiled: plan.Plan) -> None:
    """The bundle's owner has given every file the ids that it shall have: only what asks for it is idmapped."""
    for source in compiled["sources"]:
        if source["kind"] == "bind" and source["idmap"] is None:
            source["idmap"] = False


def _show_own_groups(compiled: plan.Plan, spec: Spec) -> None:
    """Without a cgroup namespace, on v1: the container's own groups at /sys/fs/cgroup, where programs look for their limits."""
    roots = compiled["cgroup"]["roots"]
    if not roots or any(entry.type == "cgroup" for entry in spec.linux.namespaces):
        return
    steps, sources = compiled["steps"], compiled["sources"]
    for index, (name, arguments) in enumerate(steps):
        whole = sources[arguments["source"]] if name == "attach" else {}
        if whole.get("path") == _CGROUPS:
            target = arguments["target"]
            options = [["mode", "755"], ["size", "64k"]]
            top = {
                "target": target,
                "kind": "tmpfs",
                "name": "cgroup",
                "options": options,
                "attributes": whole["attributes"] & ~MOUNT_ATTR_RDONLY,
            }
            added: list[Any] = [["mount", top]]
            for root in dict.fromkeys(roots.values()):
                place = {**arguments, "target": f"{target}/{root.rpartition('/')[2]}", "source": len(sources)}
                sources.append({**whole, "path": root + compiled["cgroup"]["path"], "recursive": False, "deep": False})
                added.append(["attach", place])
            steps[index : index + 1] = added
            return


def _adapt_steps(compiled: plan.Plan, bundle: Bundle, wish: Wish) -> None:
    steps = compiled["steps"]
    early: list[Any] = [["host-pid", {}]]
    if wish.keyring:
        early.append(["keyring", {"name": f"_ses.{wish.id}"}])
    if wish.runtime_hooks >= 0:
        early.append(["runtime-hooks", {"fd": wish.runtime_hooks}])
    early += _hook_steps(bundle, wish.id, "createContainer", "creating")
    labels = [step for step in steps if step[0] == "label"]
    steps[:] = [step for step in steps if step[0] != "label"]
    steps[_place(steps, "pivot") : _place(steps, "pivot")] = early
    steps[_place(steps, "pivot")][1]["chroot"] = not wish.pivot
    if wish.hold >= 0:
        steps.insert(_place(steps, "user") + 1, ["hold", {"fd": wish.hold, "program": bundle.spec.process.args[0]}])
    if wish.listener >= 0:
        steps[_place(steps, "seccomp")][1]["listener"] = {"fd": wish.listener, "text": _listener_text(bundle, wish.id)}
    _keep_descriptors(steps, wish)
    _clip_ambient(steps)
    steps[-1:] = [*_hook_steps(bundle, wish.id, "startContainer", "created"), *labels, _leave(steps[-1], wish)]


def _place(steps: list[Any], name: str) -> int:
    return next(index for index, step in enumerate(steps) if step[0] == name)


def _hook_steps(bundle: Bundle, id: str, stage: str, status: str) -> list[Any]:
    found = bundle.hooks[stage]
    return [["hooks", {"stage": stage, "hooks": found, "text": state_text(bundle, id, status)}]] if found else []


def _keep_descriptors(steps: list[Any], wish: Wish) -> None:
    """Those that are passed on are known before a filter closes the rest."""
    for name, arguments in steps:
        if name == "seccomp":
            arguments["first"] = 3 + wish.preserve


def _clip_ambient(steps: list[Any]) -> None:
    """The kernel wants ambient capabilities to be inheritable too; bundles with more of them are common, and start with runc."""
    sets = steps[_place(steps, "capabilities")][1]
    sets["ambient"] &= sets["inheritable"] & sets["permitted"]


def _leave(execve: list[Any], wish: Wish) -> list[Any]:
    """Instead of execve: nothing dies with this command, and the interpreter's file is out of reach."""
    values = {"args": execve[1]["args"], "program": wish.program, "report": wish.report, "preserve": wish.preserve}
    return ["leave", values]


def state_text(bundle: Bundle, id: str, status: str) -> str:
    """The state that hooks get, with a place for the process id (see `runtime.hook`)."""
    return jsontext.encode(_state(bundle, id, status))


def _state(bundle: Bundle, id: str, status: str) -> dict[str, Any]:
    values = {"ociVersion": VERSION, "id": id, "status": status, "pid": hook.PID, "bundle": bundle.directory}
    return {**values, "annotations": bundle.spec.annotations}


def _listener_text(bundle: Bundle, id: str) -> str:
    seccomp = bundle.spec.linux.seccomp
    metadata = (seccomp.listener_metadata if seccomp else None) or ""
    process = {"ociVersion": VERSION, "fds": ["seccompFd"], "pid": hook.PID, "metadata": metadata}
    return jsontext.encode({**process, "state": _state(bundle, id, "creating")})


def compile_exec(process: Process, wish: Wish) -> plan.Plan:
    """The plan of a further process."""
    compiler = plan.Compiler(wish.work, wish.work)
    request: Any = _ExecRequest(wish.id, process)
    compiled = compiler.exec(request)
    steps = compiled["steps"]
    _keep_descriptors(steps, wish)
    _clip_ambient(steps)
    steps[-1] = _leave(steps[-1], wish)
    return compiled
